"""A throw-away database: on the same server, on a private one of our own, or where a URL says."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from backup.errors import BackupError, UsageError
from backup.postgres.database import Database
from backup.postgres.embedded import DISPOSABLE, embedded_binaries, start_server
from backup.postgres.tables import Connection

PREFIX = "cdc_scratch_"
_MARK = "scratch database of cdc-backup; dropped by its next run if it is still here"
_AVOID = (
    "Give the role CREATEDB; or set backup.scratch to auto and install cdc-backup[embedded], or to the URL of a server "
    "where a role may."
)

# Without a comment yet: its maker was killed right after CREATE DATABASE. Nobody else makes such a name.
_LEFT = """
select datname::text from pg_database
where datname ~ %s and coalesce(shobj_description(oid, 'pg_database'), %s) = %s
  and pg_has_role(datdba, 'MEMBER') and not exists (select from pg_stat_activity where datid = pg_database.oid)
"""


COUNTED_AT_ONCE = 150000
"""From this version on a server has its statistics in shared memory; before, they are up to half a second old."""

# Client backends alone are counted there, each once it is idle for the first time or over.
_SESSIONS = "select (to_jsonb(d) ->> 'sessions')::int8 from pg_stat_database d where datname = current_database()"


@dataclass(frozen=True, kw_only=True)
class Scratch:
    """A scratch database, and where it is, for people; `witness` is a connection to it that lasts as long."""

    database: Database
    place: str
    witness: Connection

    def lives(self) -> bool:
        """Whether its server runs, and did so all the time."""
        try:
            self.witness.execute("select 1")
        except psycopg.Error:
            return False
        return True


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a scratch database would be: `host` leads to its server; None is an embedded one that is started for it."""

    host: Database | None
    name: str

    def __str__(self) -> str:
        return self.name


@contextmanager
def scratch_database(database: Database, where: str) -> Iterator[Scratch]:
    """An empty database that is dropped on leaving; what killed runs left is dropped first.

    Args:
        database: what it stands in for: same encoding, and on the same server same collation.
        where: `server` beside the original, `embedded` on a private server, a URL of another server, or
            `auto`: beside the original where the role may, else on a private server.

    Raises:
        BackupError: there can be none.
    """
    place = find_place(database, where)
    if place.host is not None:
        with _created(place.host, database) as (made, witness):
            yield Scratch(database=made, place=place.name, witness=witness)
        return
    with start_server(embedded_binaries(), settings=DISPOSABLE) as server:
        host = Database.from_url(f"{server.url()}?sslmode=disable", "the embedded server")
        _copy_roles(database, host)
        with _created(host, database) as (made, witness):
            yield Scratch(database=made, place=place.name, witness=witness)


def find_place(database: Database, where: str) -> Place:
    """Where `scratch_database` makes one; nothing is made.

    Raises:
        BackupError: it can make none.
    """
    if where == "auto":
        # A pooler may not know the database that we make.
        where = "embedded" if _why_none(database) or _is_pooled(database) else "server"
    if where == "embedded":
        try:
            embedded_binaries()
        except UsageError as error:
            raise BackupError("There is no place for a scratch database.", remedy=_AVOID) from error
        return Place(host=None, name="an embedded server on this machine")
    host = database if where == "server" else Database.from_url(where, "backup.scratch")
    if why := _why_none(host):
        raise BackupError(
            f"There can be no scratch database on {host.host}: {why}.",
            untouched="Nothing was made there.",
            remedy=_AVOID,
        )
    named = "the same server" if where == "server" else "the server of backup.scratch"
    return Place(host=host, name=f"{named} ({host.host})")


def _why_none(database: Database) -> str:
    """Why the role can make no database on its server; empty where it can."""
    with database.connect() as connection:
        row = connection.execute(
            "select rolsuper or rolcreatedb, pg_is_in_recovery() from pg_roles where rolname = current_user"
        ).fetchone()
    if row is None or not row[0]:
        return f"the role {database.user} may create none"
    return "it is a standby" if row[1] else ""


def _is_pooled(database: Database) -> bool:
    """Whether the server tells of another process than the login did."""
    with database.connect() as connection:
        return connection.execute("select pg_backend_pid()").fetchone() != (connection.info.backend_pid,)


def count_sessions(connection: Connection) -> int | None:
    """How many sessions the database has had, ours included; None on a server before PostgreSQL 14."""
    row = connection.execute(_SESSIONS).fetchone()
    return None if row is None else row[0]


@contextmanager
def _created(host: Database, like: Database) -> Iterator[tuple[Database, Connection]]:
    """A new database on the server of `host`, marked as ours, with a connection of ours to it while we live."""
    name = f"{PREFIX}{secrets.token_hex(6)}"
    identifier = sql.Identifier(name)
    with host.connect() as connection:
        connection.execute("set default_transaction_read_only = off")
        clear_left(connection)
        locale = _locale(connection, like, host)
        try:
            # In here, because an interruption may come when the server has made it already.
            _create(connection, host, sql.SQL("create database {} template template0 {}").format(identifier, locale))
            made = host.named(name)
            # It tells other runs, also those for other databases of the server, that we live.
            with made.connect() as witness:
                connection.execute(sql.SQL("comment on database {} is {}").format(identifier, _MARK))
                # Nothing in it is worth a wait for the disk; and it is there to be written.
                for setting in ("synchronous_commit", "default_transaction_read_only"):
                    connection.execute(
                        sql.SQL("alter database {} set {} = off").format(identifier, sql.Identifier(setting))
                    )
                yield made, witness
        finally:
            # An error here must not hide the one that may have brought us here; the next run tries again.
            with suppress(psycopg.Error):
                connection.execute(sql.SQL("drop database if exists {} with (force)").format(identifier))


def _create(connection: Connection, host: Database, statement: sql.Composed) -> None:
    try:
        connection.execute(statement)
    except psycopg.errors.InsufficientPrivilege as error:
        raise BackupError(f"No scratch database on {host.host}: {error}", remedy=_AVOID) from error


def clear_left(connection: Connection) -> tuple[str, ...]:
    """Drop the scratch databases to which nobody is connected any more; their names."""
    dropped = []
    for (name,) in connection.execute(_LEFT, [rf"\A{PREFIX}[0-9a-f]{{12}}\Z", _MARK, _MARK]).fetchall():
        with suppress(psycopg.Error):  # another run was faster, or is connected by now
            connection.execute(sql.SQL("drop database {}").format(sql.Identifier(name)))
            dropped.append(name)
    return tuple(dropped)


def _locale(connection: Connection, like: Database, host: Database) -> sql.Composable:
    """The options that make a database like the other: its encoding; on the same server its collation."""
    with like.connect() as original:
        version = original.info.server_version
        columns = "pg_encoding_to_char(encoding), datcollate::text, datctype::text"
        columns += ", datlocprovider::text" if version >= 150000 else ", 'c'"
        locale = "datlocale" if version >= 170000 else "daticulocale" if version >= 150000 else "null"
        row = original.execute(
            sql.SQL("select {}, {} from pg_database where datname = current_database()").format(
                sql.SQL(columns),
                sql.SQL(locale),
            )
        ).fetchone()
    assert row is not None  # noqa: S101 - the database that the query runs in
    encoding, collate, ctype, provider, name = row
    if host.host != like.host:
        # Another server may know other collations; equality of texts is the same in all of them.
        return sql.SQL("encoding {} lc_collate 'C' lc_ctype 'C'").format(encoding)
    options = sql.SQL("encoding {} lc_collate {} lc_ctype {}").format(encoding, collate, ctype)
    match provider:
        case "i":
            options += sql.SQL(" locale_provider icu icu_locale {}").format(name)
        case "b":
            options += sql.SQL(" locale_provider builtin builtin_locale {}").format(name)
    return options


def _copy_roles(source: Database, target: Database) -> None:
    """Make the source's roles on a private server, so that owners, grants and policies can name them."""
    with source.connect() as connection:
        roles: list[Any] = connection.execute(
            "select rolname::text from pg_roles where not starts_with(rolname::text, 'pg_')"
        ).fetchall()
    with target.connect() as connection:
        for (role,) in roles:
            with suppress(psycopg.errors.DuplicateObject):
                connection.execute(sql.SQL("create role {}").format(sql.Identifier(role)))
