"""pg_dump and psql inside of the database's own container: streamed out and in, and nothing left behind."""

import os
import re
import secrets
import socket
import tarfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import blake2b
from io import BytesIO, RawIOBase
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from backup.errors import BackupError, CDCBackupError, ProcessError
from backup.postgres.clients import InstalledClients, argument
from backup.postgres.container import Container, engine
from backup.postgres.database import Database
from backup.postgres.find_clients import find_clients
from backup.process import STDERR_KEPT, Finished

if TYPE_CHECKING:
    from docker import APIClient

_TMP = "/tmp"  # noqa: S108 - of the container; what is made in it is private
_PREFIX = "cdc-backup-"
_PASSED = ("PGUSER", "PGDATABASE", "PGOPTIONS", "PGTZ", "PGCLIENTENCODING")
"""What of the environment leads to the same database inside; host, port, TLS and files are another machine's."""

_TRIES = 50
_TRY = 0.1
"""How often, and after how many seconds each, to look whether a program that was cut off has ended."""


@dataclass(frozen=True, kw_only=True)
class ContainerClients:
    """pg_dump and psql of one version, inside of a container; `host` is the server's, as it is reached from here.

    What is on another server, such as a scratch database, cannot be reached from inside: clients of this machine
    serve it.
    """

    container: Container
    version: str
    host: str

    @property
    def place(self) -> str:
        """The container, for people."""
        return f"the container {self.container.name}"

    def pg_dump(
        self, database: Database, *options: str, target: Path, variables: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        """Run pg_dump inside, into a folder there, and bring what it wrote; as the protocol says."""
        if database.host != self.host:
            _clients_here(database).pg_dump(database, *options, target=target, variables=variables)
            return
        with engine() as api, _private_folder(api, self.container) as folder:
            written = folder / "dump"
            self._run(api, database, ("pg_dump", "--no-password", f"--file={written}", *options), variables)
            stream, _ = api.get_archive(self.container.id, str(written))
            _unpack(stream, target)

    def psql(self, database: Database, script: str, includes: Sequence[Path] = ()) -> Finished:
        """Bring the script and what it includes inside, and run psql there; as the protocol says."""
        if database.host != self.host:
            return _clients_here(database).psql(database, script, includes)
        with engine() as api, _private_folder(api, self.container) as folder:
            places = {path: folder / str(number) for number, path in enumerate(includes)}
            # The longest first: the name of a delta's folder begins with its session's.
            for path, place in sorted(places.items(), key=lambda pair: -len(str(pair[0]))):
                api.put_archive(self.container.id, str(folder), _packed(path, place.name))
                script = script.replace(argument(str(path))[1:-1], str(place))
            inside = folder / "script"
            api.put_archive(self.container.id, str(folder), _packed_text(script, inside.name))
            argv = ("psql", "--no-psqlrc", "--quiet", "--no-password", f"--file={inside}")
            named = {str(inside): "<stdin>"} | {str(place): str(path) for path, place in places.items()}
            return self._run(api, database, argv, {}, named)

    def _run(
        self,
        api: "APIClient",
        database: Database,
        argv: tuple[str, ...],
        variables: Mapping[str, str],
        named: Mapping[str, str] = MappingProxyType({}),
    ) -> Finished:
        """Run a program inside that reaches the database; it has ended when this returns, however it does.

        `named` are paths inside, and what they are called in what it says.
        """
        known = database.environment()
        # Its sessions are known by this name, so that they can be ended: an exec cannot.
        application = f"{_PREFIX}{secrets.token_hex(6)}"
        environment = {
            **{name: known[name] for name in _PASSED if name in known},
            "PGHOST": "127.0.0.1",
            "PGPORT": self.container.port,
            **database.password_variable(),
            **variables,
            "PGAPPNAME": application,
        }
        try:
            code, stdout, stderr = execute(api, self.container, argv, environment)
        except BaseException:
            _end_sessions(database, application)
            raise
        for path, name in named.items():
            stdout, stderr = stdout.replace(path.encode(), name.encode()), stderr.replace(path.encode(), name.encode())
        said = stderr[-STDERR_KEPT:].decode(errors="replace")
        if code != 0:
            raise ProcessError(argv, code, said)
        return Finished(argv=argv, returncode=0, stdout=stdout.decode(errors="surrogateescape"), stderr=said)


def container_clients(container: Container, database: Database) -> ContainerClients:
    """The clients inside of the container, which must be that of the database.

    Raises:
        BackupError: there are none, or another server than the database's runs in it.
    """
    versions = set()
    with engine() as api:
        for program in ("pg_dump", "pg_restore", "psql"):
            code, stdout, stderr = execute(api, container, (program, "--version"), {})
            found = re.search(rb"\(PostgreSQL\) (\d+[.\w]*)", stdout)
            if code or not found:
                said = (stderr or stdout).decode(errors="replace").strip()
                raise BackupError(
                    f"{program} does not run in the container {container.name}: {said}",
                    untouched="Nothing was done.",
                    remedy="backup.clients: auto takes those of this machine.",
                )
            versions.add(found[1].decode())
    clients = ContainerClients(container=container, version=versions.pop(), host=database.host)
    identity = "select system_identifier from pg_control_system()"
    with database.connect() as connection:
        here = connection.execute(identity).fetchone()
    try:
        inside = clients.psql(database, f"\\pset tuples_only on\n\\pset format unaligned\n{identity};\n").stdout.strip()
    except ProcessError as error:
        inside = error.stderr.strip()
    if here is None or inside != str(here[0]):
        raise BackupError(
            f"{database} is not the server in the container {container.name}: what identifies it is {here and here[0]} "
            f"from here, and inside {inside}.",
            untouched="Nothing was done.",
            remedy="Correct the URL, or backup.container.",
        )
    return clients


def _clients_here(database: Database) -> InstalledClients:
    with database.connect() as connection:
        return find_clients(database, connection.info.parameter_status("server_version") or "0")


def execute(
    api: "APIClient", container: Container, argv: tuple[str, ...], environment: Mapping[str, str]
) -> tuple[int, bytes, bytes]:
    """Run a program in the container, and wait; its exit code, and what it wrote to its two streams."""
    id_ = api.exec_create(container.id, list(argv), environment=dict(environment))["Id"]
    stdout, stderr = BytesIO(), BytesIO()
    for out, err in api.exec_start(id_, stream=True, demux=True):
        stdout.write(out or b"")
        stderr.write(err or b"")
    code = api.exec_inspect(id_)["ExitCode"]
    return (1 if code is None else int(code)), stdout.getvalue(), stderr.getvalue()


@contextmanager
def _private_folder(api: "APIClient", container: Container) -> Iterator[PurePosixPath]:
    """A folder inside that nobody else can read, and that is gone afterwards; what a killed run left goes first."""
    mine = f"{_PREFIX}{_machine()}-"
    _, listed, _ = execute(api, container, ("ls", "-1", _TMP), {})
    left = [name for name in listed.decode(errors="replace").split() if name.startswith(mine) and not _lives(name)]
    if left:
        execute(api, container, ("rm", "-rf", *(f"{_TMP}/{name}" for name in left)), {})
    folder = PurePosixPath(_TMP) / f"{mine}{os.getpid()}-{secrets.token_hex(4)}"
    code, _, stderr = execute(api, container, ("mkdir", "-m", "700", str(folder)), {})
    if code:
        raise BackupError(
            f"No folder can be made in {_TMP} of the container {container.name}: "
            f"{stderr.decode(errors='replace').strip()}",
            untouched="Nothing was done.",
            remedy="pg_dump needs room there; or let backup.clients take the programs of this machine.",
        )
    try:
        yield folder
    finally:
        execute(api, container, ("rm", "-rf", str(folder)), {})


def _machine() -> str:
    return blake2b(socket.gethostname().encode(), digest_size=4).hexdigest()


def _lives(name: str) -> bool:
    """Whether the process of this machine that made the folder is still there."""
    try:
        os.kill(int(name.split("-")[3]), 0)
    except (ProcessLookupError, ValueError, IndexError):
        return False
    except PermissionError:
        return True
    return True


def _end_sessions(database: Database, application: str) -> None:
    """End what a program inside still does on the server, and with that the program."""
    query = (
        "select count(pg_terminate_backend(pid)) from pg_stat_activity"
        " where starts_with(application_name, %s) and pid <> pg_backend_pid()"
    )
    with suppress(CDCBackupError), database.connect() as connection:
        for _ in range(_TRIES):
            if connection.execute(query, [application]).fetchone() == (0,):
                return
            time.sleep(_TRY)


class _Stream(RawIOBase):
    """The pieces of an answer as one file that can be read once."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces, self._rest = iter(pieces), b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = piece
        taken = self._rest[: len(buffer)]
        buffer[: len(taken)] = taken
        self._rest = self._rest[len(taken) :]
        return len(taken)


def _unpack(stream: Iterable[bytes], target: Path) -> None:
    """Write the one file or folder of an archive as `target`, readable by its owner alone."""
    with tarfile.open(fileobj=_Stream(stream), mode="r|") as archive:
        for member in archive:
            parts = PurePosixPath(member.name).parts[1:]
            place = target.joinpath(*parts)
            if ".." in parts or not (member.isdir() or member.isreg()):
                raise BackupError(f"The container's archive holds {member.name!r}, which pg_dump does not write.")
            if member.isdir():
                place.mkdir(mode=0o700)
                continue
            content = archive.extractfile(member)
            assert content is not None  # noqa: S101 - of a regular file
            with place.open("xb") as file:
                while piece := content.read(1024 * 1024):
                    file.write(piece)
                if file.tell() != member.size:
                    raise BackupError(f"{member.name} came out of the container shorter than it is there.")


def _packed(path: Path, name: str) -> Iterator[bytes]:
    """A file or a folder of this machine as an archive in pieces, under another name."""
    files = [path, *sorted(path.rglob("*"))] if path.is_dir() else [path]
    for file in files:
        member = tarfile.TarInfo(str(PurePosixPath(name) / file.relative_to(path)) if file != path else name)
        # The folder that it comes into is private, and belongs to another user than the engine's.
        member.mode = 0o755 if file.is_dir() else 0o644
        if file.is_dir():
            member.type = tarfile.DIRTYPE
            yield member.tobuf()
            continue
        with file.open("rb") as content:
            member.size = os.fstat(content.fileno()).st_size
            yield member.tobuf()
            while piece := content.read(1024 * 1024):
                yield piece
        yield b"\0" * (-member.size % tarfile.BLOCKSIZE)
    yield b"\0" * 2 * tarfile.BLOCKSIZE


def _packed_text(text: str, name: str) -> bytes:
    content = text.encode()
    member = tarfile.TarInfo(name)
    member.mode, member.size = 0o644, len(content)
    return member.tobuf() + content + b"\0" * (-len(content) % tarfile.BLOCKSIZE + 2 * tarfile.BLOCKSIZE)
