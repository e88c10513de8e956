"""PostgreSQL's own programs: which pg_dump and psql on this machine can serve which server."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from backup.errors import BackupError, ProcessError, UsageError
from backup.postgres.database import Database
from backup.postgres.embedded import embedded_binaries
from backup.process import Finished, run

_PROGRAMS = ("pg_dump", "psql")
_USUAL_FOLDERS = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/usr/local/pgsql/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/opt/homebrew/opt/libpq/bin",
    "/usr/local/opt/postgresql@*/bin",
    "/Applications/Postgres.app/Contents/Versions/*/bin",
)


class Clients(Protocol):
    """pg_dump and psql of one version, wherever they run."""

    @property
    def version(self) -> str:
        """Their version, such as 15.4."""

    @property
    def place(self) -> str:
        """Where they are, for people."""

    def pg_dump(
        self, database: Database, *options: str, target: Path, variables: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        """Run pg_dump; what it writes, a file or a folder as `options` say, is `target` afterwards.

        `variables` are added to the environment in which it reaches the database.

        Raises:
            ProcessError: it failed.
        """

    def psql(self, database: Database, script: str) -> Finished:
        """Run psql with a script that may include files of this machine by their absolute paths.

        Raises:
            ProcessError: it ended with another exit code than 0.
        """


@dataclass(frozen=True, kw_only=True)
class InstalledClients:
    """pg_dump and psql of one version, in one folder of this machine."""

    folder: Path
    version: str

    @property
    def place(self) -> str:
        """Their folder."""
        return str(self.folder)

    def pg_dump(
        self, database: Database, *options: str, target: Path, variables: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        """Run pg_dump as a child; as the protocol says."""
        run(
            (self._program("pg_dump"), "--no-password", f"--file={target}", *options, *database.arguments()),
            environment={**database.environment(), **variables},
        )

    def psql(self, database: Database, script: str) -> Finished:
        """Run psql as a child; as the protocol says."""
        return run(
            (self._program("psql"), "--no-psqlrc", "--quiet", "--no-password", "--file=-", *database.arguments()),
            environment=database.environment(),
            stdin=script,
        )

    def _program(self, name: str) -> str:
        return str(self.folder / name)


def major(version: str) -> int:
    """The major version: 15 of 15.4, 19 of 19beta1."""
    found = re.match(r"\d+", version)
    return int(found[0]) if found else 0


def argument(text: str) -> str:
    """An argument of a psql command, in single quotes by psql's rules."""
    return "'" + text.replace("\\", "\\\\").replace("'", "''").replace("\n", "\\n") + "'"


def find_clients(database: Database, server_version: str) -> InstalledClients:
    """The newest clients whose major version is at least the server's.

    pg_dump refuses a newer server (PostgreSQL manual, pg_dump, "Notes"). The embedded ones know neither
    TLS nor other authentication libraries, so they serve a server on this machine alone.

    Raises:
        BackupError: there are none, with what was found where.
    """
    found = _installed()
    if _is_local(database):
        found = (*found, *_embedded())
    serving = [clients for clients in found if major(clients.version) >= major(server_version)]
    if serving:
        return max(serving, key=lambda clients: major(clients.version))
    listed = "".join(f"\n  {clients.version} in {clients.place}" for clients in found)
    raise BackupError(
        f"The server is PostgreSQL {server_version}, and no pg_dump and psql that can serve it were found"
        + (f"; there is only:{listed}" if found else "."),
        untouched="Nothing was backed up.",
        remedy="Install PostgreSQL's client programs of that version or a newer one, and put them on PATH.",
    )


@cache
def _installed() -> tuple[InstalledClients, ...]:
    """The clients on PATH and in the folders where installers put them."""
    folders = [Path(part) for part in os.environ.get("PATH", "").split(os.pathsep) if part]
    for pattern in _USUAL_FOLDERS:
        folders += sorted(Path("/").glob(pattern.removeprefix("/")))
    return tuple(c for folder in dict.fromkeys(folders) if (c := _clients_in(folder)) is not None)


def _embedded() -> tuple[InstalledClients, ...]:
    try:
        clients = _clients_in(embedded_binaries())
    except UsageError:  # the extra is not installed
        return ()
    return () if clients is None else (clients,)


@cache
def _clients_in(folder: Path) -> InstalledClients | None:
    """The clients in `folder`, or None where one is missing, does not run, or they are of two versions."""
    if not all(os.access(folder / program, os.X_OK) for program in _PROGRAMS):
        return None
    versions = set()
    for program in _PROGRAMS:
        try:
            said = run((str(folder / program), "--version"), environment=dict(os.environ)).stdout
        except (ProcessError, OSError):  # such as Debian's wrapper without any version behind it
            return None
        match = re.search(r"\(PostgreSQL\) (\d+[.\w]*)", said)
        versions.add(match[1] if match else "")
    return (
        InstalledClients(folder=folder, version=versions.pop()) if len(versions) == 1 and "" not in versions else None
    )


def _is_local(database: Database) -> bool:
    host = database.parameters.get("host") or database.parameters.get("hostaddr") or "/"
    encrypted = database.parameters.get("sslmode", "prefer") not in ("disable", "allow", "prefer")
    return not encrypted and all(
        part.startswith("/") or part in ("localhost", "127.0.0.1", "::1") for part in host.split(",")
    )
