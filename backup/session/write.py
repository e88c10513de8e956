"""A session, written from a snapshot: dumped, assembled, described, published."""

import shutil
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from pydantic_core import to_json

from backup.postgres.clients import Clients
from backup.postgres.database import Database
from backup.postgres.snapshot import Snapshot
from backup.postgres.surroundings import look_around
from backup.postgres.tables import Kind, Table
from backup.profile import step
from backup.session.assemble import SMALL, Assembled, assemble, encoded
from backup.session.contents import Contents, TableContents, definition_digest, sort_contents
from backup.session.dump import Rows, check_rows, dump_again, dump_tables
from backup.session.folder import (
    MANIFEST,
    RESTORE_SCRIPT,
    SUMMARY,
    Manifest,
    SavedTable,
    Session,
    SkippedTable,
    TableKind,
    file_names,
    hash_file,
    publish,
    session_name,
    sync,
)
from backup.session.script import after_rows, before_rows, restore_script
from backup.session.summary import summarize
from backup.settings import Compression

_KINDS: dict[Kind, TableKind] = {
    Kind.ORDINARY: "table",
    Kind.PARTITIONED: "partitioned table",
    Kind.FOREIGN: "foreign table",
}

_LARGE = 16 * 1024 * 1024
"""Bytes from which on the disk takes longer than a journal does."""


def write_session(
    snapshot: Snapshot,
    *,
    database: Database,
    clients: Clients,
    folder: Path,
    jobs: int,
    format: Literal["sql", "copy"] = "sql",  # noqa: A002 - the setting's name
    compression: Compression | None = None,
) -> Session:
    """Fill the folder with all that brings the snapshot's tables back, and publish it.

    `format` says whether rows are INSERT statements or COPY blocks; a table that INSERT would change is always COPY.
    The tables' files are compressed, if they are, while they are put together.

    Raises:
        BackupError: something could not be written completely; nothing was published.
    """
    work = folder / "work"
    work.mkdir(mode=0o700)
    with step("catalog"):
        surroundings = look_around(snapshot.connection, snapshot.tables)
    with step("pg_dump"):
        dump = dump_tables(
            snapshot, surroundings, database=database, clients=clients, folder=work, jobs=jobs, copied=format == "copy"
        )
    contents = sort_contents(snapshot.tables, surroundings, dump)
    with_rows = [table.table for table in contents.tables if table.rows]
    file_of = file_names((table.schema, table.name) for table in with_rows)
    files = {table.oid: file for table, file in zip(with_rows, file_of, strict=True)}
    names = {table.table.oid: str(table.table) for table in contents.tables}
    title = f"{snapshot.database}, {snapshot.moment:%Y-%m-%d %H:%M:%S} UTC"
    with step("files, counted, hashed, on the disk"):
        assembled = _assemble_tables(
            contents,
            {oid: folder / file for oid, file in files.items()},
            title,
            compression,
            jobs,
            partial(dump_again, snapshot, database=database, clients=clients, jobs=jobs, folder=work),
        )
    with (folder / RESTORE_SCRIPT).open("xb") as script:
        script.writelines(encoded([text]) for text in restore_script(contents, files, title))
    shutil.rmtree(work)
    saved = tuple(_describe(table, names, assembled.get(table.table.oid)) for table in contents.tables)
    manifest = Manifest(
        session=session_name(folder),
        created=snapshot.moment,
        tool_version=version("cdc-backup"),
        server_version=snapshot.server_version,
        client_version=clients.version,
        database=snapshot.database,
        database_id=snapshot.database_id,
        host=database.host,
        snapshot=snapshot.id,
        wal_position=snapshot.wal,
        format=format,
        tables=saved,
        skipped=(
            *(SkippedTable(schema_name=m.schema, name=m.name, reason=m.reason) for m in snapshot.missing),
            *(
                SkippedTable(schema_name=t.schema_name, name=t.name, reason=_why_no_file(t))
                for t in saved
                if t.file is None
            ),
        ),
        unasked=tuple(map(str, snapshot.unasked)),
        # A default of one of the tables is a part of it, which nobody needs to be told of.
        dependents=tuple(
            dependent.identity
            for dependent in surroundings.dependents
            if dependent.kind != "default value" or dependent.address not in surroundings.parts
        ),
        not_kept=surroundings.others,
        context=surroundings.context,
        restore_script_sha256=hash_file(folder / RESTORE_SCRIPT),
    )
    with (folder / MANIFEST).open("wb") as file:  # in pieces, for it has megabytes where there are thousands of tables
        file.write(to_json(manifest, indent=2))
        file.write(b"\n")
    (folder / SUMMARY).write_text(summarize(manifest), encoding="utf-8")
    # Had the connection gone, and its locks, nobody would know what pg_dump saw of the tables.
    snapshot.connection.execute("select 1")
    with step("publishing"):
        return Session(path=publish(folder), manifest=manifest)


def _assemble_tables(
    contents: Contents,
    targets: Mapping[int, Path],
    title: str,
    compression: Compression | None,
    jobs: int,
    dump_smaller: Callable[[Mapping[int, Sequence[Table]]], Mapping[int, Rows]],
) -> dict[int, Assembled]:
    """Put the tables' files together, by OID; where a statement is too large, once more with rows of smaller ones."""
    assembled: dict[int, Assembled] = {}
    on_the_disk: list[Future[None]] = []

    def put_together(table: TableContents) -> tuple[Assembled, int | None]:
        assert table.rows  # noqa: S101 - of these alone
        file = assemble(
            targets[table.table.oid],
            before_rows(table, f"{table.table}: {table.rows.count} rows of {title}"),
            table.rows,
            after_rows(table, contents.dependents),
            compression,
            to_disk,
        )
        return file, check_rows(table.table, table.rows, file.written)

    def to_disk(path: Path) -> None:
        # While others are still written. Of many small ones the first takes all along, when they are published.
        if path.stat().st_size > _LARGE:
            on_the_disk.append(disk.submit(sync, path))

    waiting = [table for table in contents.tables if table.rows]
    with ThreadPoolExecutor(max_workers=jobs) as disk, ThreadPoolExecutor(max_workers=jobs) as threads:
        while waiting:
            size = {table.table.oid: table.rows.file.stat().st_size for table in waiting if table.rows}
            # The largest first: else it may be left for the end, and for one thread alone. What a small one
            # costs is text that Python makes, for which threads would only wait in turns.
            waiting.sort(key=lambda table: size[table.table.oid], reverse=True)
            small = [table for table in waiting if not compression and size[table.table.oid] <= SMALL]
            large = waiting[: len(waiting) - len(small)]
            files = [*threads.map(put_together, large), *map(put_together, small)]
            smaller: dict[int, list[Table]] = defaultdict(list)
            for table, (file, rows_per_insert) in zip(waiting, files, strict=True):
                assembled[table.table.oid] = file
                if rows_per_insert is not None:
                    smaller[rows_per_insert].append(table.table)
            for future in on_the_disk:
                future.result()
            again = {table.oid for tables in smaller.values() for table in tables}
            waiting = [table for table in waiting if table.table.oid in again]
            for table in waiting:
                assembled[table.table.oid].path.unlink()
            if waiting:
                with step("pg_dump, in smaller statements"):
                    dumped = dump_smaller(smaller)
                for table in waiting:
                    table.rows = dumped[table.table.oid]
    return assembled


def _describe(contents: TableContents, names: Mapping[int, str], file: Assembled | None) -> SavedTable:
    """What there is to know of a table; `names` are all tables', by OID."""
    table, rows = contents.table, contents.rows
    return SavedTable(
        schema_name=table.schema,
        name=table.name,
        oid=table.oid,
        kind=_KINDS[table.kind],
        rows=rows.count if rows else 0,
        file=file.path.name if file else None,
        bytes=file.path.stat().st_size if file else None,
        sha256=file.sha256 if file else None,
        rows_offset=file.offset if file else None,
        rows_bytes=file.length if file else None,
        rows_per_insert=rows.rows_per_insert if rows else None,
        definition_sha256=definition_digest(contents),
        key=table.key,
        columns=tuple((column.number, column.name, column.type) for column in table.columns),
        parents=tuple(names[parent] for parent in table.parents if parent in names),
        packed=file.packed if file else None,
    )


def _why_no_file(table: SavedTable) -> str:
    match table.kind:
        case "partitioned table":
            return "partitioned: its rows are in its partitions"
        case "foreign table":
            return "a foreign table: its rows are on another server"
        case _:
            return "empty"
