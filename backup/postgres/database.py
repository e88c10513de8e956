"""A database: how to reach it, for psycopg and for PostgreSQL's own programs."""

import logging
import os
import string
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import ip_address
from itertools import zip_longest
from typing import Any

import psycopg
from psycopg import conninfo, pq

from backup.errors import DatabaseError, UsageError
from backup.postgres.connection_string import libpq_defaults, read_connection_string
from backup.postgres.no_connection import tell_cause, tell_remedy
from backup.postgres.pooler import why_not_ours
from backup.postgres.private_file import private_file

# A lost connection is told by us; of a library that nobody listens to, Python prints the warnings on stderr.
logging.getLogger("psycopg").addHandler(logging.NullHandler())

APPLICATION_NAME = "cdc-backup"

_SECRETS = frozenset({"password", "sslpassword", "scram_client_key", "scram_server_key", "oauth_client_secret"})

_NOT_PASSED_ON = frozenset({"password", "fallback_application_name"})
"""Parameters that programs get in another way, or should not have from us."""

_TIMEOUTS = [
    "statement_timeout",
    "lock_timeout",
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
    "transaction_timeout",
]


@dataclass(frozen=True, kw_only=True)
class Login:
    """What a login tells of its server: the parameters that lead to that one again, and its version, as 15.4.

    `parameters` have the service's values and the passfile's password. A server that `is_plain_and_local` is on this
    machine, and the connection to it was not encrypted.
    """

    parameters: Mapping[str, str] = field(repr=False)
    server_version: str
    is_plain_and_local: bool


@dataclass(frozen=True, kw_only=True)
class Database:
    """A database as libpq's connection parameters name it, environment and service file included."""

    parameters: Mapping[str, str] = field(repr=False)
    source: str
    pids: list[int] = field(default_factory=list, init=False, repr=False, compare=False)
    """The server's process of each connection that was made to it, by this object."""

    @classmethod
    def from_url(cls, url: str, source: str) -> "Database":
        """Parse a URL or a keyword string by libpq's own rules; what it leaves out comes from `PG*`.

        Raises:
            UsageError: it cannot be read; the message holds nothing of a password.
        """
        given = read_connection_string(url, source)
        return cls(parameters={**libpq_defaults(given.get("service")), **given}, source=source)

    @classmethod
    def from_environment(cls) -> "Database | None":
        """The database that libpq's own `PG*` variables name, or None when none of them is set."""
        named = ("PGHOST", "PGHOSTADDR", "PGSERVICE", "PGDATABASE")
        if not any(os.environ.get(name) for name in named):
            return None
        return cls(parameters=libpq_defaults(None), source="the PG* variables")

    @property
    def user(self) -> str:
        """The role that connects, as libpq defaults it: the operating system's user."""
        return self.parameters.get("user", "nobody")

    @property
    def name(self) -> str:
        """The database's name, as libpq defaults it: the role's where none is given."""
        return self.parameters.get("dbname") or self.user

    @property
    def host(self) -> str:
        """The server's host and port, of each one where there are several."""
        hosts = self.parameters.get("host") or self.parameters.get("hostaddr")
        if hosts is None and "service" in self.parameters:
            return f"service {self.parameters['service']}"
        names, ports = (hosts or "the local socket").split(","), self.parameters.get("port", "").split(",")
        pairs = zip_longest(names, ports, fillvalue=ports[0] if len(ports) == 1 else "")
        return ", ".join(f"{name}:{port or 5432}" for name, port in pairs)

    @property
    def server(self) -> str:
        """The host and port of the one server that was reached.

        Raises:
            DatabaseError: as `connect`.
        """
        return self.named(self.name).host

    def __str__(self) -> str:
        """Database, host, port and role; never the password."""
        return f"{self.name} on {self.host} as {self.user}"

    def named(self, dbname: str) -> "Database":
        """The database called `dbname` on the same server, reached the same way.

        Raises:
            DatabaseError: as `connect`.
        """
        return Database(parameters={**self.login.parameters, "dbname": dbname}, source=self.source)

    def environment(self) -> dict[str, str]:
        """The environment in which PostgreSQL's programs reach this database on the same server, and no other.

        Every `PG*` variable that libpq knows is either set by us or absent; secrets are in files that are
        gone when this process is. A parameter without a variable is in `arguments()`.

        Raises:
            DatabaseError: as `connect`.
            UsageError: a secret does not fit into such a file.
        """
        variables, parameters = _variables(), self.login.parameters
        environment = {k: v for k, v in os.environ.items() if k not in variables.values()}
        for keyword in parameters.keys() & variables.keys() - _NOT_PASSED_ON:
            environment[variables[keyword]] = parameters[keyword]
        environment["PGAPPNAME"] = APPLICATION_NAME
        if line := self.passfile_line():
            environment["PGPASSFILE"] = str(private_file(line))
        secrets = {k: v for k, v in parameters.items() if k in _SECRETS and k not in variables}
        if secrets:
            lines = "".join(
                f"{keyword}={_whole(value, cut_off=string.whitespace)}\n" for keyword, value in sorted(secrets.items())
            )
            environment["PGSERVICEFILE"] = str(private_file(f"[{APPLICATION_NAME}]\n{lines}"))
            environment["PGSERVICE"] = APPLICATION_NAME
        return environment

    def passfile_line(self) -> str:
        """What a passfile says to every program that shall reach this server; empty where no password was asked for.

        For every server, because it was found for this one already: no rule of a passfile must match again.
        """
        password = _whole(self.login.parameters.get("password", ""), cut_off="\r")
        escaped = password.replace("\\", r"\\").replace(":", r"\:")
        return f"*:*:*:*:{escaped}\n" if escaped else ""

    def arguments(self) -> tuple[str, ...]:
        """The connection parameters that no environment variable carries, as arguments without secrets."""
        carried = _variables().keys() | _SECRETS | _NOT_PASSED_ON
        rest = {keyword: value for keyword, value in self.login.parameters.items() if keyword not in carried}
        return (f"--dbname={conninfo.make_conninfo('', **rest)}",) if rest else ()

    @contextmanager
    def connect(self, **options: Any) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        """A connection in autocommit mode that no time limit of the server ends.

        All connections of one object, and all programs, reach the server that its first one reached.

        Raises:
            DatabaseError: it cannot be made, or a query on it failed; the message names host, port,
                database, role and cause. Or a pooler shares the session with others.
        """
        with self._opened(self.login.parameters, client_encoding="UTF8", **options) as connection:
            # psycopg reads no time in another style
            connection.execute(
                "select set_config(name, '0', false) from pg_settings where name = any(%s)"
                " union all select set_config('datestyle', 'iso', false)"
                " union all select set_config('search_path', 'pg_catalog', false)",
                [_TIMEOUTS],
            )
            yield connection

    @cached_property
    def login(self) -> Login:
        """What its first login told of the server; all others, and all programs, reach the same one.

        A name can lead to another server the next time, several names even more so; the snapshot is on one.

        Raises:
            DatabaseError: as `connect`.
        """
        with self._opened({"connect_timeout": "10", **self.parameters}) as connection:
            info = connection.info
            used = {o.keyword.decode(): o.val.decode() for o in connection.pgconn.info if o.val}
            used.pop("service", None)
            found = {"port": str(info.port), "hostaddr": info.hostaddr, "password": info.password}
            # A server that only hostaddr names has no name to verify.
            if "host" in used or info.host != info.hostaddr:
                found["host"] = info.host
            reached = used | {keyword: value for keyword, value in found.items() if value}
            login = Login(
                parameters=reached,
                server_version=info.parameter_status("server_version") or "0",
                # The URL does not tell: libpq's `sslmode=prefer` is encrypted or not as the server has it.
                is_plain_and_local=not connection.pgconn.ssl_in_use and _is_here(info.hostaddr, info.host),
            )
            problem = why_not_ours(connection, lambda: self._opened(reached))
        if problem:
            raise DatabaseError(
                f"{self} is behind a connection pooler, and the session there is not ours alone: {problem}.",
                untouched="Nothing was read or changed.",
                remedy="Put the address of the database itself (mostly port 5432), or of a pool in session mode "
                f"with connections to spare, into {self.source}, or into another variable that "
                "backup.url_variable names.",
            )
        return login

    @contextmanager
    def _opened(self, parameters: Mapping[str, str], **options: Any) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        """A connection with these parameters, under our name, in autocommit mode."""
        keywords = {**parameters, "application_name": APPLICATION_NAME, "autocommit": True, **options}
        try:
            connection = psycopg.connect(**keywords)
        except (psycopg.Error, UnicodeError) as error:  # UnicodeError: a host's name that is none
            cause = tell_cause(str(error))
            raise DatabaseError(
                f"No connection to {self} (from {self.source}): {cause}",
                untouched="Nothing was read or changed.",
                remedy=tell_remedy(cause, self.source),
            ) from None
        self.pids.append(connection.info.backend_pid)
        # The end of the block too asks the server: for a COMMIT.
        try:
            with connection:
                try:
                    yield connection
                except KeyboardInterrupt:
                    # Not for a ROLLBACK, which a server that stands still never answers, and which this is as well.
                    connection.close()
                    raise
        except psycopg.Error as error:
            raise DatabaseError(f"{self} refused or was lost: {' '.join(str(error).split())}") from error


def _is_here(address: str, host: str) -> bool:
    """Whether a server is on this machine; of a socket there is no address, and its folder is the host."""
    return ip_address(address).is_loopback if address else host.startswith(("/", "@"))


def _variables() -> dict[str, str]:
    """Libpq's environment variable of each connection parameter that has one."""
    return {o.keyword.decode(): o.envvar.decode() for o in pq.Conninfo.get_defaults() if o.envvar}


def _whole(secret: str, *, cut_off: str) -> str:
    """The secret, if it can stand in a file that libpq reads line by line, cutting off such characters at the end."""
    if "\n" in secret or secret.endswith(tuple(cut_off)):
        raise UsageError(
            "The password holds a line break, or that of the key ends in a blank: the files in which PostgreSQL's "
            "programs get it cannot hold that.",
            untouched="Nothing was read or changed.",
            remedy="Choose another password.",
        )
    return secret
