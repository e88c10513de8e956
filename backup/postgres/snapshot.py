"""One moment in the database: the tables locked, the snapshot exported, every row counted in it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property

import psycopg
from psycopg import sql

from backup.errors import BackupError, UsageError
from backup.postgres.database import Database
from backup.postgres.newer import Horizon, mark_horizon
from backup.postgres.tables import (
    Connection,
    Kind,
    Obstacle,
    Schemas,
    Table,
    find_closed_sequences,
    find_obstacles,
    find_tables,
    missing_schemas,
)

_ATTEMPTS = 5
_TABLES_A_QUERY = 50
"""Planning a query of more takes longer than what it saves: for 500 tables twice as long as all the rest."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Count:
    """What one look at all rows of a table told.

    `rows` is exact. `bytes` is the table's size on the server, TOAST included. `negative_zero` says that
    a float column holds `-0`, whose sign pg_dump's INSERT text loses. `filenode` is another one once the
    table was truncated or rewritten.
    """

    rows: int
    bytes: int
    negative_zero: bool
    filenode: int


@dataclass(frozen=True, kw_only=True)
class Missing:
    """A table that was asked for, or seen a moment ago, and is not there."""

    schema: str | None
    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The tables at one moment; `connection` is inside it and holds ACCESS SHARE on every table.

    `database_id` tells the database from every other one in the world, as `identify` does. `counts` has an
    entry for every table that holds rows itself, by OID: not for partitioned and foreign ones. `moment` is in
    UTC, `wal` the write-ahead log's position, None where the role may not see it. `standby`: the server only
    replays what its primary did, a moment later. `unasked` are the CDC tables that are not in it because others were
    named.
    """

    id: str
    moment: datetime
    wal: str | None
    database: str
    database_id: str
    server_version: str
    connection: Connection
    tables: tuple[Table, ...]
    counts: dict[int, Count]
    missing: tuple[Missing, ...]
    unasked: tuple[Table, ...]
    missing_schemas: tuple[str, ...]
    standby: bool

    @cached_property
    def horizon(self) -> Horizon:
        """What tells later which rows it did not show; to be asked for while the snapshot is there."""
        return mark_horizon(self.connection, self.tables)


def select_tables(tables: Sequence[Table], names: Sequence[str]) -> tuple[tuple[Table, ...], tuple[Missing, ...]]:
    """The tables that `names` name, with their partitions and children, and the names that name none.

    A name is a table's, or `schema.table`. No name at all means every table.
    """
    if not names:
        return tuple(tables), ()
    wanted = set(names)
    chosen = {table.oid for table in tables if table.name in wanted or str(table) in wanted}
    while grown := {table.oid for table in tables if chosen.intersection(table.parents)} - chosen:
        chosen |= grown
    known = {name for table in tables for name in (table.name, str(table))}
    missing = tuple(
        Missing(schema=None, name=name, reason="there is no CDC table of that name")
        for name in dict.fromkeys(names)
        if name not in known
    )
    return tuple(table for table in tables if table.oid in chosen), missing


@contextmanager
def take_snapshot(
    database: Database, *, prefix: str, schemas: Schemas, names: Sequence[str], lock_timeout: float
) -> Iterator[Snapshot]:
    """Lock the CDC tables, export the snapshot that follows, and count every row in it.

    The locks come first: a table that is rewritten between snapshot and lock would look empty in the
    snapshot (PostgreSQL manual, "Caveats" of MVCC). Tables that appear or go in between are looked for
    again. `lock_timeout` is in seconds, for each lock.

    Raises:
        BackupError: a table cannot be read completely, is locked for too long, or the tables do not
            stand still.
        UsageError: tables were named, and none of them exists.
        DatabaseError: the server is gone.
    """
    with database.connect() as connection:
        connection.execute("set row_security = off")
        seen: dict[int, Table] = {}
        for _ in range(_ATTEMPTS):
            tables, missing = select_tables(find_tables(connection, prefix=prefix, schemas=schemas), names)
            if names and not tables and not seen:
                raise UsageError(
                    f"{database} has no CDC table called {', '.join(map(repr, names))}.",
                    untouched="Nothing was backed up.",
                )
            seen |= {table.oid: table for table in tables}
            _refuse_obstacles(
                (
                    *find_obstacles(connection, tables),
                    *_unreadable_on_standby(connection, tables),
                    *find_closed_sequences(connection, tables),
                )
            )
            if _lock(connection, tables, lock_timeout):
                found = find_tables(connection, prefix=prefix, schemas=schemas)
                if select_tables(found, names)[0] == tables:
                    break
            connection.execute("rollback")
        else:
            raise BackupError(
                f"The CDC tables of {database} do not stand still: they were created, dropped or altered "
                f"between looking and locking, {_ATTEMPTS} times in a row.",
                untouched="Nothing was backed up.",
                remedy="See which program does that, or try again later.",
            )
        there = {table.oid for table in tables}
        vanished = tuple(
            Missing(schema=table.schema, name=table.name, reason="it was dropped when the backup had just begun")
            for table in seen.values()
            if table.oid not in there
        )
        unasked = tuple(table for table in found if table.oid not in there)
        yield _describe(connection, tables, (*missing, *vanished), unasked, missing_schemas(connection, schemas))


def count_rows(connection: Connection, tables: Sequence[Table]) -> dict[int, Count]:
    """The exact rows of each table that holds some itself, some hundred tables a query, by OID."""
    countable = [table for table in tables if table.kind is Kind.ORDINARY]
    counts = {}
    for start in range(0, len(countable), _TABLES_A_QUERY):
        query = sql.SQL(" union all ").join(map(_count, countable[start : start + _TABLES_A_QUERY]))
        for oid, rows, size, filenode, negative_zero in connection.execute(query):
            counts[oid] = Count(rows=rows, bytes=size, negative_zero=negative_zero, filenode=filenode)
    return counts


def _count(table: Table) -> sql.Composed:
    # float's text form is the only place where its zero shows a sign.
    zeros = [
        sql.SQL("bool_or({c} = 0 and {c}::pg_catalog.text = '-0')").format(c=sql.Identifier(column.name))
        for column in table.columns
        if column.float and not column.generated
    ]
    return sql.SQL(
        "select {oid}::pg_catalog.int8, pg_catalog.count(*), pg_catalog.pg_table_size({oid}),"
        " pg_catalog.pg_relation_filenode({oid})::pg_catalog.int8, {zero} from only {table}"
    ).format(
        oid=table.oid,
        zero=sql.SQL("coalesce({}, false)").format(sql.SQL(" or ").join(zeros)) if zeros else sql.SQL("false"),
        table=table.identifier,
    )


def identify(connection: Connection) -> str:
    """The database's system identifier and OID; empty where the role may not see the first."""
    row = connection.execute(
        "select oid::text, has_function_privilege('pg_control_system()', 'EXECUTE') from pg_database"
        " where datname = current_database()"
    ).fetchone()
    if row is None or not row[1]:
        return ""
    system = connection.execute("select system_identifier::text from pg_control_system()").fetchone()
    return f"{system[0]}/{row[0]}" if system else ""


def _describe(
    connection: Connection,
    tables: tuple[Table, ...],
    missing: tuple[Missing, ...],
    unasked: tuple[Table, ...],
    lacking: tuple[str, ...],
) -> Snapshot:
    """The snapshot of the transaction that `connection` is in."""
    row = connection.execute(
        "select pg_export_snapshot(), clock_timestamp() at time zone 'UTC', current_database(),"
        " current_setting('server_version'), has_function_privilege('pg_current_wal_lsn()', 'EXECUTE'),"
        " pg_is_in_recovery()"
    ).fetchone()
    assert row is not None  # noqa: S101 - a query without FROM has one row
    wal = None
    if row[4]:
        position = connection.execute(
            "select case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_lsn() end::text"
        ).fetchone()
        wal = position[0] if position else None
    return Snapshot(
        id=row[0],
        moment=row[1].replace(tzinfo=UTC),
        wal=wal,
        database=row[2],
        database_id=identify(connection),
        server_version=row[3],
        connection=connection,
        tables=tables,
        counts=count_rows(connection, tables),
        missing=missing,
        unasked=unasked,
        missing_schemas=lacking,
        standby=row[5],
    )


def _lock(connection: Connection, tables: Sequence[Table], lock_timeout: float) -> bool:
    """Begin the snapshot's transaction with the tables locked; False when one of them is gone by now.

    Neither SET nor LOCK TABLE takes a snapshot, so the first query after them does, when no table can
    change any more.
    """
    connection.execute("begin isolation level repeatable read, read only")
    lockable = [table for table in tables if table.kind is not Kind.FOREIGN]
    if not lockable:
        return True
    try:
        connection.execute(sql.SQL("set local lock_timeout = {}").format(int(lock_timeout * 1000)))
        connection.execute(
            sql.SQL("lock table {} in access share mode").format(
                sql.SQL(", ").join(sql.SQL("only {}").format(table.identifier) for table in lockable)
            )
        )
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
        return False
    except psycopg.errors.LockNotAvailable:
        connection.execute("rollback")
        raise BackupError(
            f"A CDC table stayed locked for longer than lock_timeout ({lock_timeout:g} s): "
            f"{_holders(connection, lockable)}.",
            untouched="Nothing was backed up.",
            remedy="Wait for that session or end it, or set a longer backup.lock_timeout.",
        ) from None
    return True


def _holders(connection: Connection, tables: Sequence[Table]) -> str:
    """Which table is locked, and by whom, in words."""
    by_oid = {table.oid: table for table in tables}
    rows = connection.execute(
        "select distinct on (l.relation) l.relation::int8, l.pid, coalesce(nullif(a.application_name, ''), 'unnamed')"
        " from pg_locks l join pg_stat_activity a using (pid)"
        " where l.locktype = 'relation' and l.mode = 'AccessExclusiveLock' and l.relation = any(%s::oid[])"
        " and l.database = (select oid from pg_database where datname = current_database())"
        " order by l.relation, l.granted desc",
        [list(by_oid)],
    ).fetchall()
    if not rows:
        return f"one of {', '.join(map(str, tables))}; who held it is over now"
    return ", ".join(f"{by_oid[oid]} by process {pid} ({name})" for oid, pid, name in rows)


def _unreadable_on_standby(connection: Connection, tables: Sequence[Table]) -> tuple[Obstacle, ...]:
    """The tables that a standby does not have, because they are not in the write-ahead log."""
    unlogged = [table for table in tables if table.unlogged]
    if not unlogged or connection.execute("select pg_is_in_recovery()").fetchone() == (False,):
        return ()
    cause = "is unlogged, and this server is a standby, which has none of its rows: use the primary"
    return tuple(Obstacle(table=table, cause=cause) for table in unlogged)


def _refuse_obstacles(obstacles: Sequence[Obstacle]) -> None:
    if obstacles:
        statements = dict.fromkeys(obstacle.remedy for obstacle in obstacles if obstacle.remedy)
        raise BackupError(
            "CDC tables that cannot be read completely:\n"
            + "\n".join(f"  {obstacle.table}: {obstacle.cause}" for obstacle in obstacles),
            untouched="Nothing was backed up.",
            remedy="\n".join(["Use the tables' owner, or let who may do so run:", *statements]) if statements else "",
        )
