"""Sessions of a test's own, and what a database looks like before and after one was restored."""

import itertools
import re
import shlex
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, LiteralString

import psycopg
from psycopg import conninfo, sql

from backup.postgres.clients import Clients, InstalledClients
from backup.postgres.database import Database
from backup.postgres.embedded import Server
from backup.postgres.find_clients import find_clients
from backup.postgres.snapshot import Snapshot, take_snapshot
from backup.postgres.tables import Schemas
from backup.session.folder import Session, new_session
from backup.session.write import write_session
from backup.settings import Compression
from tests.servers import FreshDatabase, clean_environment

PREFIX = "_cdc_"

_NOISE = re.compile(r"--.*|\\(un)?restrict .*|SET \w+ = .*|SELECT pg_catalog\.set_config.*|\s*")


_numbers = itertools.count(1)


def reached(database: FreshDatabase, **parameters: str) -> Database:
    """The database as a project's DATABASE_URL would give it, with a user or the like of a test's own."""
    return Database.from_url(conninfo.make_conninfo(database.url, **parameters), "DATABASE_URL")


@contextmanager
def fresh_role(server: Server, attributes: LiteralString = "login") -> Iterator[str]:
    """A new role on the server; leave it after the databases in which it was granted something."""
    name = f"role_{next(_numbers)}"
    with psycopg.connect(server.url(), autocommit=True) as connection:
        # With the password that is in the server's URL, so that another user name is all that it takes.
        connection.execute(
            sql.SQL("create role {} password {} {}").format(sql.Identifier(name), server.password, sql.SQL(attributes))
        )
    try:
        yield name
    finally:
        with psycopg.connect(server.url(), autocommit=True) as connection:
            connection.execute(sql.SQL("drop role {}").format(sql.Identifier(name)))


@contextmanager
def database_with(server: Server, options: LiteralString) -> Iterator[FreshDatabase]:
    """A new, empty database made with options of CREATE DATABASE: `encoding 'LATIN1'`."""
    database = FreshDatabase(server=server, name=f"made_{next(_numbers)}")
    name = sql.Identifier(database.name)
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(sql.SQL("create database {} template template0 {}").format(name, sql.SQL(options)))
    try:
        yield database
    finally:
        with psycopg.connect(server.url(), autocommit=True) as connection:
            connection.execute(sql.SQL("drop database {} with (force)").format(name))


@contextmanager
def snapshot(
    database: FreshDatabase | Database,
    *,
    names: Sequence[str] = (),
    schemas: Schemas = "*",
    prefix: str = PREFIX,
    lock_timeout: float = 10,
) -> Iterator[Snapshot]:
    """A snapshot of the database's CDC tables."""
    there = reached(database) if isinstance(database, FreshDatabase) else database
    with take_snapshot(there, prefix=prefix, schemas=schemas, names=names, lock_timeout=lock_timeout) as taken:
        yield taken


def write(
    database: FreshDatabase | Database,
    root: Path,
    *,
    names: Sequence[str] = (),
    schemas: Schemas = "*",
    prefix: str = PREFIX,
    clients: Clients | None = None,
    jobs: int = 2,
    format: Literal["sql", "copy"] = "sql",  # noqa: A002 - as in write_session
    compression: Compression | None = None,
) -> Session:
    """A session of the database below `root`, written and published as a backup does it."""
    there = reached(database) if isinstance(database, FreshDatabase) else database
    with (
        new_session(root) as partial,
        snapshot(there, names=names, schemas=schemas, prefix=prefix) as taken,
    ):
        return write_session(
            taken,
            database=there,
            clients=clients or find_clients(there),
            folder=partial,
            jobs=jobs,
            format=format,
            compression=compression,
        )


def restore(database: FreshDatabase, file: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a file of a session as a person types it, with nothing but `psql -f`."""
    return database.psql(f"--file={file}", *arguments)


def restore_well(database: FreshDatabase, file: Path) -> str:
    """Run a file of a session that must succeed without a warning; what psql said on stdout."""
    done = restore(database, file)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def rows(database: FreshDatabase, table: str | sql.Identifier) -> list[str]:
    """The rows of one table as text, sorted: the sign of a `-0` and the order of keys in a json show."""
    name = sql.Identifier(table) if isinstance(table, str) else table
    return [
        row for (row,) in database.rows(sql.SQL('select x::text collate "C" from only {} as x order by 1').format(name))
    ]


def dump(database: FreshDatabase) -> str:
    """All of the database as its own pg_dump tells it, without comments; sorted, for it sorts what is alike by OID."""
    said = subprocess.run(
        (str(database.server.binaries / "pg_dump"), "--no-password", f"--dbname={database.url}"),
        env=clean_environment(),
        capture_output=True,
        check=True,
    ).stdout.decode(errors="surrogateescape")
    entries = ("\n".join(line for line in entry.split("\n") if not _NOISE.fullmatch(line)) for entry in _entries(said))
    return "\n\n".join(sorted(filter(None, entries)))


def _entries(said: str) -> list[str]:
    return re.split(r"^--\n-- (?:Data for )?Name: .*\n--\n", said, flags=re.MULTILINE)


def pretending(
    folder: Path, real: InstalledClients, script: str, *, program: Literal["pg_dump", "psql"] = "pg_dump"
) -> InstalledClients:
    """Clients of which one is a shell script; `real` in it stands for what runs the real one."""
    folder.mkdir(exist_ok=True)
    for name in ("pg_dump", "psql"):
        there = folder / name
        then = script if name == program else 'real "$@"'
        there.write_text(f'#!/bin/sh\nreal() {{ {shlex.quote(str(real.folder / name))} "$@"; }}\n{then}\n')
        there.chmod(0o755)
    return InstalledClients(folder=folder, version=real.version)


def clients_for(database: FreshDatabase) -> InstalledClients:
    """The clients that a backup of this database would choose."""
    return installed_clients(reached(database))


def installed_clients(database: Database) -> InstalledClients:
    """The same, of a database that is known by its parameters."""
    return find_clients(database)
