"""Locks of ours on tables, and who waits for them."""

import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import psycopg
from psycopg import pq, sql

from backup.postgres.fingerprint import SETTINGS
from backup.postgres.tables import Connection, Table

_WAITING = """
select l.pid, l.relation::int8, pg_blocking_pids(l.pid), left(a.query, 1000), coalesce(a.query_start::text, ''),
       coalesce(extract(epoch from clock_timestamp() - l.waitstart), 0)::float8
from pg_locks l left join pg_stat_activity a using (pid)
where not l.granted and l.pid <> all (%(ours)s)
  and (l.locktype = 'virtualxid' or l.locktype = 'relation' and l.relation = any(%(oids)s::oid[])
       and l.database = (select oid from pg_database where datname = current_database()))
"""

_STANDING = """
with taken as materialized (
    select distinct relation from pg_locks
    where granted and locktype = 'relation' and mode = 'AccessExclusiveLock'
      and database = (select oid from pg_database where datname = current_database()))
select c.oid::int8, n.nspname::text, c.relname::text, pg_relation_filenode(c.oid)::int8, t.relation is not null
from pg_class c join pg_namespace n on n.oid = c.relnamespace left join taken t on t.relation = c.oid
where c.oid = any(%s::oid[])
"""

# Who is idle after a LOCK TABLE has his lock already; after anything else it has not come to that yet.
_QUEUED = """
select count(*) from pg_stat_activity a
where a.pid = any(%s) and (a.state = 'idle in transaction' and a.query like 'lock table%%'
                           or exists (select from pg_locks l where l.pid = a.pid and not l.granted))
"""

_NAMED = "select n, to_regclass(n)::oid::int8 from unnest(%s::text[]) with ordinality as x (n, place) order by place"

_LOOKS, _LOOK = 2000, 0.001
"""How often, and after how many seconds each, to look whether somebody stands in a queue."""


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """A statement that waits for locks of ours.

    `oid` is the table that it wants for itself alone; None where it waits for the end of a transaction, as
    DROP INDEX CONCURRENTLY does. `blockers` are all processes that it waits for, `seconds` how long it does; `since`
    tells one statement of a process from another, and is empty where the role may not see that.
    """

    pid: int
    oid: int | None
    since: str
    blockers: frozenset[int]
    query: str
    seconds: float


def find_waiting(connection: Connection, ours: Collection[int], oids: Collection[int]) -> tuple[Waiting, ...]:
    """Who waits for one of the tables, or for the end of one of our processes' transactions."""
    found = connection.execute(_WAITING, {"ours": list(ours), "oids": list(oids)}).fetchall()
    return tuple(
        Waiting(pid=pid, oid=oid, since=since, blockers=frozenset(blockers), query=query or "", seconds=seconds)
        for pid, oid, blockers, query, since, seconds in found
        if frozenset(blockers) & frozenset(ours)
    )


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How a table stands: its name, its file, and whether somebody has it for himself alone right now.

    The `file` is another one after TRUNCATE, or whatever else rewrites the table; a partitioned one has none.
    """

    schema: str
    name: str
    file: int | None
    taken: bool


def find_standing(connection: Connection, oids: Collection[int]) -> dict[int, Standing]:
    """How those of the tables stand that are there, by OID."""
    return {
        oid: Standing(schema=schema, name=name, file=file, taken=taken)
        for oid, schema, name, file, taken in connection.execute(_STANDING, [list(oids)])
    }


def is_lost(connection: Connection, *, waiting: bool = False) -> bool:
    """Whether the connection is gone, or its transaction failed, and with either its locks.

    The server is asked, unless the connection is `waiting` for an answer.
    """
    try:
        if waiting:
            connection.pgconn.consume_input()
        else:
            connection.execute("select")
    except psycopg.Error:
        return True
    return False


def wait_until_queued(connection: Connection, pids: Collection[int]) -> None:
    """Wait until each of the processes stands in the queue for its lock, or has it; not longer than they need."""
    for _ in range(_LOOKS):
        row = connection.execute(_QUEUED, [list(pids)]).fetchone() if pids else None
        if row is None or row[0] == len(pids):
            return
        time.sleep(_LOOK)


class Holder:
    """A connection whose one transaction holds ACCESS SHARE on tables: nobody can drop or empty them meanwhile.

    It is READ COMMITTED, so that each of its queries sees what is committed by then. Its locks can only be let
    go all together.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.pid = connection.info.backend_pid
        self.held: dict[int, Table] = {}
        self.awaited: Table | None = None
        self.missed: Table | None = None

    @property
    def free(self) -> bool:
        """Whether it holds nothing and waits for nothing."""
        return not self.held and self.awaited is None

    def add(self, tables: Mapping[int, Table], *, timeout: float | None = None) -> bool:
        """Lock further tables; False, with none of them locked, where one is taken, wanted by another, or gone.

        Args:
            tables: by OID, under the names that they have now.
            timeout: seconds to wait for each lock; without it there is no waiting.
        """
        if self.connection.info.transaction_status is pq.TransactionStatus.IDLE:
            self.connection.execute("begin isolation level read committed, read only")
            self.connection.execute(SETTINGS)
        if not tables:
            return True
        self.connection.execute("savepoint one")
        try:
            if timeout is not None:
                self.connection.execute(sql.SQL("set local lock_timeout = {}").format(max(1, int(timeout * 1000))))
            self.connection.execute(_lock(tables.values(), nowait=timeout is None))
            locked = self._are_named(tables.values())
        except (
            psycopg.errors.LockNotAvailable,
            psycopg.errors.UndefinedTable,
            psycopg.errors.InvalidSchemaName,
            psycopg.errors.WrongObjectType,
        ):
            locked = False
        except psycopg.Error:
            if not self.connection.closed:
                self.connection.execute("rollback to savepoint one")
            raise
        if not locked:
            self.connection.execute("rollback to savepoint one")
            return False
        self.connection.execute("release savepoint one")
        self.held |= tables
        return True

    def let_go(self) -> None:
        """End the transaction, and with it every lock; a lock that is waited for is waited for no more."""
        try:
            if self.awaited is not None:
                self.connection.cancel_safe()
                while self.connection.pgconn.get_result() is not None:
                    pass
            self.connection.execute("rollback")
        except psycopg.Error:
            if not self.connection.closed:  # the server ended the transaction of a lost one
                raise
        self.awaited, self.held = None, {}

    def queue(self, table: Table) -> None:
        """Stand in the queue for a table that another one has for himself; `arrived` tells when it is ours.

        Who only looks from time to time comes too late: between two of his looks it can be taken twice.
        """
        self.add({})
        self.connection.execute("savepoint one")
        self.connection.execute("set local lock_timeout = 0")
        self.connection.pgconn.send_query(_lock([table], nowait=False).as_bytes(self.connection))
        self.awaited = table

    def arrived(self) -> Table | None:
        """The table that was waited for, once it is ours; None while it is not, and when it never will be.

        `missed` is it then: its name is nobody's, or another table's by now.
        """
        pgconn = self.connection.pgconn
        pgconn.consume_input()
        if self.awaited is None or pgconn.is_busy():
            return None
        table, self.awaited = self.awaited, None
        locked = True
        while result := pgconn.get_result():
            locked = locked and result.status == pq.ExecStatus.COMMAND_OK
        if locked and self._are_named([table]):
            self.held[table.oid] = table
            return table
        self.connection.execute("rollback to savepoint one")
        self.missed = table
        return None

    def _are_named(self, tables: Iterable[Table]) -> bool:
        """Whether the names led to these tables: LOCK TABLE looks them up, and others may have them by now."""
        names = {table.identifier.as_string(self.connection): table.oid for table in tables}
        found = self.connection.execute(_NAMED, [list(names)]).fetchall()
        return found == list(names.items())


def _lock(tables: Iterable[Table], *, nowait: bool) -> sql.Composed:
    names = sql.SQL(", ").join(sql.SQL("only {}").format(table.identifier) for table in tables)
    return sql.SQL("lock table {} in access share mode{}").format(names, sql.SQL(" nowait" if nowait else ""))
