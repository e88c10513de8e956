"""A table's file, compressed while it is written and plain again when it is read; never whole in memory."""

import hashlib
import io
import sys
import zlib
from collections.abc import Iterable
from gzip import BadGzipFile, GzipFile
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from pydantic import BaseModel, ConfigDict

from backup.settings import Compression

if TYPE_CHECKING or sys.version_info < (3, 14):
    from backports import zstd
else:
    from compression import zstd

SUFFIXES: dict[Compression, str] = {"gzip": ".gz", "zstd": ".zst"}
"""What the programs gzip and zstd append to the name of a file, and want to find there."""

UNPACK: dict[Compression, str] = {"gzip": "gzip -dk", "zstd": "zstd -d"}
"""What a person types before the names of files, to have the plain ones beside them."""

_LEVELS: dict[Compression, int] = {"gzip": 6, "zstd": 3}
"""Measured on INSERT text of jsonb columns: docs/design.md has the numbers."""

_CHUNK = 1024 * 1024
_WITH_GZIP_HEADER = 31
"""zlib's `wbits` for the largest window, in gzip's format, whose trailer holds a CRC-32 (zlib manual)."""


class Packed(BaseModel):
    """How a file is compressed, and the size in bytes and the SHA-256 of what is in it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    compression: Compression
    plain_bytes: int
    plain_sha256: str


def pack(pieces: Iterable[bytes | memoryview], target: Path, compression: Compression) -> tuple[Packed, str]:
    """Write the pieces into a new file, with a checksum that the usual programs verify; and its own SHA-256."""
    compressor = (
        zlib.compressobj(_LEVELS["gzip"], wbits=_WITH_GZIP_HEADER)
        if compression == "gzip"
        else zstd.ZstdCompressor(
            options={
                zstd.CompressionParameter.compression_level: _LEVELS["zstd"],
                zstd.CompressionParameter.checksum_flag: 1,
            }
        )
    )
    plain, stored, plain_bytes = hashlib.sha256(), hashlib.sha256(), 0
    with target.open("xb") as file:

        def write(data: bytes) -> None:
            stored.update(data)
            file.write(data)

        for piece in pieces:
            plain.update(piece)
            plain_bytes += len(piece)
            write(compressor.compress(piece))
        write(compressor.flush())
    packed = Packed(compression=compression, plain_bytes=plain_bytes, plain_sha256=plain.hexdigest())
    return packed, stored.hexdigest()


def open_plain(file: Path | io.RawIOBase, compression: Compression | None) -> io.BufferedIOBase:
    """The plain bytes of a table's file, to be read in pieces and closed.

    Reading to the end raises `EOFError`, `zlib.error`, `gzip.BadGzipFile` or `ZstdError` where it is damaged.
    """
    match compression:
        case "gzip":
            return GzipFile(file, "rb") if isinstance(file, Path) else GzipFile(fileobj=io.BufferedReader(file))
        case "zstd":
            return zstd.ZstdFile(file if isinstance(file, Path) else io.BufferedReader(file))
        case None:
            return file.open("rb") if isinstance(file, Path) else io.BufferedReader(file)


def unpack(source: Path, target: Path, packed: Packed, sha256: str) -> bool:
    """Write what is in the file into a new one, reading it once; whether both are what they were.

    Raises:
        OSError: one cannot be read, or the other not be written.
    """
    plain, plain_bytes = hashlib.sha256(), 0
    with source.open("rb") as file, target.open("xb") as copy:
        hashed = _Hashed(file)
        try:
            with open_plain(hashed, packed.compression) as pieces:
                # No further: what is damaged may go on for ever.
                while plain_bytes <= packed.plain_bytes and (piece := pieces.read(_CHUNK)):
                    plain.update(piece)
                    plain_bytes += len(piece)
                    copy.write(piece)
        except (EOFError, zlib.error, zstd.ZstdError, BadGzipFile):
            return False
    return (plain.hexdigest(), hashed.sha256.hexdigest()) == (packed.plain_sha256, sha256)


class _Hashed(io.RawIOBase):
    """A file that is hashed as it is read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override] # which takes more kinds than are given
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        self.sha256.update(data)
        return len(data)
