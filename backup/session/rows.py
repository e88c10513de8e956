"""What pg_dump wrote of a table's rows, counted again from the bytes on the disk."""

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from backup.errors import BackupError

# A line as SQL sees it: a line end inside of a string or of a quoted name does not end it. pg_dump doubles
# a quote inside of either and escapes nothing else (standard_conforming_strings is on).
_LINE = re.compile(rb"""[^"'\n]*+(?:"[^"]*+"[^"'\n]*+|'[^']*+'[^"'\n]*+)*+\n""")

_ROW_COPIED = re.compile(rb"[^\n]*+\n")

_HEADER_END = b" VALUES\n"
_NEITHER_QUOTE_NOR_LINE_END = bytes(set(range(256)) - set(b"'\n"))

_TAB, _SEMICOLON, _I = b"\t;I"
_COPY_END = b"\\.\n\n\n"
_CHUNK = 256 * 1024
"""Bytes that are read at once: of more, each new buffer costs as much as what is done with it."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """The rows in a file, and the size of its largest statement of more than one row in bytes."""

    rows: int
    largest_statement: int


class Counting:
    r"""Counts the rows of a file exactly, while they are read; `name` is the file's, for messages.

    With `copied` it is COPY text: a line each, for a line end inside of a value is written `\n`. Else it is
    pg_dump's INSERT statements. One of several rows is a line `INSERT INTO … VALUES` and a line `\t(…)` for each
    row. With one row each, and for tables without columns (`DEFAULT VALUES`), it is one line. No more of the file is
    held than twice one line of it, or a piece.
    """

    def __init__(self, name: str, *, copied: bool) -> None:
        self._name, self._copied = name, copied
        self._read = self._rows = self._largest = self._begin = self._in_statement = 0

    @property
    def written(self) -> Written:
        """What was counted, once all is read."""
        return Written(rows=self._rows, largest_statement=self._largest)

    def read(self, file: BinaryIO, length: int) -> Iterator[bytes | memoryview]:
        """The next so many bytes of the file, which are all its rows, in pieces that are counted by then.

        Raises:
            BackupError: the file is shorter, or they end in the middle of a statement, or of the rows.
        """
        size, last = _CHUNK, b""
        while length:
            piece = file.read(min(size, length))
            if len(piece) < min(size, length):
                raise BackupError(f"{self._name} became shorter while it was read.")
            whole = len(piece) == length
            counted = self._count_copied(piece) if self._copied else self._count_inserted(piece, whole=whole)
            if whole and counted < length:
                break
            # Where it was not even a line, once more with twice as much.
            size = max(_CHUNK, size // 2) if counted else 2 * size
            file.seek(counted - len(piece), os.SEEK_CUR)
            length, last = length - counted, (last + piece[-len(_COPY_END) :])[-len(_COPY_END) :]
            yield memoryview(piece)[:counted]
        if length or (self._copied and last != _COPY_END):
            where = "the rows" if self._copied else "a statement"
            raise BackupError(f"{self._name}: what pg_dump wrote ends in the middle of {where}.")
        self._rows -= _COPY_END.count(b"\n") if self._copied else 0

    def _count_copied(self, data: bytes) -> int:
        self._rows += data.count(b"\n")
        return len(data)

    def _count_inserted(self, data: bytes, *, whole: bool) -> int:
        """Count from the begin of a line; up to where: a statement or line that may go on is left for the next time."""
        end, together = 0, True
        # Not finditer: behind a string without an end it would go on, and take the string's lines for rows.
        while line := _LINE.match(data, end):
            start, end = line.span()
            first = data[start]
            if first == _I:
                self._begin, self._in_statement = self._read + start, 0
                begin = b"\n" + line.group()
                if begin.endswith(_HEADER_END) and begin.count(b"\n") == 2:  # its own, and the one before it
                    if together and (last := data.rfind(begin, end) + 1) and self._leap(data, start, last, begin):
                        end = last
                        if whole:
                            continue
                        break
                    together = False
                    if (next_ := data.find(begin, end) + 1) and self._leap(data, start, next_, begin):
                        end = next_
                        continue
            if first == _TAB:
                self._rows += 1
                self._in_statement += 1
            if end - start > 1 and data[end - 2] == _SEMICOLON:
                if first == _I:
                    self._rows += 1
                if self._in_statement > 1:
                    self._largest = max(self._largest, self._read + end - self._begin)
        self._read += end
        return end

    def _leap(self, data: bytes, start: int, end: int, begin: bytes) -> bool:
        """Count at once the statements from `start` to `end`, which all begin so; False if a value holds a line end.

        Of their quotes and line ends, nothing but line ends is left then once quotes in pairs are gone: where an odd
        number of quotes came before a line end, one of them is left.
        """
        left = _quotes_and_line_ends(data, start, end).replace(b"''", b"")
        if b"'" in left:
            return False
        statements, largest = 0, self._largest
        while start < end:
            next_ = data.find(begin, start, end) + 1 or end
            if next_ - start > largest and data.count(b"\n", start, next_) > 2:
                largest = next_ - start
            statements, start = statements + 1, next_
        self._rows += len(left) - statements
        self._largest = largest
        return True


def _quotes_and_line_ends(data: bytes, start: int, end: int) -> bytes:
    """Those of a part; where it is most of the whole, without a copy of it, which would cost a third as much again."""
    if end - start < len(data) // 2:
        return data[start:end].translate(None, _NEITHER_QUOTE_NOR_LINE_END)
    before, all_, after = (
        part.translate(None, _NEITHER_QUOTE_NOR_LINE_END) for part in (data[:start], data, data[end:])
    )
    return all_[len(before) : len(all_) - len(after)]


def count_inserted(path: Path) -> Written:
    """The rows of a whole file of pg_dump's INSERT statements, as `Counting` does."""
    return _count_file(path, copied=False)


def count_copied(path: Path) -> Written:
    """The rows of a whole file of COPY text, as `Counting` does."""
    return _count_file(path, copied=True)


def _count_file(path: Path, *, copied: bool) -> Written:
    counting = Counting(path.name, copied=copied)
    with path.open("rb") as file:
        for _ in counting.read(file, path.stat().st_size):
            pass
    return counting.written


def digest_rows(path: Path, start: int, length: int, *, copied: bool) -> int:
    """A number that tells the rows in a part of a file from others, whatever their order.

    It is the sum of the rows' hashes, so that the same row twice counts twice. A heap that is filled from a
    file does not keep its order: a short row goes into the space that a long one left on an earlier page.
    """
    total, rest = 0, b""
    with path.open("rb") as file:
        file.seek(start)
        while length and (piece := file.read(min(length, max(_CHUNK, len(rest))))):
            length -= len(piece)
            data, end = rest + piece, 0
            while line := _ROW_COPIED.match(data, end) if copied else _LINE.match(data, end):
                begin, end = line.span()
                if copied or data[begin] in (_TAB, _I):
                    # Without the comma or semicolon, which tell a row's place.
                    row = data[begin : end - (1 if copied else 2)]
                    total += int.from_bytes(hashlib.blake2b(row, digest_size=16).digest(), "big")
            rest = data[end:]
    # What has no end would be in no sum.
    return (total + int.from_bytes(hashlib.blake2b(rest, digest_size=16).digest(), "big")) % (1 << 128)
