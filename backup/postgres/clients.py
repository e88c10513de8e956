"""PostgreSQL's own programs: which pg_dump and psql on this machine can serve which server."""

import os
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from backup.errors import BackupError, ProcessError, UsageError
from backup.postgres.database import Database
from backup.postgres.embedded import embedded_binaries
from backup.process import run

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


@dataclass(frozen=True, kw_only=True)
class Clients:
    """pg_dump and psql of one version, in one folder."""

    folder: Path
    version: str

    @property
    def major(self) -> int:
        """The major version, 15 of 15.4."""
        return major(self.version)

    @property
    def pg_dump(self) -> str:
        """The path of pg_dump."""
        return str(self.folder / "pg_dump")

    @property
    def psql(self) -> str:
        """The path of psql."""
        return str(self.folder / "psql")


def major(version: str) -> int:
    """The major version: 15 of 15.4, 19 of 19beta1."""
    found = re.match(r"\d+", version)
    return int(found[0]) if found else 0


def find_clients(database: Database, server_version: str) -> Clients:
    """The newest clients whose major version is at least the server's.

    pg_dump refuses a newer server (PostgreSQL manual, pg_dump, "Notes"). The embedded ones know neither
    TLS nor other authentication libraries, so they serve a server on this machine alone.

    Raises:
        BackupError: there are none, with what was found where.
    """
    found = _installed()
    if _is_local(database):
        found = (*found, *_embedded())
    serving = [clients for clients in found if clients.major >= major(server_version)]
    if serving:
        return max(serving, key=lambda clients: clients.major)
    listed = "".join(f"\n  {clients.version} in {clients.folder}" for clients in found)
    raise BackupError(
        f"The server is PostgreSQL {server_version}, and no pg_dump and psql that can serve it were found"
        + (f"; there is only:{listed}" if found else "."),
        untouched="Nothing was backed up.",
        remedy="Install PostgreSQL's client programs of that version or a newer one, and put them on PATH.",
    )


@cache
def _installed() -> tuple[Clients, ...]:
    """The clients on PATH and in the folders where installers put them."""
    folders = [Path(part) for part in os.environ.get("PATH", "").split(os.pathsep) if part]
    for pattern in _USUAL_FOLDERS:
        folders += sorted(Path("/").glob(pattern.removeprefix("/")))
    return tuple(c for folder in dict.fromkeys(folders) if (c := _clients_in(folder)) is not None)


def _embedded() -> tuple[Clients, ...]:
    try:
        clients = _clients_in(embedded_binaries())
    except UsageError:  # the extra is not installed
        return ()
    return () if clients is None else (clients,)


@cache
def _clients_in(folder: Path) -> Clients | None:
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
    return Clients(folder=folder, version=versions.pop()) if len(versions) == 1 and "" not in versions else None


def _is_local(database: Database) -> bool:
    host = database.parameters.get("host") or database.parameters.get("hostaddr") or "/"
    encrypted = database.parameters.get("sslmode", "prefer") not in ("disable", "allow", "prefer")
    return not encrypted and all(
        part.startswith("/") or part in ("localhost", "127.0.0.1", "::1") for part in host.split(",")
    )
