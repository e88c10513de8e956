"""The delta: what was written after a session's snapshot, saved beside it at the moment when its table was taken."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal

from backup.errors import BackupError
from backup.postgres.tables import Table
from backup.session.delta_parts import (
    DELTA,
    Delta,
    DeltaTable,
    Part,
    delta_folder,
    read_delta,
    taking_delta,
)
from backup.session.delta_script import apply_delta, copy_statement, restore_delta, summarize_delta
from backup.session.folder import MANIFEST, RESTORE_SCRIPT, Session, file_names, hash_file

SUMMARY = "delta-summary.txt"

_END = b"\\.\n"
_CHUNK = 1024 * 1024
_AT_ONCE = 16
"""Files that are brought to the disk at the same time: it writes them together."""


def copied_columns(table: Table) -> tuple[str, ...]:
    """The columns that COPY carries, in the table's order: all that are not generated."""
    return tuple(column.name for column in table.columns if not column.generated)


@dataclass(kw_only=True)
class _Step:
    """The delta as it will be, the files that are new for that, and those that nobody needs then."""

    delta: Delta
    new: list[Path] = field(default_factory=list)
    obsolete: list[Path] = field(default_factory=list)


class DeltaWriter:
    """Saves rows of tables beside a session; writes nothing before the first ones.

    What is saved for a table adds up. Rows that were saved already are not kept twice: a part of newer rows
    takes the place of an earlier one that it begins with. A delta that is there already goes on.

    Raises:
        BackupError: the session, or the delta that it has already, cannot be read.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._folder = delta_folder(session.path)
        self._step: _Step | None = None
        self._known = frozenset(table.oid for table in session.manifest.tables)
        try:
            there = read_delta(session.path) if (self._folder / DELTA).exists() else None
            # Now, and not while somebody waits for the rows to be saved.
            self._delta = there or Delta(session=session.name, manifest_sha256=hash_file(session.path / MANIFEST))
            self._takes = taking_delta(session, self._known)
        except OSError as error:
            raise BackupError(f"{session.path} cannot be read: {error}") from error

    def save(
        self,
        table: Table,
        chunks: Iterable[bytes | memoryview],
        *,
        rows: int,
        fingerprint: str,
        merged: bool,
        instead: bool = False,
    ) -> None:
        """Save rows of a table; when this returns, they are on the disk.

        Args:
            table: the table, as the session's snapshot had it.
            chunks: COPY's text (UTF-8, default format) of its `copied_columns`; always read to their end.
            rows: how many the server counted.
            fingerprint: what the server computed of just these rows, in the same transaction.
            merged: other rows were updated or deleted since, so that these are not just to be added; see `Part`.
            instead: they take the place of what was saved of the table last.

        Raises:
            BackupError: they could not be saved; what was saved before is as it was.
        """
        with self.together() as step, self._told(f"The delta of {table}"):
            columns, delta, new = copied_columns(table), step.delta, step.new
            former = delta.of(table.oid)
            saved = former[-1] if former else None
            kind: Literal["newer", "merged"] = "merged" if merged else "newer"
            now = (kind, columns, rows, fingerprint)
            same = saved is not None and (saved.kind, saved.columns, saved.rows, saved.fingerprint) == now
            if same or (not rows and not (saved and instead)):
                _refuse_difference(table, sum(bytes(chunk).count(b"\n") for chunk in chunks), rows)
                return
            if not self._folder.exists():
                self._folder.mkdir(mode=0o700)
                _sync(self._folder.parent)
            stem = f"{file_names([(table.schema, table.name)])[0].removesuffix('.sql')}.{table.oid}.{_next(former)}"
            path, script = self._folder / f"{stem}.rows.sql", self._folder / f"{stem}.sql"
            new += [path, script]
            sha256 = _write_rows(path, table, columns, chunks, rows)
            part = Part(
                kind=kind,
                file=path.name,
                sha256=sha256,
                bytes=path.stat().st_size,
                columns=columns,
                rows=rows,
                fingerprint=fingerprint,
            )
            superseded = [
                p
                for p in former
                if (instead and p is saved)
                or ({q.kind for q in (*former, part)} == {"newer"} and _begins_with(path, self._folder / p.file))
            ]
            parts = (*(p for p in former if p not in superseded), part)
            _write(script, apply_delta(table, parts))
            described = DeltaTable(
                oid=table.oid,
                schema_name=table.schema,
                name=table.name,
                script=script.name,
                script_sha256=hash_file(script),
                parts=parts,
            )
            step.obsolete += [self._folder / t.script for t in delta.tables if t.oid == table.oid]
            step.obsolete += [self._folder / p.file for p in superseded]
            step.delta = delta.model_copy(
                update={"tables": (*(t for t in delta.tables if t.oid != table.oid), described)},
            )

    @contextmanager
    def together(self) -> Iterator[_Step]:
        """Bring what is saved in the block to the disk at its end, all at once, or nothing of it.

        Raises:
            BackupError: it could not be written; what was saved before is as it was.
        """
        if self._step is not None:
            yield self._step
            return
        step = self._step = _Step(delta=self._delta)
        try:
            yield step
            if step.new:
                self._publish(step.delta, step.new)
                self._delta = step.delta
        except BaseException as error:
            for path in step.new:
                path.unlink(missing_ok=True)
            with suppress(OSError):
                self._folder.rmdir()
            if isinstance(error, OSError):
                raise self._not_written("The delta", error) from error
            raise
        finally:
            self._step = None
        for path in step.obsolete:
            with suppress(OSError):
                path.unlink()

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Say of what the block was about that it could not be written."""
        try:
            yield
        except OSError as error:
            raise self._not_written(what, error) from error

    def _not_written(self, what: str, error: OSError) -> BackupError:
        return BackupError(
            f"{what} could not be written: {error.strerror or error} ({self._folder}).",
            untouched="What was saved before is as it was.",
        )

    def keep_aside(self, table: Table, columns: Sequence[str], chunks: Iterable[bytes | memoryview]) -> str:
        """Save rows that no restore can bring in by itself, for a person; the name of the file.

        Args:
            table: the table, under the name that it has now.
            columns: what COPY carries.
            chunks: COPY's text.

        Raises:
            BackupError: they could not be saved.
        """
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            number = len(list(self._folder.glob(f"*.{table.oid}.*.aside.sql"))) + 1
            stem = file_names([(table.schema, table.name)])[0].removesuffix(".sql")
            path = self._folder / f"{stem}.{table.oid}.{number}.aside.sql"
            with _open(path) as file:
                file.write(copy_statement(table, columns).encode())
                file.writelines(chunks)
                file.write(_END)
                file.flush()
                os.fsync(file.fileno())
            self._publish(self._delta, [])
        except OSError as error:
            raise BackupError(f"Rows of {table} could not be written: {error.strerror} ({self._folder}).") from error
        return path.name

    def _publish(self, delta: Delta, new: list[Path]) -> None:
        """Put what describes the delta in the place of what described it before, once all of it is on the disk."""
        deaf = [table.qualified for table in delta.tables if table.oid in self._known - self._takes]
        unknown = [table.qualified for table in delta.tables if table.oid not in self._known]
        texts = {
            RESTORE_SCRIPT: restore_delta(delta, deaf, unknown),
            SUMMARY: summarize_delta(delta, self._session.manifest),
            DELTA: delta.model_dump_json(indent=2) + "\n",
        }
        for name, text in texts.items():
            new.append(self._folder / f".{name}")
            _write(new[-1], text)
        # All at once, for the first leaves the others little to do; and without what delta.json could be told from.
        needed = [path for path in new if path.name not in (f".{RESTORE_SCRIPT}", f".{SUMMARY}")]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(_sync, needed))
        # From here on an interruption must take nothing away: delta.json may name it.
        new.clear()
        for name in texts:
            (self._folder / f".{name}").replace(self._folder / name)
        _sync(self._folder)


def _next(former: tuple[Part, ...]) -> int:
    """A number for a part that none before it has."""
    return max((int(part.file.split(".")[-3]) for part in former), default=0) + 1


def _write_rows(
    path: Path, table: Table, columns: tuple[str, ...], chunks: Iterable[bytes | memoryview], rows: int
) -> str:
    """Write a part's file around the rows, count them, and bring it to the disk; its SHA-256."""
    digest, counted = hashlib.sha256(), 0
    with _open(path) as file:
        buffer = bytearray(copy_statement(table, columns).encode())
        lines = -buffer.count(b"\n")
        for chunk in chunks:
            buffer += chunk
            if len(buffer) >= _CHUNK:
                counted += buffer.count(b"\n")
                digest.update(buffer)
                file.write(buffer)
                buffer.clear()
        counted += buffer.count(b"\n") + lines
        _refuse_difference(table, counted, rows)
        buffer += _END
        digest.update(buffer)
        file.write(buffer)
    return digest.hexdigest()


def _refuse_difference(table: Table, counted: int, rows: int) -> None:
    if counted != rows:
        raise BackupError(
            f"The delta of {table}: the server counted {rows} rows, and {counted} came.",
            untouched="They were not saved; what was saved before is as it was.",
        )


def _begins_with(path: Path, former: Path) -> bool:
    """Whether a part's file begins with all the rows of another: a heap hands out old rows first."""
    left = former.stat().st_size - len(_END)
    with path.open("rb") as file, former.open("rb") as begin:
        while left > 0:
            piece = begin.read(min(_CHUNK, left))
            if not piece or piece != file.read(len(piece)):
                return False
            left -= len(piece)
    return True


def _write(path: Path, text: str) -> None:
    with _open(path) as file:
        file.write(text.encode())


def _open(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
