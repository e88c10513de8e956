"""What pg_dump wrote of a table's rows, counted again from the bytes on the disk."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from backup.errors import BackupError

# A line as SQL sees it: a line end inside of a string or of a quoted name does not end it. pg_dump doubles
# a quote inside of either and escapes nothing else (standard_conforming_strings is on).
_LINE = re.compile(rb"""[^"'\n]*+(?:"[^"]*+"[^"'\n]*+|'[^']*+'[^"'\n]*+)*+\n""")

_ROW_COPIED = re.compile(rb"[^\n]*+\n")

_HEADER_END = b" VALUES\n"
_NEITHER_QUOTE_NOR_LINE_END = bytes(set(range(256)) - set(b"'\n"))

_TAB, _SEMICOLON, _I = b"\t;I"
_COPY_END = b"\\.\n\n\n"
_CHUNK = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Written:
    """The rows in a file, and the size of its largest statement of more than one row in bytes."""

    rows: int
    largest_statement: int


class Counting:
    r"""Counts the rows of a file exactly, piece by piece; `name` is the file's, for messages.

    With `copied` it is COPY text: a line each, for a line end inside of a value is written `\n`. Else it is
    pg_dump's INSERT statements. One of several rows is a line `INSERT INTO … VALUES` and a line `\t(…)` for each
    row. With one row each, and for tables without columns (`DEFAULT VALUES`), it is one line. No more of the file is
    held than one line of it, or a piece.
    """

    def __init__(self, name: str, *, copied: bool) -> None:
        self._name, self._copied = name, copied
        self._pieces: list[bytes] = []
        self._waiting = self._read = 0
        self._rest = b""
        self._rows = self._largest = self._begin = self._in_statement = 0

    def add(self, piece: bytes) -> None:
        """Count what comes next in the file."""
        if self._copied:
            self._rows += piece.count(b"\n")
            self._rest = (self._rest + piece)[-len(_COPY_END) :]
            return
        self._pieces.append(piece)
        self._waiting += len(piece)
        # A line of many pieces is begun anew each time: so each time with as much as all before.
        if self._waiting >= len(self._rest):
            self._count()

    def end(self) -> Written:
        """What was counted, when nothing comes any more.

        Raises:
            BackupError: it ends in the middle of a statement, or of the rows.
        """
        self._count()
        if self._rest != (_COPY_END if self._copied else b""):
            where = "the rows" if self._copied else "a statement"
            raise BackupError(f"{self._name}: what pg_dump wrote ends in the middle of {where}.")
        rows = self._rows - (_COPY_END.count(b"\n") if self._copied else 0)
        return Written(rows=rows, largest_statement=self._largest)

    def _count(self) -> None:
        """Count the whole lines of what has come, and keep the rest of it."""
        if not self._pieces:
            return
        data = b"".join((self._rest, *self._pieces))
        self._read += self._waiting
        self._pieces, self._waiting = [], 0
        at, end = self._read - len(data), 0
        # Not finditer: behind a string without an end it would go on, and take the string's lines for rows.
        while line := _LINE.match(data, end):
            start, end = line.span()
            first = data[start]
            if first == _I:
                self._begin, self._in_statement = at + start, 0
                if next_ := self._leap(data, start, end):
                    end = next_
                    continue
            if first == _TAB:
                self._rows += 1
                self._in_statement += 1
            if end - start > 1 and data[end - 2] == _SEMICOLON:
                if first == _I:
                    self._rows += 1
                if self._in_statement > 1:
                    self._largest = max(self._largest, at + end - self._begin)
        self._rest = data[end:]

    def _leap(self, data: bytes, start: int, end: int) -> int:
        """Count at once a statement of whose values none holds a line end; where the next one begins, or 0.

        `start` to `end` is its first line. Of its quotes and line ends, nothing but line ends is left then once quotes
        in pairs are gone: where an odd number of quotes came before a line end, one of them is left.
        """
        header = data[start:end]
        if not header.endswith(_HEADER_END) or not (next_ := data.find(b"\n" + header, end) + 1):
            return 0
        left = data[end:next_].translate(None, _NEITHER_QUOTE_NOR_LINE_END).replace(b"''", b"")
        if b"'" in left or data[next_ - 2] != _SEMICOLON:
            return 0
        self._rows += len(left)
        if len(left) > 1:
            self._largest = max(self._largest, next_ - start)
        return next_


def count_inserted(path: Path) -> Written:
    """The rows of a whole file of pg_dump's INSERT statements, as `Counting` does."""
    return _count_file(path, copied=False)


def count_copied(path: Path) -> Written:
    """The rows of a whole file of COPY text, as `Counting` does."""
    return _count_file(path, copied=True)


def _count_file(path: Path, *, copied: bool) -> Written:
    counting = Counting(path.name, copied=copied)
    with path.open("rb") as file:
        while piece := file.read(_CHUNK):
            counting.add(piece)
    return counting.end()


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
