"""A Docker engine of the tests' own, shared by all that test at a time, and an image that no registry gave."""

import fcntl
import gc
import io
import os
import re
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import docker
from docker.errors import DockerException, ImageNotFound

from tests.lacking import lacking
from tests.versions import RELEASES, binaries_of

if TYPE_CHECKING:
    from docker import DockerClient

MAJOR = 17
"""Of the PostgreSQL in the image: older than the newest clients, newer than those of many machines."""

IMAGE = f"postgres-of-tests:{MAJOR}-{blake2b(Path(__file__).read_bytes(), digest_size=4).hexdigest()}"

PASSWORD = "s3cr%t pass"

_PREFIX = "/usr/local/pgsql"
_TOOLS = ("sh", "mkdir", "rm", "ls", "cat", "chown", "sleep", "env")
_PATIENCE = 60

_SHARED = Path(tempfile.gettempdir()) / "cdc-backup-tests-engine"
"""Where the one engine is that all tests of this machine share: its folder `engine-…`, and two locks.

Who holds `door` may start or end an engine; who uses it holds `users` with others.
"""

# What the official image's entry point does, as far as it matters here.
_ENTRY = f"""#!/bin/sh
set -e
if [ ! -e /data/PG_VERSION ]; then
    printf %s "$POSTGRES_PASSWORD" > /tmp/pw
    user=${{POSTGRES_USER:-postgres}}
    {_PREFIX}/bin/initdb -D /data -U "$user" --pwfile=/tmp/pw -A scram-sha-256 -E UTF8 -N >/dev/null
    rm /tmp/pw
    echo "host all all all scram-sha-256" >> /data/pg_hba.conf
fi
exec {_PREFIX}/bin/postgres -D /data -c listen_addresses='*' -c unix_socket_directories=/tmp -c fsync=off "$@"
"""


@contextmanager
def started_engine() -> Iterator[tuple["DockerClient", str]]:
    """An engine that has the image, and its address: the one that runs here, else one of our own, gone afterwards."""
    usual = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    if client := _answering(usual):
        with closing(client), _image(client):
            yield client, usual
        return
    dockerd = shutil.which("dockerd")
    if dockerd is None:
        lacking("containers (no Docker engine answers, and no dockerd is installed: Debian has it in docker.io)")
    if os.geteuid() != 0:
        lacking("containers (no Docker engine answers, and only root can start one)")
    _SHARED.mkdir(mode=0o700, exist_ok=True)
    with (_SHARED / "door").open("w") as door, (_SHARED / "users").open("w") as users:
        fcntl.flock(door, fcntl.LOCK_EX)
        folder = next((one for one in _SHARED.glob("engine-*") if _answers(_address(one))), None)
        try:
            folder = folder or _start_engine(dockerd)
            fcntl.flock(users, fcntl.LOCK_SH)
            fcntl.flock(door, fcntl.LOCK_UN)
            with closing(docker.DockerClient(base_url=_address(folder), version="auto")) as client:
                yield client, _address(folder)
        finally:
            fcntl.flock(door, fcntl.LOCK_EX)
            # Who leaves last ends it, whoever started it: nobody waits for anybody.
            with suppress(BlockingIOError):
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _clear()


def _start_engine(dockerd: str) -> Path:
    """The folder of a new engine that has the image."""
    _clear()
    # The name of a socket must be short.
    folder = Path(tempfile.mkdtemp(prefix="engine-", dir=_SHARED))
    # No child of ours: it may outlive us.
    started = subprocess.run(
        (
            *("sh", "-c", '"$@" >"$0" 2>&1 </dev/null & echo $!', str(folder / "log")),
            *(dockerd, f"--data-root={folder}/data", f"--exec-root={folder}/exec"),
            *(f"--pidfile={folder}/pid", f"--host={_address(folder)}"),
        ),
        stdout=subprocess.PIPE,
        encoding="utf-8",
        check=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + _PATIENCE
    while not _answers(_address(folder)):
        if not _lives(int(started.stdout)) or time.monotonic() > deadline:
            lacking(f"containers (an engine does not start here: {_last_words(folder / 'log')})")
        time.sleep(0.1)
    with closing(docker.DockerClient(base_url=_address(folder), version="auto")) as client:
        _make_image(client)
    return folder


def _clear() -> None:
    """End the engine that nobody uses, also one that killed tests left, and remove its folder with all its mounts."""
    for folder in _SHARED.glob("engine-*"):
        with suppress(FileNotFoundError, ProcessLookupError):
            pid = int((folder / "pid").read_text())
            if str(folder) in Path(f"/proc/{pid}/cmdline").read_text():
                os.kill(pid, signal.SIGTERM)
                deadline = time.monotonic() + _PATIENCE
                while _lives(pid) and time.monotonic() < deadline:
                    time.sleep(0.1)
        mounted = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for place in reversed([place for place in mounted if Path(place).is_relative_to(folder)]):
            subprocess.run(("umount", "--lazy", place), check=False)
        shutil.rmtree(folder, ignore_errors=True)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@contextmanager
def running(client: "DockerClient", name: str, *, port: str = "5432", **options: Any) -> Iterator[str]:
    """A container of the image with a server that answers at that port inside; its name."""
    environment = {"POSTGRES_PASSWORD": PASSWORD, **options.pop("environment", {})}
    container = client.containers.run(IMAGE, ["-p", port], name=name, detach=True, environment=environment, **options)
    try:
        deadline = time.monotonic() + _PATIENCE
        ready = [f"{_PREFIX}/bin/pg_isready", "-q", "-h", "127.0.0.1", "-p", port]
        while container.exec_run(ready).exit_code:
            assert time.monotonic() < deadline, container.logs()
            time.sleep(0.1)
        yield name
    finally:
        container.remove(force=True)


@contextmanager
def swept() -> Iterator[None]:
    """The SDK leaves a socket open where an engine does not answer; it is closed here, and nobody warned of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield
        gc.collect()


def _address(folder: Path) -> str:
    return f"unix://{folder}/docker.sock"


def _answering(address: str) -> "DockerClient | None":
    with swept():
        try:
            return docker.DockerClient(base_url=address, version="auto")
        except DockerException:
            return None


def _answers(address: str) -> bool:
    if client := _answering(address):
        client.close()
    return client is not None


def _last_words(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines() or ["it says nothing"]
    return lines[-1][:300]


@contextmanager
def _image(client: "DockerClient") -> Iterator[None]:
    """The image in an engine that is not ours, which has it no longer than the tests."""
    try:
        client.images.get(IMAGE)
    except ImageNotFound:
        _make_image(client)
    try:
        yield
    finally:
        with suppress(DockerException):  # others use it
            client.images.remove(IMAGE)


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
