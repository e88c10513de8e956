"""The proof of a session: restored on a scratch database from its own files, dumped again, compared."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import psycopg
from psycopg import sql

from backup.errors import BackupError, CDCBackupError, RestoreError, UndrilledError
from backup.postgres.clients import Clients, major
from backup.postgres.database import Database
from backup.postgres.fingerprint import add_fingerprints, fingerprint_tables
from backup.postgres.scratch import Scratch
from backup.postgres.snapshot import Snapshot, take_snapshot
from backup.postgres.surroundings import look_around
from backup.postgres.tables import find_tables_by
from backup.profile import step
from backup.session.contents import TableContents, definition_digest, sort_contents
from backup.session.delta_parts import read_delta, verify_delta
from backup.session.dump import dump_tables
from backup.session.folder import SavedTable, Session, new_session
from backup.session.plain import plain_files
from backup.session.restore import RestoreMode, restore_session
from backup.session.rows import digest_rows
from backup.session.sidecar import Drill, DrilledTable
from backup.session.undrilled import why_undrilled

_LOCK_TIMEOUT = 60.0
_CHUNK = 1024 * 1024
_UNQUALIFIED = (
    "If a function is at fault that names things without their schema, ALTER FUNCTION … SET search_path mends it. "
)
_EXPECTED = "came back NOT VALID"
"""What a foreign key says on a scratch database, where the other table is there but has no rows."""


def drill_session(session: Session, *, scratch: Scratch, clients: Clients, jobs: int) -> Drill:
    """Restore the session on the empty scratch database, dump it again, compare, and keep the result beside it.

    An empty database, with stand-ins for the tables that the session's speak of, is what a migration leaves
    at worst. Every row must be dumped to the same bytes, and, where both servers are of one major version,
    the definitions to the same text; else to the same columns and keys. The fingerprints are computed then.
    Where the session has a delta, the tables are dropped after that, and restored with it.

    Raises:
        BackupError: it is no proof; `problem` in the result that is kept says why.
        UndrilledError: nobody knows, because the server was lost or a disk is full; no result is kept.
    """
    problem, unproven, tables = "", "", tuple[DrilledTable, ...]()
    delta, delta_problem = False, ""
    try:
        with plain_files(session, {table.oid for table in session.manifest.tables}) as files:
            with step("restoring"):
                _make_context(session, scratch.database)
                unproven = _restore(session, files, scratch.database, clients)
            tables = _compare(session, files, scratch.database, clients, jobs)
            try:
                delta = _prove_delta(session, files, scratch.database, clients, tables)
            except (CDCBackupError, OSError) as error:
                if undrilled := why_undrilled(error, session, scratch):
                    raise undrilled from error
                delta_problem = str(error)
    except UndrilledError:
        raise
    except (CDCBackupError, OSError) as error:
        if undrilled := why_undrilled(error, session, scratch):
            raise undrilled from error
        problem = str(error)
    drill = Drill(
        moment=datetime.now(UTC),
        scratch=scratch.place,
        problem=problem,
        unproven=tuple(line for line in unproven.splitlines() if line.startswith("WARNING") and _EXPECTED not in line),
        tables=tables,
        delta=delta,
        delta_problem=delta_problem,
    )
    drill.write(session.path)
    if problem:
        raise BackupError(
            f"The session {session.name} is no proof against loss. Restored on {scratch.place}: {problem}",
            untouched=f"It is kept, and marked so, in {session.path}.",
            remedy=(_UNQUALIFIED if "does not exist" in problem else "") + "backup.drill: off goes on without a proof.",
        )
    if delta_problem:
        raise BackupError(
            f"The session {session.name} is proven; its delta is not. Restored on {scratch.place}: {delta_problem}",
            untouched=f"Both are kept, in {session.path} and beside it.",
            remedy="restore --mode aside, or --without-delta, may still bring back what can be brought back.",
        )
    return drill


def _prove_delta(
    session: Session, files: Path, database: Database, clients: Clients, drilled: Sequence[DrilledTable]
) -> bool:
    """Drop the tables, restore them with the delta, and compare with what it says; whether there is a delta.

    Of newer rows alone it is known what the table must be. That all merged rows are back, the restore
    itself has looked at.
    """
    delta = read_delta(session.path)
    if delta is None:
        return False
    tables = session.manifest.tables
    oids = frozenset(table.oid for table in tables)
    verify_delta(session, delta, oids)
    prints = {(table.schema_name, table.name): table.fingerprint for table in drilled}
    before = {t.oid: prints[t.schema_name, t.name] for t in tables if (t.schema_name, t.name) in prints}
    names = sql.SQL(", ").join(sql.Identifier(t.schema_name, t.name) for t in tables if t.kind != "foreign table")
    with database.connect() as connection:
        connection.execute("set client_min_messages = warning")
        connection.execute(sql.SQL("drop table if exists {} cascade").format(names))
    restore_session(
        session,
        files=files,
        database=database,
        clients=clients,
        mode=RestoreMode.MISSING,
        oids=oids,
        fingerprints=before,
        delta=delta,
    )
    added = [table for table in delta.tables if [part.kind for part in table.parts] == ["newer"] and table.oid in oids]
    with database.connect() as connection:
        found = find_tables_by(connection, [], [(table.schema_name, table.name) for table in added])
        computed = fingerprint_tables(connection, found)
    after = {(table.schema, table.name): computed[table.oid] for table in found}
    for table in added:
        together = add_fingerprints(before[table.oid], table.parts[0].fingerprint)
        if after.get((table.schema_name, table.name)) != together:
            raise RestoreError(f"{table.qualified} is not what the session and its delta are together.")
    return True


def _make_context(session: Session, database: Database) -> None:
    """Make stand-ins of the tables that the session's speak of; what cannot be made shows in the restore."""
    with database.connect() as connection:
        for statement in session.manifest.context:
            try:
                connection.execute(sql.SQL(statement))
            except psycopg.Error:
                continue


def _restore(session: Session, files: Path, database: Database, clients: Clients) -> str:
    oids = frozenset(table.oid for table in session.manifest.tables)
    return restore_session(
        session, files=files, database=database, clients=clients, mode=RestoreMode.MISSING, oids=oids, fingerprints={}
    )[1]


def _compare(
    session: Session, files: Path, database: Database, clients: Clients, jobs: int
) -> tuple[DrilledTable, ...]:
    """Dump the restored tables as the original ones were dumped, and compare; their fingerprints."""
    manifest = session.manifest
    names = [f"{table.schema_name}.{table.name}" for table in manifest.tables]
    layouts = {(t.schema_name, t.name): t.rows_per_insert for t in manifest.tables if t.rows_per_insert is not None}
    # As a session that is never published, so that what a killed drill leaves is cleared like one.
    with new_session(session.path.parent) as work:
        with take_snapshot(database, prefix="", schemas="*", names=names, lock_timeout=_LOCK_TIMEOUT) as snapshot:
            with step("dumping again"):
                surroundings = look_around(snapshot.connection, snapshot.tables)
                dump = dump_tables(
                    snapshot, surroundings, database=database, clients=clients, folder=work, jobs=jobs, layouts=layouts
                )
            contents = sort_contents(snapshot.tables, surroundings, dump)
            by_name = {(c.table.schema, c.table.name): c for c in contents.tables}
            with step("comparing"):
                for table in manifest.tables:
                    restored = by_name.get((table.schema_name, table.name))
                    if restored is None:
                        raise RestoreError(f"{table.schema_name}.{table.name} is not there.")
                    _compare_rows(files, table, restored)
                    _compare_definition(manifest.server_version, snapshot, table, restored)
        with step("fingerprints"):
            return _fingerprints(database, snapshot)


def _compare_rows(files: Path, table: SavedTable, restored: TableContents) -> None:
    """Compare the two dumps' text of the rows: byte for byte, if need be row by row."""
    name = f"{table.schema_name}.{table.name}"
    if table.plain_file is None or table.rows_offset is None or table.rows_bytes is None:
        if restored.rows:
            raise RestoreError(f"{name} had no rows and has {restored.rows.count}.")
        return
    if restored.rows is None or restored.rows.file.stat().st_size != table.rows_bytes:
        raise RestoreError(f"the rows of {name} are others: their text is not as long as it was.")
    before, after = (files / table.plain_file, table.rows_offset), (restored.rows.file, 0)
    if not _same_bytes(before, after, table.rows_bytes):
        copied = not table.rows_per_insert
        if len({digest_rows(path, start, table.rows_bytes, copied=copied) for path, start in (before, after)}) > 1:
            raise RestoreError(f"the rows of {name} are others: their text differs.")


def _same_bytes(one: tuple[Path, int], other: tuple[Path, int], length: int) -> bool:
    """Whether so many bytes of two files, each from an offset on, are the same."""
    with one[0].open("rb") as before, other[0].open("rb") as after:
        before.seek(one[1])
        after.seek(other[1])
        while length:
            piece = before.read(min(_CHUNK, length))
            if not piece or piece != after.read(len(piece)):
                return False
            length -= len(piece)
    return True


def _compare_definition(version: str, snapshot: Snapshot, table: SavedTable, restored: TableContents) -> None:
    name = f"{table.schema_name}.{table.name}"
    if major(snapshot.server_version) == major(version):
        if definition_digest(restored) != table.definition_sha256:
            raise RestoreError(f"the definition of {name} is another.")
        return
    columns = [(column.name, column.type) for column in restored.table.columns]
    if columns != [(column, type_) for _, column, type_ in table.columns] or restored.table.key != table.key:
        raise RestoreError(f"the columns or the key of {name} are others.")


def _fingerprints(database: Database, snapshot: Snapshot) -> tuple[DrilledTable, ...]:
    tables = [table for table in snapshot.tables if table.oid in snapshot.counts]
    with database.connect() as connection:
        computed = fingerprint_tables(connection, tables)
    return tuple(
        DrilledTable(
            schema_name=table.schema,
            name=table.name,
            rows=snapshot.counts[table.oid].rows,
            fingerprint=computed[table.oid],
        )
        for table in tables
    )
