"""Files as a tar archive in pieces, which is how they come into a container and out of it; nothing is held whole."""

import io
import os
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from backup.errors import BackupError

_CHUNK = 1024 * 1024


def pack(content: Path | str, name: str, owner: tuple[int, int]) -> Iterator[bytes]:
    """A file or a folder of this machine, or a text, under another name; nobody but `owner` can read it there."""
    if isinstance(content, str):
        text = content.encode()
        yield from _member(name, io.BytesIO(text), len(text), owner)
    else:
        files = [content, *sorted(content.rglob("*"))] if content.is_dir() else [content]
        for file in files:
            inner = str(PurePosixPath(name) / file.relative_to(content)) if file != content else name
            if file.is_dir():
                yield from _member(inner, None, 0, owner)
                continue
            with file.open("rb") as opened:
                yield from _member(inner, opened, os.fstat(opened.fileno()).st_size, owner)
    yield b"\0" * 2 * tarfile.BLOCKSIZE


def unpack(pieces: Iterable[bytes], target: Path) -> None:
    """Write the one file or folder of an archive as `target`.

    Raises:
        BackupError: it holds what no pg_dump writes, or was cut off.
    """
    found = False
    with _opened(pieces) as archive:
        for member in archive:
            parts = PurePosixPath(member.name).parts[1:]
            if ".." in parts or not (member.isdir() or member.isreg()):
                raise BackupError(f"The container's archive holds {member.name!r}, which pg_dump does not write.")
            place, found = target.joinpath(*parts), True
            if member.isdir():
                place.mkdir(mode=0o700)
                continue
            content = archive.extractfile(member)
            assert content is not None  # noqa: S101 - of a regular file
            with place.open("wb") as file:
                while piece := content.read(_CHUNK):
                    file.write(piece)
                if file.tell() != member.size:
                    raise BackupError(f"{member.name} came out of the container shorter than it is there.")
    if not found:
        raise BackupError("Nothing came out of the container.")


def owner_of(pieces: Iterable[bytes]) -> tuple[int, int]:
    """User and group of what an archive begins with."""
    rest = iter(pieces)
    with _opened(rest) as archive:
        first = archive.next()
    for _ in rest:  # read to its end, else the connection stays open
        pass
    assert first is not None  # noqa: S101 - the engine packed what there is
    return first.uid, first.gid


def _member(name: str, content: io.IOBase | None, size: int, owner: tuple[int, int]) -> Iterator[bytes]:
    """A file with its content, or a folder."""
    member = tarfile.TarInfo(name)
    member.type, member.mode = (tarfile.DIRTYPE, 0o700) if content is None else (tarfile.REGTYPE, 0o600)
    (member.uid, member.gid), member.size = owner, size
    yield member.tobuf()
    if content is not None:
        while piece := content.read(_CHUNK):
            yield piece
        yield b"\0" * (-size % tarfile.BLOCKSIZE)


@contextmanager
def _opened(pieces: Iterable[bytes]) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(fileobj=_Stream(pieces), mode="r|") as archive:
            yield archive
    except tarfile.TarError as error:
        raise BackupError(f"What came out of the container is no archive: {error}") from error


class _Stream(io.RawIOBase):
    """The pieces of an answer as one file that can be read once."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces, self._rest = iter(pieces), memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = memoryview(piece)
        taken = self._rest[: len(buffer)]
        buffer[: len(taken)] = taken
        self._rest = self._rest[len(taken) :]
        return len(taken)
