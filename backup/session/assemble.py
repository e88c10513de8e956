"""A table's file, put together around its rows: written, and read again to be hashed and counted."""

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from backup.errors import BackupError
from backup.session.dump import Rows
from backup.session.packing import SUFFIXES, Packed, pack
from backup.session.rows import Counting, Written
from backup.settings import Compression

SMALL = 256 * 1024
"""Bytes of rows up to which a file is put together in memory."""

_CHUNK = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Assembled:
    """A table's file, where in its plain text the rows are, in bytes, and what was counted there."""

    path: Path
    sha256: str
    offset: int
    length: int
    packed: Packed | None
    written: Written


def assemble(
    target: Path,
    head: Iterable[str],
    rows: Rows,
    foot: Iterable[str],
    compression: Compression | None,
    to_disk: Callable[[Path], object],
) -> Assembled:
    """Write the text before the rows, the rows, and what comes after them, into `target`; the rows' own file goes.

    A compression adds to the name. Counted are the very bytes that are hashed: those that are in the file, or that
    were compressed into it. `to_disk` is called once it is written.

    Raises:
        BackupError: the rows have no end, or became shorter.
    """
    before, after = encoded(head), encoded(foot)
    length, packed = rows.file.stat().st_size, None
    counting = Counting(target.name, copied=not rows.rows_per_insert)
    if compression:
        target = target.with_name(target.name + SUFFIXES[compression])
        with rows.file.open("rb") as file:
            packed, sha256 = pack(
                chain[bytes | memoryview]([before], counting.read(file, length), [after]), target, compression
            )
        rows.file.unlink()
        to_disk(target)
    else:
        if length <= SMALL:
            _rewrite(rows.file, before, after, target)
        else:
            _write(rows.file, length, before, after, target)
        to_disk(target)
        sha256 = _read_again(target, len(before), length, counting)
    return Assembled(
        path=target, sha256=sha256, offset=len(before), length=length, packed=packed, written=counting.written
    )


def encoded(text: Iterable[str]) -> bytes:
    """The bytes of a file: a name that is no UTF-8 goes out as it came in."""
    return "".join(text).encode("utf-8", "surrogateescape")


def _write(rows: Path, length: int, before: bytes, after: bytes, target: Path) -> None:
    with target.open("xb") as file:
        file.write(before)
        file.flush()
        _splice(rows, length, file.fileno())
        file.seek(0, os.SEEK_END)
        file.write(after)
    rows.unlink()


def _rewrite(rows: Path, before: bytes, after: bytes, target: Path) -> None:
    """Make the file of the rows the table's, by writing the text around them into it.

    Where a file system has just seen files go, it looks long for a place for a new one.
    """
    if target.exists():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    text = rows.read_bytes()
    rows.rename(target)
    with target.open("r+b") as file:
        file.writelines((before, text, after))


def _read_again(path: Path, offset: int, length: int, counting: Counting) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        digest.update(file.read(offset))
        for piece in counting.read(file, length):
            digest.update(piece)
        digest.update(file.read())
    return digest.hexdigest()


def _splice(source: Path, length: int, target: int) -> None:
    """Append so many bytes of the file to the descriptor, by the kernel where it can."""
    with source.open("rb") as file:
        if not hasattr(os, "copy_file_range"):
            with os.fdopen(os.dup(target), "wb") as copy:
                shutil.copyfileobj(file, copy, _CHUNK)
            return
        while length:
            copied = os.copy_file_range(file.fileno(), target, length)
            if not copied:
                raise BackupError(f"{source.name} became shorter while it was copied.")
            length -= copied
