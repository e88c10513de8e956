"""A session on the disk: made under a name that says it is not whole, published by its last act, read again."""

import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from backup.errors import BackupError, UsageError
from backup.lock import locked
from backup.session.packing import SUFFIXES, Packed
from backup.settings import Compression

MANIFEST = "manifest.json"
SUMMARY = "backup-summary.txt"
RESTORE_SCRIPT = "restore.sql"

TableKind = Literal["table", "partitioned table", "foreign table"]

_PARTIAL = ".partial-"
_SYNCS = 16
"""Files that are brought to the disk at a time: a journal's commit pays for all that wait for one."""
_NAME = re.compile(r"backup_\d{4}-\d{2}-\d{2}T\d{2}-\d{2}-\d{2}-\d{3}Z")


class SavedTable(BaseModel):
    """A table in a session; what speaks of a file is null where it had no rows and has none.

    `rows_offset` and `rows_bytes` say where in the file pg_dump's own text of the rows stands;
    `rows_per_insert` is 0 where that is COPY text. `columns` are number, name and type of each, `parents` the
    tables of the session that it is a partition or an inheritance child of. `bytes` and `sha256` are of the file as
    it is; where `packed` says that it is compressed, `rows_offset` and `rows_bytes` are of what is in it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_name: str
    name: str
    oid: int
    kind: TableKind
    rows: int
    file: str | None
    bytes: int | None
    sha256: str | None
    rows_offset: int | None
    rows_bytes: int | None
    rows_per_insert: int | None
    definition_sha256: str
    key: tuple[str, ...]
    columns: tuple[tuple[int, str, str], ...]
    parents: tuple[str, ...]
    packed: Packed | None = None  # of sessions from before there was compression

    @property
    def compression(self) -> Compression | None:
        """How the file is compressed."""
        return self.packed.compression if self.packed else None

    @property
    def plain_file(self) -> str | None:
        """The name that the file has when it is not compressed, by which `restore.sql` calls it."""
        return self.file and self.file.removesuffix(SUFFIXES[self.compression] if self.compression else "")

    @property
    def qualified(self) -> str:
        """`schema.name`, for people and in arguments."""
        return f"{self.schema_name}.{self.name}"


class SkippedTable(BaseModel):
    """A table that has no file in the session, and why. `schema_name` is null for a name that named none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_name: str | None
    name: str
    reason: str


class Manifest(BaseModel):
    """What a session holds, for machines. Times are UTC.

    `dependents` are views, foreign keys and the like that hang on the tables and come back with them;
    `not_kept` is what `DROP … CASCADE` would take as well, and no session holds; `context` are statements that
    make, for a drill, what the tables speak of. `unasked` are the CDC tables that are not in it because others were
    named.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1] = 1
    session: str
    created: datetime
    tool_version: str
    server_version: str
    client_version: str
    database: str
    database_id: str
    host: str
    snapshot: str
    wal_position: str | None
    format: Literal["sql", "copy"] = "sql"
    tables: tuple[SavedTable, ...]
    skipped: tuple[SkippedTable, ...]
    unasked: tuple[str, ...] = ()
    dependents: tuple[str, ...]
    not_kept: tuple[str, ...]
    context: tuple[str, ...]
    restore_script_sha256: str

    @property
    def compression(self) -> Compression | None:
        """How the tables' files are compressed, which is the same for all."""
        return next((table.compression for table in self.tables if table.packed), None)

    def is_at(self, host: str, name: str) -> bool:
        """Whether it is of the database of this name at this address."""
        return (self.host, self.database) == (host, name)


@dataclass(frozen=True, kw_only=True)
class Session:
    """A published session."""

    path: Path
    manifest: Manifest

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.name

    @property
    def files(self) -> tuple[Path, ...]:
        """The tables' files."""
        return tuple(self.path / table.file for table in self.manifest.tables if table.file)

    @property
    def rows(self) -> int:
        """The rows of all tables."""
        return sum(table.rows for table in self.manifest.tables)


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A folder that is, or was to become, a session; `problem` says why it is not complete."""

    path: Path
    manifest: Manifest | None
    bytes: int
    problem: str


@contextmanager
def new_session(root: Path) -> Iterator[Path]:
    """A folder to be filled, gone again unless `publish` gave it its final name.

    What killed runs left in `root` is cleared first. `root` is made when it is not there.

    Raises:
        BackupError: there can be no folder.
    """
    try:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        with passing_folder(root) as folder:
            yield folder
    except OSError as error:
        raise BackupError(
            f"No backup can be written below {root}: {error.strerror or error}"
            + (f" ({error.filename})" if error.filename else "")
            + ".",
            untouched="The database was only read, and no session was published.",
        ) from error


@contextmanager
def passing_folder(root: Path) -> Iterator[Path]:
    """A private folder in `root` that is gone afterwards; after a killed run, with the next one.

    Raises:
        OSError: there can be none.
    """
    with ExitStack() as held:
        # One at a time: between its making and its lock a folder would look like a dead one's.
        with locked(root.resolve()):
            clear_dead(root)
            folder = _make(root)
            held.enter_context(locked(folder))
        try:
            yield folder
        finally:
            if folder.exists():
                shutil.rmtree(folder, ignore_errors=True)


def session_name(partial: Path) -> str:
    """The name that the folder will have once it is published."""
    return partial.name.removeprefix(_PARTIAL)


def is_partial(folder: Path) -> bool:
    """Whether the folder's name says that it was never published."""
    return folder.name.startswith(_PARTIAL)


def publish(partial: Path) -> Path:
    """Bring every file and the folder safely to the disk, then give the folder its final name."""
    with ThreadPoolExecutor(max_workers=_SYNCS) as threads:
        for _ in threads.map(_make_safe, partial.iterdir()):
            pass
    sync(partial)
    final = partial.with_name(session_name(partial))
    partial.rename(final)
    sync(final.parent)
    return final


def _make_safe(path: Path) -> None:
    path.chmod(0o600)
    sync(path)


def unpublish(session: Path) -> Path:
    """Give a session the name of one that is not whole, which the next run clears if this one does not."""
    return session.rename(session.with_name(f"{_PARTIAL}{session.name}"))


def hash_file(path: Path) -> str:
    """The file's SHA-256, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_size(folder: Path) -> int:
    """The bytes of all files below the folder, also while they, and it, come and go."""
    size = 0
    for path, _, files in os.walk(folder):  # which passes over a folder that is gone by now
        for file in files:
            with suppress(OSError):
                size += (Path(path) / file).stat().st_size
    return size


def clear_dead(root: Path) -> None:
    """Remove the folders that killed runs left unfinished in `root`."""
    for folder in root.glob(f"{_PARTIAL}*"):
        # An OSError: who writes it is alive, or removes it right now.
        with suppress(OSError), locked(folder, wait=False):
            shutil.rmtree(folder)


def open_session(path: Path) -> Session:
    """The session in `path`, with every file that its manifest names there and of the right size.

    Raises:
        UsageError: it is not there, or not whole.
    """
    listed = _look(path)
    if listed.manifest is None or listed.problem:
        raise UsageError(f"{path} is no complete session: {listed.problem}.", untouched="Nothing was done.")
    return Session(path=path, manifest=listed.manifest)


def list_sessions(root: Path) -> tuple[Listed, ...]:
    """All sessions in `root`, newest first, with those that are not complete."""
    return tuple(each_session(root))


def each_session(root: Path) -> Iterator[Listed]:
    """The sessions of `list_sessions`, each read when it is asked for."""
    if not root.is_dir():
        return
    try:
        found = list(root.iterdir())
    except OSError as error:
        raise UsageError(
            f"The sessions in {root} cannot be listed: {error.strerror}.",
            untouched="Nothing was done.",
            remedy="Run this as the user who backs up, or give yours the right to read and enter the folder.",
        ) from error
    names = sorted(
        # A link is somebody else's, whatever its name.
        (
            path
            for path in found
            if path.is_dir() and not path.is_symlink() and _NAME.fullmatch(path.name.removeprefix(_PARTIAL))
        ),
        key=lambda path: path.name.removeprefix(_PARTIAL),
        reverse=True,
    )
    yield from map(_look, names)


def file_names(tables: Iterable[tuple[str, str]]) -> list[str]:
    """A file name for each table (schema, name) that every file system takes, different from all others in any case.

    What is not an ASCII letter, digit, `_` or `-` is written as the bytes of its UTF-8, `%2E`.
    """
    names = {RESTORE_SCRIPT: RESTORE_SCRIPT}
    for schema, table in tables:
        stem = _safe(table) if schema == "public" else f"{_safe(schema)}.{_safe(table)}"
        if len(stem) > 200:  # NAME_MAX is 255 bytes on the usual file systems
            stem = f"{stem[:160]}~{hashlib.sha256(stem.encode()).hexdigest()[:16]}"
        name, number = f"{stem}.sql", 1
        while name.lower() in names:
            number += 1
            name = f"{stem}~{number}.sql"
        names[name.lower()] = name
    return list(names.values())[1:]


def _safe(name: str) -> str:
    return "".join(
        c if c.isascii() and (c.isalnum() or c in "_-") else "".join(f"%{byte:02X}" for byte in c.encode())
        for c in name
    )


def _make(root: Path) -> Path:
    """A new folder, named by the millisecond, that no session has and no other process is about to publish."""
    moment = datetime.now(UTC)
    while True:
        name = f"backup_{moment:%Y-%m-%dT%H-%M-%S}-{moment.microsecond // 1000:03}Z"
        partial = root / f"{_PARTIAL}{name}"
        moment += timedelta(milliseconds=1)
        try:
            partial.mkdir(mode=0o700)
        except FileExistsError:
            continue
        if not (root / name).exists():
            return partial
        partial.rmdir()


def _look(path: Path) -> Listed:
    size = 0
    try:
        sizes = {file.name: file.stat().st_size for file in path.iterdir()}
        size = sum(sizes.values())
        manifest = Manifest.model_validate_json((path / MANIFEST).read_bytes())
    except ValidationError:
        return Listed(path=path, manifest=None, bytes=size, problem="its manifest cannot be read")
    except OSError as error:
        problem = (
            "it is being written, or was left by a killed run"
            if is_partial(path)
            else (f"{Path(error.filename or path).name}: {error.strerror}")
        )
        return Listed(path=path, manifest=None, bytes=size, problem=problem)
    wrong = [table.file for table in manifest.tables if table.file is not None and sizes.get(table.file) != table.bytes]
    wrong += [name for name in (RESTORE_SCRIPT, SUMMARY) if name not in sizes]
    problem = f"{', '.join(wrong)} missing or of another size" if wrong else ""
    if is_partial(path):
        problem = "it is being written, or was left by a killed run"
    return Listed(path=path, manifest=manifest, bytes=size, problem=problem)


def sync(path: Path) -> None:
    """Bring a file, or what a folder says of its files, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
