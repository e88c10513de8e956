"""The PostgreSQL servers that the tests run on, and databases of a test's own on them."""

import itertools
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from psycopg.abc import Params

from backup.errors import UsageError
from backup.postgres.embedded import Server, embedded_binaries

_USUAL_FOLDERS = (
    "usr/lib/postgresql/*/bin",
    "usr/pgsql-*/bin",
    "usr/local/pgsql/bin",
    "opt/homebrew/opt/postgresql@*/bin",
    "usr/local/opt/postgresql@*/bin",
    "Applications/Postgres.app/Contents/Versions/*/bin",
)

_numbers = itertools.count(1)


@dataclass(frozen=True)
class FreshDatabase:
    """A database that one test has for itself."""

    server: Server
    name: str

    @property
    def url(self) -> str:
        """Its connection string, with the password of the superuser."""
        return self.server.url(self.name)

    def connect(self, **options: Any) -> psycopg.Connection[tuple[Any, ...]]:
        """A connection in autocommit mode; use it in a `with`, which closes it."""
        return psycopg.connect(self.url, **{"autocommit": True, **options})

    def execute(self, statements: str | sql.SQL | sql.Composed) -> None:
        """Run one or more statements; several are one transaction."""
        with self.connect() as connection:
            connection.execute(statements)

    def rows(self, query: str | sql.SQL | sql.Composed, parameters: Params | None = None) -> list[tuple[Any, ...]]:
        """The rows of a query."""
        with self.connect() as connection:
            return connection.execute(query, parameters).fetchall()

    def psql(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run the server's own psql on it, as a person without settings of their own would."""
        return subprocess.run(
            (str(self.server.binaries / "psql"), "--no-psqlrc", f"--dbname={self.url}", *arguments),
            env=clean_environment(),
            input=stdin,
            capture_output=True,
            encoding="utf-8",
            check=False,
        )


@contextmanager
def fresh_database(server: Server) -> Iterator[FreshDatabase]:
    """A new, empty database on `server`, dropped on leaving whoever is still connected to it."""
    database = FreshDatabase(server=server, name=f"test_{next(_numbers)}")
    name = sql.Identifier(database.name)
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(sql.SQL("create database {} template template0").format(name))
    try:
        yield database
    finally:
        with psycopg.connect(server.url(), autocommit=True) as connection:
            connection.execute(sql.SQL("drop database {} with (force)").format(name))


def clean_environment() -> dict[str, str]:
    """An environment that says nothing of a database, with an editor for psql that ends at once.

    A file that was cut may end in `\\e`.
    """
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "PSQL_EDITOR": "true"}


@cache
def find_binaries(kind: str) -> Path | None:
    """The programs of the "embedded" PostgreSQL, or of the "machine"; None where it has none."""
    try:
        return embedded_binaries() if kind == "embedded" else _machine_binaries()
    except UsageError:
        return None


def version(program: Path) -> str:
    """The version that one of PostgreSQL's programs says it has: "18.4"."""
    said = subprocess.run((str(program), "--version"), capture_output=True, encoding="utf-8", check=True).stdout
    found = re.search(r"\(PostgreSQL\) (\S+)", said)
    assert found, said
    return found[1]


def major(binaries: Path) -> int:
    """The major version of the server in that folder."""
    return int(re.split(r"\D", version(binaries / "postgres"))[0])


def _machine_binaries() -> Path | None:
    """The newest server that is installed on this machine; rather one of another major than the embedded."""
    folders = [folder for pattern in _USUAL_FOLDERS for folder in Path("/").glob(pattern)]
    if pg_config := shutil.which("pg_config"):
        said = subprocess.run((pg_config, "--bindir"), capture_output=True, encoding="utf-8", check=False).stdout
        folders.append(Path(said.strip()))
    servers = [folder for folder in folders if all((folder / name).exists() for name in ("postgres", "initdb"))]
    embedded = find_binaries("embedded")
    taken = embedded and major(embedded)
    return max(servers, key=lambda folder: (major(folder) != taken, major(folder)), default=None)
