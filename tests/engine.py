"""A Docker engine of the tests' own, and an image of PostgreSQL that no registry gave."""

import fcntl
import gc
import io
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import docker
from docker.errors import DockerException

from tests.lacking import lacking
from tests.versions import RELEASES, binaries_of

if TYPE_CHECKING:
    from docker import DockerClient

MAJOR = 17
"""Of the PostgreSQL in the image: older than the newest clients, newer than those of many machines."""

IMAGE = f"postgres-of-tests:{MAJOR}"

_PREFIX = "/usr/local/pgsql"
PASSWORD = "s3cr%t pass"

_TOOLS = ("sh", "mkdir", "rm", "ls", "cat", "chown", "sleep", "env")
_PATIENCE = 60

# What the official image's entry point does, as far as it matters here.
_ENTRY = f"""#!/bin/sh
set -e
if [ ! -e /data/PG_VERSION ]; then
    printf %s "$POSTGRES_PASSWORD" > /tmp/pw
    user=${{POSTGRES_USER:-postgres}}
    {_PREFIX}/bin/initdb -D /data -U "$user" --pwfile=/tmp/pw -A scram-sha-256 --no-sync >/dev/null
    rm /tmp/pw
    echo "host all all all scram-sha-256" >> /data/pg_hba.conf
fi
exec {_PREFIX}/bin/postgres -D /data -c listen_addresses='*' -c unix_socket_directories=/tmp -c fsync=off
"""


@contextmanager
def started_engine() -> Iterator[tuple["DockerClient", str]]:
    """An engine that has the image, and its address: the one that runs here, else one of our own, gone afterwards."""
    if client := _answering(None):
        with closing(client):
            _make_image(client)
            yield client, client.api.base_url
        return
    dockerd = shutil.which("dockerd")
    if dockerd is None:
        lacking("containers (no Docker engine answers, and no dockerd is installed: Debian has it in docker.io)")
    if os.geteuid() != 0:
        lacking("containers (no Docker engine answers, and only root can start one)")
    # Two engines of a machine would share a bridge.
    with (Path(tempfile.gettempdir()) / "cdc-backup-tests-engine.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # The name of a socket must be short.
        folder = Path(tempfile.mkdtemp(prefix="engine-"))
        address, log = f"unix://{folder}/docker.sock", folder / "log"
        with log.open("wb") as said:
            daemon = subprocess.Popen(
                (
                    *(dockerd, f"--data-root={folder}/data", f"--exec-root={folder}/exec"),
                    *(f"--pidfile={folder}/pid", f"--host={address}"),
                ),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )
        try:
            found = _connected(address, daemon)
            if found is None:
                lacking(f"containers (an engine does not start here: {_last_words(log)})")
            with closing(found) as client:
                _make_image(client)
                yield client, address
        finally:
            daemon.terminate()
            daemon.wait(_PATIENCE)
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def running(client: "DockerClient", name: str, **options: Any) -> Iterator[str]:
    """A container of the image with a server that answers; its name."""
    environment = {"POSTGRES_PASSWORD": PASSWORD, **options.pop("environment", {})}
    container = client.containers.run(IMAGE, name=name, detach=True, environment=environment, **options)
    try:
        deadline = time.monotonic() + _PATIENCE
        ready = [f"{_PREFIX}/bin/pg_isready", "-q", "-h", "127.0.0.1"]
        while container.exec_run(ready).exit_code:
            assert time.monotonic() < deadline, container.logs()
            time.sleep(0.1)
        yield name
    finally:
        container.remove(force=True)


def _connected(address: str, daemon: "subprocess.Popen[bytes]") -> "DockerClient | None":
    deadline = time.monotonic() + _PATIENCE
    while daemon.poll() is None and time.monotonic() < deadline:
        if client := _answering(address):
            return client
        time.sleep(0.1)
    return None


def _answering(address: str | None) -> "DockerClient | None":
    with swept():
        try:
            return docker.DockerClient(base_url=address, version="auto")
        except DockerException:
            return None


@contextmanager
def swept() -> Iterator[None]:
    """The SDK leaves a socket open where an engine does not answer; it is closed here, and nobody warned of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield
        gc.collect()


def _last_words(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines() or ["it says nothing"]
    return lines[-1][:300]


def _make_image(client: "DockerClient") -> None:
    """Import a root file system: the programs, the libraries that they need, and a shell for the entry point."""
    binaries = binaries_of(MAJOR)
    tools = [Path(found).resolve() for tool in _TOOLS if (found := shutil.which(tool))]
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as image:
        image.add(binaries.parent, _PREFIX[1:])
        for tool, path in zip(_TOOLS, tools, strict=True):
            image.add(path, f"bin/{tool}")
        for library in _libraries([*tools, *(binaries / name for name in ("postgres", "psql", "initdb", "pg_dump"))]):
            image.add(library.resolve(), str(library)[1:])
        image.add("/usr/share/zoneinfo", "usr/share/zoneinfo")
        _add_text(image, "etc/passwd", "root:x:0:0::/:/bin/sh\npostgres:x:999:999::/data:/bin/sh\n")
        _add_text(image, "etc/group", "root:x:0:\npostgres:x:999:\n")
        _add_text(image, "entry", _ENTRY, mode=0o755)
        for name, mode, owner in (("tmp", 0o1777, 0), ("data", 0o700, 999), ("dev", 0o755, 0)):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode, folder.uid, folder.gid = tarfile.DIRTYPE, mode, owner, owner
            image.addfile(folder)
    repository, tag = IMAGE.split(":")
    changes = [
        'ENTRYPOINT ["/entry"]',
        "USER 999",
        "EXPOSE 5432",
        f"ENV PATH={_PREFIX}/bin:/bin PG_VERSION={RELEASES[MAJOR]} LC_ALL=C",
    ]
    client.api.import_image_from_data(archive.getvalue(), repository=repository, tag=tag, changes=changes)


def _libraries(programs: list[Path]) -> set[Path]:
    """The shared libraries outside of the programs' own folder, the loader included."""
    said = "".join(
        subprocess.run(("ldd", str(program)), capture_output=True, encoding="utf-8", check=True).stdout
        for program in programs
    )
    found = {Path(path) for path in re.findall(r"(?:=> |^\s)(/\S+) \(", said, flags=re.MULTILINE)}
    return {
        path
        for path in found
        if not any(path.is_relative_to(p.parent.parent) for p in programs if p.name == "postgres")
    }


def _add_text(image: tarfile.TarFile, name: str, text: str, mode: int = 0o644) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(text.encode()), mode
    image.addfile(member, io.BytesIO(text.encode()))
