"""A database: how to reach it, for psycopg and for PostgreSQL's own programs."""

import getpass
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import conninfo, pq

from backup.errors import DatabaseError, UsageError

APPLICATION_NAME = "cdc-backup"

_SECRETS = frozenset({"password", "sslpassword", "scram_client_key", "scram_server_key", "oauth_client_secret"})

# What other tools write into a PostgreSQL URL and libpq refuses: Prisma's, node-postgres's.
_OTHER_TOOLS_PARAMETERS = (
    "schema|connection_limit|pool_timeout|pgbouncer|statement_cache_size|socket_timeout|uselibpqcompat"
)

_TIMEOUTS = [
    "statement_timeout",
    "lock_timeout",
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
    "transaction_timeout",
]


@dataclass(frozen=True, kw_only=True)
class Database:
    """A database as libpq's connection parameters name it, environment and service file included."""

    parameters: Mapping[str, str] = field(repr=False)
    source: str

    @classmethod
    def from_url(cls, url: str, source: str) -> "Database":
        """Parse a URL or a keyword string by libpq's own rules; what it leaves out comes from `PG*`.

        SQLAlchemy's `postgresql+driver://` and the parameters that Prisma and node-postgres add are
        understood, because that is what DATABASE_URL holds in their projects.

        Raises:
            UsageError: libpq cannot read it; the message holds nothing of the URL.
        """
        text = re.sub(r"^(postgres(?:ql)?)\+\w+://", r"\1://", url.strip())
        text = re.sub(rf"(?<=[?&])(?:{_OTHER_TOOLS_PARAMETERS})=[^&]*&?", "", text).rstrip("?&")
        try:
            parameters = conninfo.conninfo_to_dict(text)
        except psycopg.ProgrammingError as error:
            raise UsageError(
                f"{source} holds no connection string that libpq understands: {_why_unreadable(text, error)}.",
                untouched="Nothing was done.",
                remedy="It reads postgresql://user:password@host:port/database; characters like % @ / : in "
                "the user or the password are written %25 %40 %2F %3A.",
            ) from None
        return cls(parameters=_resolved({k: str(v) for k, v in parameters.items()}), source=source)

    @classmethod
    def from_environment(cls) -> "Database | None":
        """The database that libpq's own `PG*` variables name, or None when none of them is set."""
        named = ("PGHOST", "PGHOSTADDR", "PGSERVICE", "PGDATABASE")
        if not any(os.environ.get(name) for name in named):
            return None
        return cls(parameters=_resolved({}), source="the PG* variables")

    @property
    def user(self) -> str:
        """The role that connects, as libpq defaults it: the operating system's user."""
        return self.parameters.get("user") or getpass.getuser()

    @property
    def name(self) -> str:
        """The database's name, as libpq defaults it: the role's where none is given."""
        return self.parameters.get("dbname") or self.user

    @property
    def host(self) -> str:
        """The server's host and port, or the service file's name for it."""
        if "service" in self.parameters:
            return f"service {self.parameters['service']}"
        host = self.parameters.get("host") or self.parameters.get("hostaddr") or "the local socket"
        return f"{host}:{self.parameters.get('port', '5432')}"

    def __str__(self) -> str:
        """Database, host, port and role; never the password."""
        return f"{self.name} on {self.host} as {self.user}"

    def named(self, dbname: str) -> "Database":
        """The database called `dbname` on the same server, reached the same way."""
        return Database(parameters={**self.parameters, "dbname": dbname}, source=self.source)

    def environment(self) -> dict[str, str]:
        """The environment in which PostgreSQL's programs reach this database, and no other.

        Every `PG*` variable that libpq knows is either set by us or absent. A parameter without a
        variable is in `arguments()`.
        """
        variables = _variables()
        environment = {k: v for k, v in os.environ.items() if k not in variables.values()}
        for keyword, value in self.parameters.items():
            if keyword in variables:
                environment[variables[keyword]] = value
        environment["PGAPPNAME"] = APPLICATION_NAME
        return environment

    def arguments(self) -> tuple[str, ...]:
        """The connection parameters that no environment variable carries, as arguments without secrets."""
        rest = {
            keyword: value
            for keyword, value in self.parameters.items()
            if keyword not in _variables() and keyword not in _SECRETS and keyword != "fallback_application_name"
        }
        return (f"--dbname={conninfo.make_conninfo('', **rest)}",) if rest else ()

    @contextmanager
    def connect(self, **options: Any) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        """A connection in autocommit mode that no time limit of the server ends.

        Raises:
            DatabaseError: it cannot be made, or a query on it failed; the message names host, port,
                database, role and cause.
        """
        keywords = {
            "connect_timeout": "10",
            **self.parameters,
            "application_name": APPLICATION_NAME,
            "client_encoding": "UTF8",
            **options,
        }
        try:
            connection = psycopg.connect(**keywords, autocommit=True)
        except psycopg.Error as error:
            raise DatabaseError(
                f"No connection to {self} (from {self.source}): {self._cause(error)}",
                untouched="Nothing was read or changed.",
            ) from None
        with connection:
            try:
                connection.execute(
                    "select set_config(name, '0', false) from pg_settings where name = any(%s)", [_TIMEOUTS]
                )
                connection.execute("set search_path to pg_catalog")
                yield connection
            except psycopg.Error as error:
                raise DatabaseError(f"{self} refused or was lost: {self._cause(error)}") from error

    def _cause(self, error: psycopg.Error) -> str:
        text = " ".join(str(error).split())
        for keyword in _SECRETS & self.parameters.keys():
            text = text.replace(self.parameters[keyword], "***")
        return text


def _variables() -> dict[str, str]:
    """Libpq's environment variable of each connection parameter that has one."""
    return {o.keyword.decode(): o.envvar.decode() for o in pq.Conninfo.get_defaults() if o.envvar}


def _resolved(given: dict[str, str]) -> dict[str, str]:
    """The parameters with libpq's defaults from `PG*` and the service file filled in."""
    defaults = {
        option.keyword.decode(): option.val.decode()
        for option in pq.Conninfo.get_defaults()
        if option.val is not None and option.envvar and os.environ.get(option.envvar.decode())
    }
    return {**defaults, **given}


def _why_unreadable(text: str, error: psycopg.ProgrammingError) -> str:
    """The cause in words of ours: libpq's own quote the piece it stumbles over, which may be the password."""
    said = str(error)
    unknown = re.search(r'invalid URI query parameter: "(\w+)"', said)
    if unknown:
        return f"libpq has no parameter {unknown[1]!r}"
    if "percent-encoded" in said or "%00" in said:
        return "a % in it is not followed by two hexadecimal digits"
    if "://" in text and not text.startswith(("postgres://", "postgresql://")):
        return "it does not start with postgresql://"
    return "it is neither a URL nor keyword=value pairs"
