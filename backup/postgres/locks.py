"""Locks of ours on tables, and who waits for them."""

import time
from collections.abc import Collection, Container, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache

import psycopg
from psycopg import pq, sql

from backup.postgres.fingerprint import SETTINGS
from backup.postgres.tables import Connection, Table

_WAITING = """
select l.pid, l.relation::int8, pg_blocking_pids(l.pid), left(a.query, 1000), coalesce(a.query_start::text, ''),
       coalesce(a.xact_start::text, l.virtualtransaction),
       coalesce(extract(epoch from clock_timestamp() - l.waitstart), 0)::float8
from pg_locks l left join pg_stat_activity a using (pid)
where not l.granted and l.pid <> all (%s)
  and (l.locktype = 'virtualxid' or l.locktype = 'relation'
       and l.database = (select oid from pg_database where datname = current_database()))
"""

# Without pg_locks, which lists every lock of the server: thousands, when many tables are taken.
_AGAIN = """
select pg_blocking_pids(pid), left(query, 1000), query_start::text, wait_event is not distinct from 'relation'
from pg_stat_get_activity(%s) where xact_start::text = %s
"""

_BLOCKERS = "select pg_blocking_pids(%s)"

_BLOCKED = """
select exists (select from pg_stat_get_activity(null)
               where pid <> all (%(pids)s::int[]) and pg_blocking_pids(pid) && %(pids)s::int[])
"""

_STANDING = """
select c.oid::int8, n.nspname::text, c.relname::text, pg_relation_filenode(c.oid)::int8
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.oid = any(%s::oid[])
"""

_TAKEN = """
select relation::int8, virtualtransaction from pg_locks
where granted and locktype = 'relation' and mode = 'AccessExclusiveLock' and relation = any(%s::oid[])
  and database = (select oid from pg_database where datname = current_database())
"""

# Who is idle after a LOCK TABLE has his lock already; after anything else it has not come to that yet.
_QUEUED = """
select count(*) from pg_stat_activity a
where a.pid = any(%s) and (a.state = 'idle in transaction' and a.query like 'lock table%%'
                           or exists (select from pg_locks l where l.pid = a.pid and not l.granted))
"""

_FREE = """
select current_setting('max_connections')::int - count(*) from pg_stat_get_activity(null) where datid is not null
"""

_BEGIN = f"begin isolation level read committed, read only; {SETTINGS};".encode()

_LOOKS, _LOOK = 2000, 0.001
"""How often, and after how many seconds each, to look whether somebody stands in a queue."""


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """A statement that waits for locks of ours.

    `oid` is the table that it wants for itself alone; None where it waits for the end of a transaction, as
    DROP INDEX CONCURRENTLY does. `blockers` are all processes that it waits for, `seconds` how long it does; `since`
    tells one statement of a process from another, and is empty where the role may not see that. `transaction` tells
    its transactions apart.
    """

    pid: int
    oid: int | None
    since: str
    transaction: str
    blockers: frozenset[int]
    query: str
    seconds: float


def find_waiting(connection: Connection, ours: Collection[int], oids: Container[int]) -> tuple[Waiting, ...]:
    """Who waits for one of the tables, or for the end of one of our processes' transactions."""
    # First what is cheap, because it is asked all the time and seldom true: pg_locks lists every lock of the server.
    if connection.execute(_BLOCKED, {"pids": list(ours)}).fetchone() == (False,):
        return ()
    found = connection.execute(_WAITING, [list(ours)]).fetchall()
    return tuple(
        Waiting(
            pid=pid,
            oid=oid,
            since=since,
            transaction=f"{pid} {transaction}",
            blockers=frozenset(blockers),
            query=query or "",
            seconds=seconds,
        )
        for pid, oid, blockers, query, since, transaction, seconds in found
        if frozenset(blockers) & frozenset(ours) and (oid is None or oid in oids)
    )


def find_next(connection: Connection, waiting: Waiting, alone: Mapping[int, int]) -> Waiting | None:
    """What the transaction waits for after it got its table, where that is all that one process has.

    `alone` are the processes, and the one table that each has. Has no `blockers` where the transaction does not wait;
    None where it is over or the role may not look at it.
    """
    row = connection.execute(_AGAIN, [waiting.pid, waiting.transaction.partition(" ")[2]]).fetchone()
    if row is None:
        return None
    blockers, query, since, for_relation = frozenset(row[0]), row[1], row[2], row[3]
    oid = next((alone.get(pid) for pid in blockers), None) if for_relation and len(blockers) == 1 else None
    return replace(waiting, oid=oid, blockers=blockers, query=query, since=since, seconds=0.0)


def still_waits(connection: Connection, waiting: Waiting) -> bool:
    """Whether its process waits for one of those still that it waited for."""
    row = connection.execute(_BLOCKERS, [waiting.pid]).fetchone()
    return row is not None and not waiting.blockers.isdisjoint(row[0])


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How a table stands: its name and its file.

    The `file` is another one after TRUNCATE, or whatever else rewrites the table; a partitioned one has none.
    """

    schema: str
    name: str
    file: int | None


def find_standing(connection: Connection, oids: Collection[int]) -> dict[int, Standing]:
    """How those of the tables stand that are there, by OID."""
    return {
        oid: Standing(schema=schema, name=name, file=file)
        for oid, schema, name, file in connection.execute(_STANDING, [list(oids)])
    }


def find_taken(connection: Connection, oids: Collection[int]) -> dict[int, str]:
    """Those of the tables that a transaction has for itself alone right now, and which one, by OID."""
    return dict(connection.execute(_TAKEN, [list(oids)]).fetchall())


def count_free(connection: Connection) -> int:
    """How many connections more the server takes, those that it keeps for superusers among them."""
    [(free,)] = connection.execute(_FREE).fetchall()
    return int(free)


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
    go all together. They were taken before the savepoint `held`, so that an error after that leaves them.
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

    def add(self, tables: Mapping[int, Table], watch: Connection, *, timeout: float | None = None) -> bool:
        """Lock further tables; False, with none of them locked, where one is taken, wanted by another, or gone.

        Args:
            tables: by OID, under the names that they have now.
            watch: a connection without a transaction, so that this one locks nothing of the catalog.
            timeout: seconds to wait for each lock; without it there is no waiting.
        """
        return not tables or self.keep(tables, locked=self.lock(tables, timeout) and are_named(watch, tables))

    def lock(self, tables: Mapping[int, Table], timeout: float | None = None) -> bool:
        """Lock further tables, as `add`, but whatever has their names; to be followed by `keep`."""
        limit = b"" if timeout is None else b"set local lock_timeout = %d;" % max(1, int(timeout * 1000))
        lock = _lock(tables.values(), nowait=timeout is None)
        begin, end = (_BEGIN, b"savepoint held") if self.free else (b"release savepoint held; savepoint one;", b"")
        try:
            self.connection.execute(b"%b %b %b; %b" % (begin, limit, lock, end))
        except (
            psycopg.errors.LockNotAvailable,
            psycopg.errors.UndefinedTable,
            psycopg.errors.InvalidSchemaName,
            psycopg.errors.WrongObjectType,
        ):
            return False
        except psycopg.Error:
            if not self.connection.closed:
                self.keep({}, locked=False)
            raise
        return True

    def keep(self, tables: Mapping[int, Table], *, locked: bool) -> bool:
        """Hold what was locked from now on, or no more than before; `locked` again."""
        if not locked and self.free:
            self.let_go()
        elif not self.free:
            undo = "" if locked else "rollback to savepoint one;"
            self.connection.execute(f"{undo} release savepoint one; savepoint held")
        if locked:
            self.held |= tables
        return locked

    def recover(self) -> None:
        """Go on after an error; the locks are what they were."""
        if self.connection.info.transaction_status is pq.TransactionStatus.INERROR:
            self.connection.execute("rollback to savepoint held")

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
        self.connection.execute(_BEGIN + b"set local lock_timeout = 0")
        self.connection.pgconn.send_query(_lock([table], nowait=False))
        self.awaited = table

    def arrived(self, watch: Connection) -> Table | None:
        """The table that was waited for, once it is ours; None while it is not, and when it never will be.

        `missed` is it then: its name is nobody's, or another table's by now.

        Raises:
            OperationalError: of psycopg, the connection is lost.
        """
        pgconn = self.connection.pgconn
        pgconn.consume_input()
        if self.awaited is None or pgconn.is_busy():
            return None
        table, self.awaited = self.awaited, None
        locked = True
        while result := pgconn.get_result():
            locked = locked and result.status == pq.ExecStatus.COMMAND_OK
        if locked and are_named(watch, {table.oid: table}):
            self.connection.execute("savepoint held")
            self.held[table.oid] = table
            return table
        self.let_go()
        if self.connection.closed:
            raise psycopg.OperationalError(f"the connection that stood in the queue for {table} was lost")
        self.missed = table
        return None


def are_named(connection: Connection, tables: Mapping[int, Table]) -> bool:
    """Whether these are the tables' names: LOCK TABLE looks them up, and others may have them by now."""
    standing = find_standing(connection, tables)
    return standing.keys() == tables.keys() and all(
        (now.schema, now.name) == (tables[oid].schema, tables[oid].name) for oid, now in standing.items()
    )


def _lock(tables: Iterable[Table], *, nowait: bool) -> bytes:
    names = b", only ".join(_quoted(table.schema, table.name) for table in tables)
    return b"lock table only %b in access share mode%b" % (names, b" nowait" if nowait else b"")


@cache
def _quoted(schema: str, name: str) -> bytes:
    return sql.Identifier(schema, name).as_bytes(None)
