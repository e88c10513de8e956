"""What pg_dump wrote of a table's rows, counted again from the bytes on the disk."""

import hashlib
import mmap
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from backup.errors import BackupError

# A line as SQL sees it: a line end inside of a string or of a quoted name does not end it. pg_dump doubles
# a quote inside of either and escapes nothing else (standard_conforming_strings is on).
_LINE = re.compile(rb"""[^"'\n]*+(?:"[^"]*+"[^"'\n]*+|'[^']*+'[^"'\n]*+)*+\n""")

_TAB, _SEMICOLON, _I = b"\t;I"
_COPY_END = b"\\.\n\n\n"
_CHUNK = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Written:
    """The rows in a file, and the size of its largest statement of more than one row in bytes."""

    rows: int
    largest_statement: int


def count_inserted(path: Path) -> Written:
    r"""The rows of pg_dump's INSERT statements, exactly.

    A statement of several rows is a line `INSERT INTO … VALUES` and a line `\t(…)` for each row. With
    one row each, and for tables without columns (`DEFAULT VALUES`), it is one line.

    Raises:
        BackupError: the file ends in the middle of a statement.
    """
    rows = largest = begin = end = in_statement = 0
    with _bytes_of(path) as data:
        # Not finditer: behind a string without an end it would go on, and take the string's lines for rows.
        while line := _LINE.match(data, end):
            start, end = line.span()
            first = data[start]
            if first == _I:
                begin, in_statement = start, 0
            if first == _TAB:
                rows += 1
                in_statement += 1
            if end - start > 1 and data[end - 2] == _SEMICOLON:
                if first == _I:
                    rows += 1
                if in_statement > 1:
                    largest = max(largest, end - begin)
        if end != len(data):
            raise BackupError(f"{path.name}: what pg_dump wrote ends in the middle of a statement.")
    return Written(rows=rows, largest_statement=largest)


def count_copied(path: Path) -> Written:
    r"""The rows of COPY text: a line each, for a line end inside of a value is written `\n`.

    Raises:
        BackupError: the end mark is missing.
    """
    with path.open("rb") as file:
        lines = sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(_CHUNK), b""))
        file.seek(-min(len(_COPY_END), path.stat().st_size), os.SEEK_END)
        if file.read() != _COPY_END:
            raise BackupError(f"{path.name}: what pg_dump wrote ends in the middle of the rows.")
    return Written(rows=lines - _COPY_END.count(b"\n"), largest_statement=0)


def digest_rows(path: Path, start: int, length: int, *, copied: bool) -> int:
    """A number that tells the rows in a part of a file from others, whatever their order.

    It is the sum of the rows' hashes, so that the same row twice counts twice. A heap that is filled from a
    file does not keep its order: a short row goes into the space that a long one left on an earlier page.
    """
    total, end, stop = 0, start, start + length
    with _bytes_of(path) as data:
        while end < stop:
            begin = end
            line = None if copied else _LINE.match(data, begin, stop)
            end = line.end() if line else (data.find(b"\n", begin, stop) + 1 or stop)
            if copied or data[begin] in (_TAB, _I):
                # Without the comma or semicolon, which tell a row's place.
                row = data[begin : end - (1 if copied else 2)]
                total += int.from_bytes(hashlib.blake2b(row, digest_size=16).digest(), "big")
    return total % (1 << 128)


@contextmanager
def _bytes_of(path: Path) -> Iterator[mmap.mmap | bytes]:
    if path.stat().st_size == 0:  # which cannot be mapped
        yield b""
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        yield data
