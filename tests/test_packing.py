"""A packed file: whatever went in comes out, and nothing but what went in is ever taken for it."""

import gzip
import hashlib
import shutil
import subprocess
from pathlib import Path
from typing import get_args

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from backup.session.packing import SUFFIXES, Packed, open_plain, pack, unpack
from backup.settings import Compression
from tests.lacking import lacking

COMPRESSIONS: tuple[Compression, ...] = get_args(Compression)
TEXT = b"".join(b'INSERT INTO t VALUES (%d, \'{"name": "x"}\');\n' % number for number in range(20_000))

every_compression = pytest.mark.parametrize("compression", COMPRESSIONS)
in_one_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def packed(folder: Path, compression: Compression, *pieces: bytes) -> tuple[Path, Packed, str]:
    path = folder / f"t.sql{SUFFIXES[compression]}"
    path.unlink(missing_ok=True)
    return path, *pack(pieces, path, compression)


def unpacked(path: Path, known: Packed, sha256: str) -> bytes | None:
    """What is in the file; None where it is not what was written."""
    target = path.with_name("plain.sql")
    target.unlink(missing_ok=True)
    return target.read_bytes() if unpack(path, target, known, sha256) else None


@every_compression
@in_one_folder
@given(pieces=st.lists(st.one_of(st.binary(max_size=300), st.sampled_from([b"", b"a" * 3_000_000, TEXT]))))
def test_what_went_in_comes_out(tmp_path: Path, compression: Compression, pieces: list[bytes]) -> None:
    text = b"".join(pieces)
    path, known, sha256 = packed(tmp_path, compression, *pieces)
    assert sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert known == Packed(
        compression=compression, plain_bytes=len(text), plain_sha256=hashlib.sha256(text).hexdigest()
    )
    assert unpacked(path, known, sha256) == text
    with open_plain(path, compression) as plain:
        assert plain.read() == text


def test_a_plain_file_is_read_in_the_same_way(tmp_path: Path) -> None:
    (tmp_path / "t.sql").write_bytes(TEXT)
    with open_plain(tmp_path / "t.sql", None) as plain:
        assert plain.read() == TEXT


@every_compression
@in_one_folder
@given(data=st.data())
def test_damage_of_any_sort_is_seen(tmp_path: Path, compression: Compression, data: st.DataObject) -> None:
    path, known, sha256 = packed(tmp_path, compression, TEXT)
    whole = path.read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    damaged = data.draw(
        st.sampled_from(
            [
                whole[:place],  # cut off
                whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :],  # a bit turned
                whole[:place] + whole[place + 1 :],  # a byte lost
                whole + whole,  # twice
                whole + b"\0",  # more
                whole[place:],
            ]
        ).filter(lambda other: other != whole)
    )
    path.write_bytes(damaged)
    assert unpacked(path, known, sha256) is None


@every_compression
def test_the_frame_itself_tells_of_damage(tmp_path: Path, compression: Compression) -> None:
    """So that the usual programs see it too, which know no SHA-256."""
    path, known, _ = packed(tmp_path, compression, TEXT)
    whole = bytearray(path.read_bytes())
    whole[-1 if compression == "zstd" else -5] ^= 1  # in the checksum, and nowhere else
    path.write_bytes(whole)
    assert unpacked(path, known, hashlib.sha256(whole).hexdigest()) is None


@every_compression
def test_no_more_is_written_than_belongs_there(tmp_path: Path, compression: Compression) -> None:
    path, known, sha256 = packed(tmp_path, compression, *[b"\0" * 1024 * 1024] * 20)
    short = known.model_copy(update={"plain_bytes": 1000})
    assert unpacked(path, short, sha256) is None
    assert path.with_name("plain.sql").stat().st_size <= 1024 * 1024


@every_compression
def test_the_usual_programs_read_it(tmp_path: Path, compression: Compression) -> None:
    if shutil.which(compression) is None:
        lacking(f"whether {compression} reads our files (the program {compression} is not on PATH)")
    path, _, _ = packed(tmp_path, compression, TEXT)
    done = subprocess.run((compression, "-dc", str(path)), capture_output=True, check=True)
    assert done.stdout == TEXT
    subprocess.run((compression, "-t", str(path)), check=True, capture_output=True)


def test_what_the_usual_programs_write_is_read_too(tmp_path: Path) -> None:
    (tmp_path / "t.gz").write_bytes(gzip.compress(TEXT))
    with open_plain(tmp_path / "t.gz", "gzip") as plain:
        assert plain.read() == TEXT
