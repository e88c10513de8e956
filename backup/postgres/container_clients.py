"""pg_dump and psql inside of the database's own container: files in and out by archive, and nothing left behind."""

import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from backup.errors import BackupError, CDCBackupError, ProcessError
from backup.postgres.clients import PROGRAMS, argument, major
from backup.postgres.container import Container, in_words
from backup.postgres.container_folder import PASSFILE, PREFIX, PrivateFolder, clear_left, private_folder
from backup.postgres.database import Database
from backup.postgres.docker_engine import CUT_OFF, engine, execute, state_after
from backup.process import STDERR_KEPT, Finished

_PASSED = ("PGUSER", "PGDATABASE", "PGOPTIONS", "PGTZ", "PGDATESTYLE", "PGCLIENTENCODING")
"""What of the environment leads to the same database inside; host, port, TLS and files are another machine's."""

# Unlike the names of other roles' sessions, everybody sees these, of all databases.
_LIVING = """
select (classid::int8 << 32) | objid::int8 from pg_catalog.pg_locks where locktype = 'advisory' and objsubid = 1
"""


@dataclass(frozen=True, kw_only=True)
class ContainerClients:
    """pg_dump and psql of one version, inside of a container; they serve the databases of the server in it alone."""

    container: Container
    version: str
    _names: set[str] = field(default_factory=set, init=False, repr=False, compare=False)

    @property
    def place(self) -> str:
        """The container, for people."""
        return f"the container {self.container.name}"

    def pg_dump(
        self, database: Database, *options: str, target: Path, variables: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        """Run pg_dump inside, into a folder there, and bring what it wrote; as the protocol says."""
        with self._folder(database) as folder:
            argv = ("pg_dump", "--no-password", f"--file={folder.path / 'dump'}", *options)
            self._run(folder, database, argv, variables)
            folder.take("dump", target)

    def psql(self, database: Database, script: str, includes: Sequence[Path] = ()) -> Finished:
        """Bring the script and what it includes inside, and run psql there; as the protocol says."""
        with self._folder(database) as folder:
            places = {path: folder.put(path, str(number)) for number, path in enumerate(includes)}
            # The longest first: the name of a delta's folder begins with its session's.
            for path, place in sorted(places.items(), key=lambda pair: -len(str(pair[0]))):
                script = script.replace(argument(str(path))[1:-1], str(place))
            inside = folder.put(script, "script")
            argv = ("psql", "--no-psqlrc", "--quiet", "--no-password", f"--file={inside}")
            named = {str(inside): "<stdin>"} | {str(place): str(path) for path, place in places.items()}
            return self._run(folder, database, argv, {}, named)

    def room(self, database: Database) -> int | None:
        """The bytes that are free for their files inside; None where the image has no df, and nobody can tell."""
        with self._folder(database) as folder:
            ended = execute(folder.api, self.container.id, ("df", "-Pk", str(folder.path)), {})
        said = ended.stdout.decode(errors="replace").split("\n")
        free = said[1].split()[3:4] if ended.returncode == 0 and len(said) > 1 else []
        return int(free[0]) * 1024 if free and free[0].isdecimal() else None

    @contextmanager
    def _folder(self, database: Database) -> Iterator[PrivateFolder]:
        with (
            _living(database) as number,
            engine() as api,
            private_folder(api, self.container, _name(number), database.passfile_line()) as folder,
        ):
            self._names.add(folder.path.name)
            yield folder

    def _run(
        self,
        folder: PrivateFolder,
        database: Database,
        argv: tuple[str, ...],
        variables: Mapping[str, str],
        named: Mapping[str, str] = MappingProxyType({}),
    ) -> Finished:
        """Run a program inside that reaches the database; it has ended when this returns, however it does.

        `named` are paths inside, and what they are called in what it says.
        """
        known = database.environment()
        environment = {
            **{name: known[name] for name in _PASSED if name in known},
            **variables,
            "PGHOST": "127.0.0.1",
            "PGHOSTADDR": "127.0.0.1",
            "PGPORT": self.container.port,
            "PGAPPNAME": folder.path.name,
            # What the container's own environment says of these is another role's, or of a way to another server.
            "PGOPTIONS": variables.get("PGOPTIONS", known.get("PGOPTIONS", "")),
            "PGPASSWORD": "",
            "PGPASSFILE": str(folder.path / PASSFILE),
            "PGSSLMODE": "prefer",
        }
        # All of them: another thread's is not waited for either.
        ended = execute(
            folder.api, self.container.id, argv, environment, stop=lambda: _end_sessions(database, self._names)
        )
        stdout, stderr = ended.stdout, ended.stderr
        for path, name in named.items():
            stdout, stderr = stdout.replace(path.encode(), name.encode()), stderr.replace(path.encode(), name.encode())
        said = stderr[-STDERR_KEPT:].decode(errors="replace")
        if ended.returncode != 0:
            code, state = ended.returncode, state_after(folder.api, self.container.id, ended)
            if state not in ("running", ""):
                code = CUT_OFF
                words, command = in_words(state, self.container.name, self.container.service)
                said = (
                    f"We were cut off from what ran in the container: {self.container.name} {words}. "
                    f"{command}, then run this again.\n{said}"
                )
            raise ProcessError(argv, code, said)
        return Finished(argv=argv, returncode=0, stdout=stdout.decode(errors="surrogateescape"), stderr=said)


def container_clients(container: Container, database: Database) -> ContainerClients:
    """The clients inside of the container, which must be that of the database; what killed runs left there goes.

    Raises:
        BackupError: there are none, or another server than the database's runs in it.
    """
    version = _version(container)
    clients = ContainerClients(container=container, version=version)
    with _living(database) as number:
        try:
            said = clients.psql(database, f"\\pset tuples_only on\n\\pset format unaligned\n{_LIVING};\n").stdout
        except ProcessError as error:
            # Of a file of ours, which is gone by now.
            told = [line for line in error.stderr.strip().splitlines() if "password retrieved from" not in line]
            raise BackupError(
                f"The server in the container {container.name} does not let in who reaches {database}, so it may be "
                "another: " + "; ".join(line.removeprefix("psql: error: ") for line in told),
                untouched="Nothing was done.",
                remedy="Correct the URL, or backup.container; or let backup.clients name programs of this machine.",
            ) from error
        if str(number) not in said.split("\n"):
            raise BackupError(
                f"{database} is not the server in the container {container.name}.",
                untouched="Nothing was done.",
                remedy="Correct the URL, or backup.container.",
            )
    needed = database.login.server_version
    if major(version) < major(needed):
        raise BackupError(
            f"The programs in the container {container.name} are of PostgreSQL {version}, and the server is {needed}.",
            untouched="Nothing was done.",
            remedy="backup.clients: auto takes those of this machine.",
        )
    with engine() as api:
        clear_left(api, container, lambda names: _dead(database, names))
    return clients


def _version(container: Container) -> str:
    """The version that all the programs in the container are of."""
    versions = dict[str, str]()
    with engine() as api:
        for program in PROGRAMS:
            ended = execute(api, container.id, (program, "--version"), {})
            found = re.search(rb"\(PostgreSQL\) (\d+[.\w]*)", ended.stdout)
            if ended.returncode or not found:
                raise BackupError(
                    f"{program} does not run in the container {container.name}: {ended.said}",
                    untouched="Nothing was done.",
                    remedy="backup.clients: auto takes those of this machine.",
                )
            versions[program] = found[1].decode()
    if len(set(versions.values())) > 1:
        listed = ", ".join(f"{name} {number}" for name, number in versions.items())
        raise BackupError(f"The programs in the container {container.name} are not of one version: {listed}.")
    return versions["pg_dump"]


@contextmanager
def _living(database: Database) -> Iterator[int]:
    """A number by which every run at this server knows that we live, and that this is the server.

    It is an advisory lock of a connection of ours, so it goes with us.
    """
    number = secrets.randbits(63)
    with database.connect() as connection:
        connection.execute("select pg_advisory_lock(%s)", [number])
        yield number


def _name(number: int) -> str:
    """What that run calls its folder inside, and the sessions of its programs."""
    return f"{PREFIX}{number:016x}"


def _dead(database: Database, names: list[str]) -> list[str]:
    """Those of the names whose makers are dead; what their programs still do is ended."""
    with database.connect() as connection:
        living = {_name(number) for (number,) in connection.execute(_LIVING)}
    dead = [name for name in names if name not in living]
    _end_sessions(database, dead)
    return dead


def _end_sessions(database: Database, names: Sequence[str] | set[str]) -> None:
    """End what programs inside do on the server, which is how they are ended."""
    with suppress(CDCBackupError), database.connect() as connection:
        connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name = any(%s)", [list(names)]
        )
