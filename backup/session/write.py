"""A session, written from a snapshot: dumped, assembled, described, published."""

import errno
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from pydantic_core import to_json

from backup.errors import BackupError
from backup.postgres.clients import Clients
from backup.postgres.database import Database
from backup.postgres.snapshot import Snapshot
from backup.postgres.surroundings import look_around
from backup.postgres.tables import Kind
from backup.profile import step
from backup.session.contents import Contents, TableContents, definition_digest, sort_contents
from backup.session.dump import dump_tables
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
from backup.session.packing import SUFFIXES, pack
from backup.session.script import after_rows, before_rows, restore_script
from backup.session.summary import summarize
from backup.settings import Compression

_KINDS: dict[Kind, TableKind] = {
    Kind.ORDINARY: "table",
    Kind.PARTITIONED: "partitioned table",
    Kind.FOREIGN: "foreign table",
}


_CHUNK = 1024 * 1024
_LARGE = 16 * 1024 * 1024
"""Bytes from which on the disk takes longer than a journal does."""
_SMALL = 256 * 1024
"""Bytes of rows up to which a file is put together in memory."""


def write_session(
    snapshot: Snapshot,
    *,
    database: Database,
    clients: Clients,
    partial: Path,
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
    work = partial / "work"
    work.mkdir(mode=0o700)
    with step("catalog"):
        surroundings = look_around(snapshot.connection, snapshot.tables)
    with step("pg_dump, its rows counted"):
        dump = dump_tables(
            snapshot, surroundings, database=database, clients=clients, folder=work, jobs=jobs, copied=format == "copy"
        )
    contents = sort_contents(snapshot.tables, surroundings, dump)
    with_rows = [table.table for table in contents.tables if table.rows]
    file_of = file_names((table.schema, table.name) for table in with_rows)
    files = {table.oid: file for table, file in zip(with_rows, file_of, strict=True)}
    names = {table.table.oid: str(table.table) for table in contents.tables}
    title = f"{snapshot.database}, {snapshot.moment:%Y-%m-%d %H:%M:%S} UTC"
    with step("files, hashed and on the disk"), ThreadPoolExecutor(max_workers=jobs) as threads:

        def save(table: TableContents) -> SavedTable:
            return _save(table, contents, names, partial, files.get(table.table.oid), title, compression)

        # What a small one costs is text that Python makes, for which threads would only wait in turns.
        large = [t for t in contents.tables if t.rows and (compression or not _is_small(t.rows.file))]
        begun = {t.table.oid: threads.submit(save, t) for t in large}
        saved = [begun[t.table.oid].result() if t.table.oid in begun else save(t) for t in contents.tables]
    restore_sha256 = _write(partial / RESTORE_SCRIPT, restore_script(contents, files, title))
    shutil.rmtree(work)
    manifest = Manifest(
        session=session_name(partial),
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
        tables=tuple(saved),
        skipped=(
            *(SkippedTable(schema_name=m.schema, name=m.name, reason=m.reason) for m in snapshot.missing),
            *(
                SkippedTable(schema_name=t.schema_name, name=t.name, reason=_why_no_file(t))
                for t in saved
                if t.file is None
            ),
        ),
        # A default of one of the tables is a part of it, which nobody needs to be told of.
        dependents=tuple(
            dependent.identity
            for dependent in surroundings.dependents
            if dependent.kind != "default value" or dependent.address not in surroundings.parts
        ),
        not_kept=surroundings.others,
        context=surroundings.context,
        restore_script_sha256=restore_sha256,
    )
    with (partial / MANIFEST).open("wb") as file:  # in pieces, for it has megabytes where there are thousands of tables
        file.write(to_json(manifest, indent=2))
        file.write(b"\n")
    (partial / SUMMARY).write_text(summarize(manifest), encoding="utf-8")
    # Had the connection gone, and its locks, nobody would know what pg_dump saw of the tables.
    snapshot.connection.execute("select 1")
    with step("publishing"):
        return Session(path=publish(partial), manifest=manifest)


def _save(
    saved: TableContents,
    contents: Contents,
    names: Mapping[int, str],
    partial: Path,
    file: str | None,
    title: str,
    compression: Compression | None,
) -> SavedTable:
    """Write the table's file, where it has rows; what there is to know of it. `names` are all tables', by OID."""
    table, rows = saved.table, saved.rows
    digest = offset = length = packed = None
    if rows and file:
        head = "".join(before_rows(saved, f"{table}: {rows.count} rows of {title}"))
        offset, length = len(_encoded(head)), rows.file.stat().st_size
        foot = after_rows(saved, contents.dependents)
        if compression:
            file += SUFFIXES[compression]
            packed, digest = pack(_pieces(head, rows.file, foot), partial / file, compression)
            rows.file.unlink()
        elif _is_small(rows.file):
            digest = _rewrite(rows.file, head, foot, partial / file)
        else:
            digest = _write(partial / file, [head], rows.file, foot)
        if (partial / file).stat().st_size > _LARGE:
            # While others are still written. Of many small ones the first takes all along, when they are published.
            sync(partial / file)
    return SavedTable(
        schema_name=table.schema,
        name=table.name,
        oid=table.oid,
        kind=_KINDS[table.kind],
        rows=rows.count if rows else 0,
        file=file,
        bytes=(partial / file).stat().st_size if file else None,
        sha256=digest,
        rows_offset=offset,
        rows_bytes=length,
        rows_per_insert=rows.rows_per_insert if rows else None,
        definition_sha256=definition_digest(saved),
        key=table.key,
        columns=tuple((column.number, column.name, column.type) for column in table.columns),
        parents=tuple(names[parent] for parent in table.parents if parent in names),
        packed=packed,
    )


def _pieces(head: str, rows: Path, foot: Iterable[str]) -> Iterator[bytes]:
    yield _encoded(head)
    with rows.open("rb") as file:
        yield from iter(lambda: file.read(_CHUNK), b"")
    yield _encoded("".join(foot))


def _is_small(rows: Path) -> bool:
    return rows.stat().st_size <= _SMALL


def _rewrite(rows: Path, head: str, foot: Iterable[str], target: Path) -> str:
    """Make the file of rows the table's file by writing the text around them into it; its SHA-256.

    Where a file system has just seen files go, it looks long for a place for a new one.
    """
    if target.exists():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    content = b"".join(_pieces(head, rows, foot))
    rows.rename(target)
    with target.open("r+b") as file:
        file.write(content)
    return hashlib.sha256(content).hexdigest()


def _write(target: Path, head: Iterable[str], rows: Path | None = None, foot: Iterable[str] = ()) -> str:
    """Write a file around rows that the kernel copies into place, and remove those; its SHA-256."""
    with target.open("xb") as file:
        file.writelines(map(_encoded, head))
        file.flush()
        if rows:
            _splice(rows, file.fileno())
            rows.unlink()
            file.seek(0, os.SEEK_END)
        file.writelines(map(_encoded, foot))
    return hash_file(target)


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _splice(source: Path, target: int) -> None:
    """Append the file's bytes to the descriptor, by the kernel where it can."""
    with source.open("rb") as file:
        left = source.stat().st_size
        if not hasattr(os, "copy_file_range"):
            with os.fdopen(os.dup(target), "wb") as copy:
                shutil.copyfileobj(file, copy, 1024 * 1024)
            return
        while left:
            copied = os.copy_file_range(file.fileno(), target, left)
            if not copied:
                raise BackupError(f"{source.name} became shorter while it was copied.")
            left -= copied


def _why_no_file(table: SavedTable) -> str:
    match table.kind:
        case "partitioned table":
            return "partitioned: its rows are in its partitions"
        case "foreign table":
            return "a foreign table: its rows are on another server"
        case _:
            return "empty"
