"""The tables of a snapshot as pg_dump writes them: definitions from one archive, rows from few."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from os.path import commonprefix
from pathlib import Path
from tempfile import mkdtemp

from backup.errors import BackupError
from backup.postgres.archive import Entry, read_archive
from backup.postgres.clients import Clients, quoted
from backup.postgres.database import Database
from backup.postgres.dependents import FUNCTIONS
from backup.postgres.snapshot import Count, Snapshot
from backup.postgres.surroundings import Surroundings
from backup.postgres.tables import Table, begins_with
from backup.session.rows import Written, count_copied, count_inserted

LARGEST_STATEMENT = 16 * 1024 * 1024
"""Bytes of INSERT text. psql holds a whole statement, some three times over, and one of over a gigabyte
cannot be restored at all."""

_ROWS_PER_INSERT = (100, 30, 10, 3, 1)
"""More than 100 make a restore no faster. Few steps, because each costs a pg_dump."""

_FEW = 20
"""Tables that are named one by one in any case."""

_LOCK_WAIT_MILLISECONDS = 10_000
"""The snapshot's connection holds the locks already; only what is in nobody's way is waited for."""

_TEXT_SETTINGS = {
    "standard_conforming_strings": "on",
    "quote_all_identifiers": "off",
    "bytea_output": "hex",
    "xmlbinary": "base64",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """A table's rows on the disk: SQL, or COPY text where `copy_statement` says what it is for.

    `count` is what the snapshot holds; `check_rows` tells whether the file does.
    """

    file: Path
    count: int
    copy_statement: str
    rows_per_insert: int


@dataclass(frozen=True, kw_only=True)
class Dump:
    """What pg_dump wrote: `entries` of the tables, `need_entries` of what they need, rows by OID.

    Both kinds of entries are in the order in which they can be restored.
    """

    entries: tuple[Entry, ...]
    need_entries: tuple[Entry, ...]
    rows: dict[int, Rows]


def dump_tables(
    snapshot: Snapshot,
    surroundings: Surroundings,
    *,
    database: Database,
    clients: Clients,
    folder: Path,
    jobs: int,
    copied: bool = False,
    layouts: Mapping[tuple[str, str], int] | None = None,
) -> Dump:
    """Write definitions and rows of the snapshot's tables into folders below `folder`.

    One pg_dump in parallel for the definitions and, as INSERT statements or COPY text, the rows. A second one for
    types, functions and the like, only where a table needs such a thing. Further ones, for all such tables
    together, where rows look too wide for 100 an INSERT, and as COPY where INSERT text would lose the
    sign of a float's `-0`. Nothing is counted here: what counts is what lies on the disk in the end (`check_rows`).

    Args:
        snapshot: the tables, at their moment.
        surroundings: what they need and what hangs on them.
        database: where they are.
        clients: whose pg_dump runs.
        folder: where to; it must exist.
        jobs: how many connections a pg_dump may use.
        copied: rows are written as COPY text.
        layouts: rows an INSERT, by schema and name, 0 for COPY; by what the rows look like unless given.

    Raises:
        BackupError: a pg_dump failed, or what it wrote is not what the snapshot holds.
    """
    run_pg_dump = partial(_run_pg_dump, snapshot, database, clients, jobs)
    waiting: dict[int, list[Table]] = defaultdict(list)
    for table in snapshot.tables:
        if table.oid in snapshot.counts and snapshot.counts[table.oid].rows:
            given = layouts.get((table.schema, table.name)) if layouts is not None else None
            guess = 0 if copied else _first_guess(snapshot.counts[table.oid])
            waiting[guess if given is None else given].append(table)

    main_layout = 0 if waiting.keys() == {0} else _ROWS_PER_INSERT[0]
    target, in_main = folder / "main", waiting.pop(main_layout, [])
    with ThreadPoolExecutor(max_workers=1) as background:
        need_entries = background.submit(_dump_needs, run_pg_dump, surroundings, folder / "needs")
        entries = run_pg_dump(
            target,
            *_format(main_layout),
            *_relation_patterns(snapshot, surroundings),
            *_patterns("--exclude-table-data", [table for tables in waiting.values() for table in tables]),
        )
        _refuse_gaps(snapshot, entries, target)
        rows = _find_rows(in_main, snapshot, entries, target, main_layout)
        for rows_per_insert, tables in waiting.items():
            target = folder / f"rows-{rows_per_insert}"
            rows |= _dump_rows(tables, snapshot, run_pg_dump, target, rows_per_insert)
        return Dump(entries=entries, need_entries=need_entries.result(), rows=rows)


def dump_again(
    snapshot: Snapshot,
    layouts: Mapping[int, Sequence[Table]],
    *,
    database: Database,
    clients: Clients,
    folder: Path,
    jobs: int,
) -> dict[int, Rows]:
    """The rows alone, by OID, of tables that are given by how many an INSERT may have, into a folder below `folder`.

    Raises:
        BackupError: a pg_dump failed.
    """
    run_pg_dump = partial(_run_pg_dump, snapshot, database, clients, jobs)
    place = Path(mkdtemp(dir=folder))
    rows: dict[int, Rows] = {}
    for rows_per_insert, tables in layouts.items():
        rows |= _dump_rows(tables, snapshot, run_pg_dump, place / str(rows_per_insert), rows_per_insert)
    return rows


def check_rows(table: Table, rows: Rows, written: Written) -> int | None:
    """Compare what was counted in the table's file; how many rows an INSERT may have at most, None where it is well.

    Raises:
        BackupError: pg_dump wrote fewer rows than the snapshot holds, or more.
    """
    if written.rows != rows.count:
        raise BackupError(
            f"{table} has {rows.count:,} rows in the snapshot, and pg_dump wrote {written.rows:,} of them.",
            untouched="No session was written.",
        )
    if written.largest_statement <= LARGEST_STATEMENT:
        return None
    return _step(rows.rows_per_insert * LARGEST_STATEMENT / written.largest_statement)


def _run_pg_dump(
    snapshot: Snapshot, database: Database, clients: Clients, jobs: int, folder: Path, *arguments: str
) -> tuple[Entry, ...]:
    """One pg_dump into `folder`, inside the snapshot; its table of contents."""
    differing = snapshot.connection.execute(
        "select s.name, s.value from unnest(%s::text[], %s::text[]) as s (name, value)"
        " where current_setting(s.name) <> s.value",
        [list(_TEXT_SETTINGS), list(_TEXT_SETTINGS.values())],
    ).fetchall()
    given = database.environment().get("PGOPTIONS", "")
    options = " ".join([given, *(f"-c {name}={value}" for name, value in differing)]).strip()
    clients.pg_dump(
        database,
        "--format=directory",
        f"--jobs={jobs}",
        "--compress=0",
        "--no-sync",
        "--encoding=UTF8",
        f"--lock-wait-timeout={_LOCK_WAIT_MILLISECONDS}",
        f"--snapshot={snapshot.id}",
        *arguments,
        target=folder,
        # A setting of the database or the role would show in the text; a scratch database does not have it.
        variables={"PGTZ": "UTC", **({"PGOPTIONS": options} if options else {})},
    )
    return read_archive(folder)


def _dump_needs(
    run_pg_dump: Callable[..., tuple[Entry, ...]], surroundings: Surroundings, folder: Path
) -> tuple[Entry, ...]:
    """The definitions of all that is no table, where any table needs some of it, or a function hangs on one."""
    needs = any(need.sequence is None for needs in surroundings.needs.values() for need in needs)
    functions = any(dependent.kind in FUNCTIONS for dependent in surroundings.dependents)
    return run_pg_dump(folder, "--schema-only", "--exclude-table=*.*") if needs or functions else ()


def _dump_rows(
    tables: Sequence[Table],
    snapshot: Snapshot,
    run_pg_dump: Callable[..., tuple[Entry, ...]],
    folder: Path,
    rows_per_insert: int,
) -> dict[int, Rows]:
    archive = run_pg_dump(folder, "--data-only", *_format(rows_per_insert), *_patterns("--table", tables))
    return _find_rows(tables, snapshot, archive, folder, rows_per_insert)


def _find_rows(
    tables: Sequence[Table], snapshot: Snapshot, archive: tuple[Entry, ...], folder: Path, rows_per_insert: int
) -> dict[int, Rows]:
    """Where the archive has the rows of `tables`, by OID; `rows_per_insert` is 0 for COPY text."""
    entries = {entry.oid: entry for entry in archive if entry.kind == "TABLE DATA"}
    found = {}
    for table in tables:
        entry = entries.get(table.oid)
        if entry is None or not (folder / entry.file).is_file():
            raise BackupError(f"pg_dump wrote nothing of {table}, which has rows.")
        found[table.oid] = Rows(
            file=folder / entry.file,
            count=snapshot.counts[table.oid].rows,
            copy_statement=entry.copy_statement,
            rows_per_insert=rows_per_insert,
        )
    return found


def _refuse_gaps(snapshot: Snapshot, entries: tuple[Entry, ...], folder: Path) -> None:
    """Refuse an archive that lacks a table's definition, or holds rows of a table that counted as empty."""
    defined = {entry.oid for entry in entries if entry.kind in ("TABLE", "FOREIGN TABLE")}
    lacking = [str(table) for table in snapshot.tables if table.oid not in defined]
    if lacking:
        raise BackupError(f"pg_dump wrote no definition of {', '.join(lacking)}.", untouched="No session was written.")
    empty = {oid for oid, count in snapshot.counts.items() if not count.rows}
    for entry in entries:
        file = folder / entry.file
        count = count_copied if entry.copy_statement else count_inserted
        if entry.kind == "TABLE DATA" and entry.oid in empty and file.is_file() and count(file).rows:
            raise BackupError(f"{entry.schema}.{entry.tag} is empty in the snapshot, and pg_dump wrote rows of it.")


def _first_guess(count: Count) -> int:
    """Rows an INSERT, from what a row takes on the server; text takes twice that, or more where it was compressed."""
    if count.negative_zero:
        return 0
    return _step(LARGEST_STATEMENT / (2 * count.bytes / count.rows))


def _step(rows_per_insert: float) -> int:
    return next((step for step in _ROWS_PER_INSERT if step <= rows_per_insert), 1)


def _format(rows_per_insert: int) -> tuple[str, ...]:
    return ("--column-inserts", f"--rows-per-insert={rows_per_insert}") if rows_per_insert else ()


def _patterns(option: str, tables: Sequence[Table]) -> Iterator[str]:
    """Options that name exactly these tables.

    Each is a query of pg_dump's: a whole name is looked up in the index of `pg_class`, several in one pattern are a
    regular expression that each name in the catalog is matched with.
    """
    return (f"{option}={quoted(table.schema)}.{quoted(table.name)}" for table in tables)


def _relation_patterns(snapshot: Snapshot, surroundings: Surroundings) -> Iterator[str]:
    """Options for all tables, and for what pg_dump takes like one: sequences that no column owns, views over them.

    Where nothing else in a schema begins as its tables do, that beginning stands for them: 500 options cost pg_dump as
    much as all the rest. It looks at the same snapshot.
    """
    wanted = {table.oid for table in snapshot.tables} | surroundings.sequences.keys()
    by_schema: dict[str, list[Table]] = defaultdict(list)
    for table in snapshot.tables:
        by_schema[table.schema].append(table)
    for schema, tables in by_schema.items():
        beginning = commonprefix([table.name for table in tables])  # noqa: RUF071 - of names, not of paths
        if len(tables) > _FEW and begins_with(snapshot.connection, schema, beginning) <= wanted:
            yield f"--table={quoted(schema)}.{quoted(beginning)}*"
        else:
            yield from _patterns("--table", tables)
    sequences = {need.sequence for needs in surroundings.needs.values() for need in needs if need.sequence}
    views = {dependent.view for dependent in surroundings.dependents if dependent.view}
    for schema, name in sorted(sequences | views):
        yield f"--table={quoted(schema)}.{quoted(name)}"
