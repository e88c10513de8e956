"""One moment: what a snapshot shows while others write, rewrite, truncate, drop and lock."""

import itertools
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import psycopg
import pytest

from backup.errors import BackupError, UsageError
from backup.postgres.tables import Kind
from backup.session.folder import Session
from tests.servers import FreshDatabase
from tests.sessions import reached, restore_well, rows, snapshot, write

Connection = psycopg.Connection[tuple[Any, ...]]


def _until(condition: Callable[[], object]) -> None:
    """Wait for a state that another connection brings about; fail where it never comes."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "what was waited for never came"


@contextmanager
def _in_background(database: FreshDatabase, root: Path) -> Iterator["Future[Session]"]:
    """A backup that another transaction makes wait for a lock."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        session = thread.submit(write, database, root)
        _until(
            lambda: (
                session.done()
                or database.rows(
                    "select from pg_locks join pg_stat_activity using (pid)"
                    " where application_name = 'cdc-backup' and not granted and datname = current_database()"
                )
            )
        )
        assert not session.done(), session.result()
        yield session


def _rows_in(session: Session) -> dict[str, int]:
    return {table.name: table.rows for table in session.manifest.tables}


def test_every_session_shows_one_moment(database: FreshDatabase, tmp_path: Path) -> None:
    database.execute("create table _cdc_a (writer int, n int); create table _cdc_b (writer int, n int)")
    stop, committed = Event(), Event()

    def write_together(writer: int) -> None:
        with database.connect(autocommit=False) as connection:
            for n in itertools.count():
                connection.execute("insert into _cdc_a values (%s, %s)", [writer, n])
                connection.execute("insert into _cdc_b values (%s, %s)", [writer, n])
                connection.commit()
                committed.set()
                if stop.is_set():
                    return

    with ThreadPoolExecutor(max_workers=2) as threads:
        writers = [threads.submit(write_together, writer) for writer in range(2)]
        try:
            sessions = []
            for _ in range(8):
                committed.clear()
                assert committed.wait(60)
                sessions.append(write(database, tmp_path))
        finally:
            stop.set()
        for writer in writers:
            writer.result()
    counts = [_rows_in(session) for session in sessions]
    assert all(count["_cdc_a"] == count["_cdc_b"] > 0 for count in counts)
    assert len({count["_cdc_a"] for count in counts}) == len(counts)
    for session in (sessions[0], sessions[-1]):
        database.execute("drop table _cdc_a, _cdc_b")
        restore_well(database, session.path / "restore.sql")
        assert rows(database, "_cdc_a") == rows(database, "_cdc_b")


# Each leaves a table of 3 rows; what it does is not safe for a snapshot that is older than its end
# (PostgreSQL manual, "Caveats" of "Concurrency Control").
REWRITES = {
    "a column's type changed": "alter table _cdc_t alter id type bigint using id",
    "every value changed by a rewrite": "alter table _cdc_t alter id type int using id * 10",
    "truncated and filled again": "truncate _cdc_t; insert into _cdc_t values (4), (5), (6)",
    "clustered": "create index i on _cdc_t (id); cluster _cdc_t using i",
    "moved to another persistence": "alter table _cdc_t set unlogged",
    "made anew": "drop table _cdc_t; create table _cdc_t (id int); insert into _cdc_t values (7), (8), (9)",
    "a column added": "alter table _cdc_t add b int default 5",
}


@pytest.mark.parametrize("rewrite", REWRITES)
def test_a_table_that_is_rewritten_meanwhile_does_not_look_empty(
    database: FreshDatabase, tmp_path: Path, rewrite: str
) -> None:
    database.execute("create table _cdc_t (id int); insert into _cdc_t values (1), (2), (3)")
    with database.connect(autocommit=False) as other:
        other.execute(REWRITES[rewrite])
        with _in_background(database, tmp_path) as session:
            other.commit()
            assert _rows_in(session.result()) == {"_cdc_t": 3}
    held = rows(database, "_cdc_t")
    database.execute("drop table _cdc_t")
    restore_well(database, session.result().files[0])
    assert rows(database, "_cdc_t") == held


def test_a_table_that_is_truncated_meanwhile_is_empty_and_said_to_be(database: FreshDatabase, tmp_path: Path) -> None:
    database.execute("create table _cdc_t (id int); insert into _cdc_t values (1), (2), (3)")
    with database.connect(autocommit=False) as other:
        other.execute("truncate _cdc_t")
        with _in_background(database, tmp_path) as session:
            other.commit()
            skipped = session.result().manifest.skipped
    assert [(table.name, table.reason) for table in skipped] == [("_cdc_t", "empty")]


def test_a_table_that_is_dropped_meanwhile_is_skipped_and_named(database: FreshDatabase, tmp_path: Path) -> None:
    database.execute("create table _cdc_a (id int); insert into _cdc_a values (1); create table _cdc_b as table _cdc_a")
    with database.connect(autocommit=False) as other:
        other.execute("drop table _cdc_a")
        with _in_background(database, tmp_path) as session:
            other.commit()
            manifest = session.result().manifest
    assert [table.name for table in manifest.tables] == ["_cdc_b"]
    (skipped,) = manifest.skipped
    assert (skipped.schema_name, skipped.name) == ("public", "_cdc_a")
    assert skipped.reason == "it was dropped when the backup had just begun"
    summary = (session.result().path / "backup-summary.txt").read_text()
    assert "_cdc_a: it was dropped when the backup had just begun" in summary


def test_a_table_that_is_renamed_meanwhile_is_backed_up_under_its_new_name(
    database: FreshDatabase, tmp_path: Path
) -> None:
    database.execute("create table _cdc_a (id int); insert into _cdc_a values (1)")
    with database.connect(autocommit=False) as other:
        other.execute("alter table _cdc_a rename to _cdc_new")
        with _in_background(database, tmp_path) as session:
            other.commit()
            assert _rows_in(session.result()) == {"_cdc_new": 1}


def test_a_table_that_appears_while_another_is_waited_for_is_in_the_session(
    database: FreshDatabase, tmp_path: Path
) -> None:
    database.execute("create table _cdc_a (id int); insert into _cdc_a values (1)")
    with database.connect(autocommit=False) as other:
        other.execute("lock table _cdc_a")
        with _in_background(database, tmp_path) as session:
            database.execute("create table _cdc_late (id int); insert into _cdc_late values (1), (2)")
            other.commit()
            assert _rows_in(session.result()) == {"_cdc_a": 1, "_cdc_late": 2}


def test_rows_committed_while_another_table_is_waited_for_are_in_the_session(
    database: FreshDatabase, tmp_path: Path
) -> None:
    database.execute("create table _cdc_a (id int); create table _cdc_b (id int)")
    with database.connect(autocommit=False) as other:
        other.execute("lock table _cdc_b; insert into _cdc_b values (1)")
        with _in_background(database, tmp_path) as session:
            database.execute("insert into _cdc_a values (1)")
            other.commit()
            assert _rows_in(session.result()) == {"_cdc_a": 1, "_cdc_b": 1}


def _impatient(database: FreshDatabase) -> str:
    """The message of a backup that does not wait long for locks."""
    with pytest.raises(BackupError) as caught, snapshot(database, lock_timeout=0.2):
        pass
    return str(caught.value)


@pytest.mark.parametrize("locked", ["_cdc_b", "_cdc_p", "p1"])
def test_a_table_locked_for_too_long_is_an_error_that_names_it_and_who_holds_it(
    database: FreshDatabase, locked: str
) -> None:
    database.execute("""
        create table _cdc_a (id int); create table _cdc_b (id int);
        create table _cdc_p (id int) partition by list (id); create table p1 partition of _cdc_p default;
    """)
    with database.connect(autocommit=False, application_name="the other") as other:
        other.execute(f"lock table only {locked}")
        message = _impatient(database)
        assert f"longer than lock_timeout (0.2 s): public.{locked} by process {other.info.backend_pid}" in message
        assert "(the other)" in message
        assert "_cdc_a" not in message
        assert "Nothing was backed up." in message
        assert "lock_timeout" in message.splitlines()[-1]


def test_a_statement_that_itself_waits_is_named_as_what_holds_the_lock(database: FreshDatabase) -> None:
    database.execute("create table _cdc_a (id int)")
    with (
        database.connect(autocommit=False) as reader,
        database.connect(application_name="the waiting one") as waiting,
        ThreadPoolExecutor(max_workers=1) as thread,
    ):
        reader.execute("select from _cdc_a")
        dropped = thread.submit(waiting.execute, "drop table _cdc_a")
        _until(lambda: database.rows("select from pg_locks where not granted and mode = 'AccessExclusiveLock'"))
        message = _impatient(database)
        assert f"public._cdc_a by process {waiting.info.backend_pid} (the waiting one)" in message
        reader.rollback()
        dropped.result()


def test_a_lock_that_lets_readers_through_is_not_waited_for(database: FreshDatabase) -> None:
    database.execute("create table _cdc_a (id int); insert into _cdc_a values (1)")
    with database.connect(autocommit=False) as other:
        other.execute("lock table _cdc_a in exclusive mode")
        with snapshot(database, lock_timeout=0.2) as taken:
            assert [count.rows for count in taken.counts.values()] == [1]


def test_neither_readers_nor_writers_wait_for_a_snapshot(database: FreshDatabase) -> None:
    database.execute("create table _cdc_a (id int)")
    with snapshot(database) as taken, database.connect(options="-c lock_timeout=100ms") as other:
        other.execute("insert into _cdc_a values (1)")
        other.execute("update _cdc_a set id = 2")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            other.execute("drop table _cdc_a")
        (count,) = taken.counts.values()
        assert count.rows == 0
    assert rows(database, "_cdc_a") == ["(2)"]


def test_counts_are_exact_where_the_server_only_guesses(database: FreshDatabase) -> None:
    database.execute("""
        create table _cdc_t (id int) with (autovacuum_enabled = false);
        insert into _cdc_t select generate_series(1, 1000);
        delete from _cdc_t where id % 3 = 0;
    """)
    with snapshot(database) as taken:
        assert [count.rows for count in taken.counts.values()] == [667]


def test_no_row_of_a_parent_and_its_children_is_counted_twice(database: FreshDatabase) -> None:
    database.execute("""
        create table _cdc_p (id int); create table child () inherits (_cdc_p);
        insert into _cdc_p values (1); insert into child values (2), (3);
        create table _cdc_r (id int) partition by list (id); create table part partition of _cdc_r default;
        insert into _cdc_r values (1), (2), (3), (4);
    """)
    with snapshot(database) as taken:
        counted = {table.name: taken.counts[table.oid].rows for table in taken.tables if table.oid in taken.counts}
        partitioned = [table.name for table in taken.tables if table.kind is Kind.PARTITIONED]
    assert counted == {"_cdc_p": 1, "child": 2, "part": 4}
    assert partitioned == ["_cdc_r"]


def test_more_tables_than_a_query_counts_are_all_counted(database: FreshDatabase) -> None:
    database.execute("""
        do $$ begin for g in 1..1203 loop
            execute format('create table _cdc_t%s (id int)', g);
            if g % 2 = 0 then execute format('insert into _cdc_t%s values (1)', g); end if;
        end loop; end $$
    """)
    with snapshot(database) as taken:
        assert len(taken.counts) == 1203
        assert sum(count.rows for count in taken.counts.values()) == 601


def test_names_that_are_not_there_are_skipped_and_named(database: FreshDatabase, tmp_path: Path) -> None:
    database.execute("create table _cdc_a (id int); insert into _cdc_a values (1); create table users (id int)")
    session = write(database, tmp_path, names=["_cdc_a", "_cdc_gone", "users", "other._cdc_a", "_cdc_gone"])
    assert [table.name for table in session.manifest.tables] == ["_cdc_a"]
    assert [(skipped.name, skipped.reason) for skipped in session.manifest.skipped] == [
        ("_cdc_gone", "there is no CDC table of that name"),
        ("users", "there is no CDC table of that name"),
        ("other._cdc_a", "there is no CDC table of that name"),
    ]


def test_names_of_which_none_is_there_are_refused(database: FreshDatabase, tmp_path: Path) -> None:
    database.execute("create table _cdc_a (id int)")
    with pytest.raises(UsageError, match="has no CDC table called '_cdc_gone', 'x'"):
        write(database, tmp_path, names=["_cdc_gone", "x"])
    assert list(tmp_path.iterdir()) == []


def test_a_schema_that_is_not_there_is_told(database: FreshDatabase) -> None:
    database.execute("create table _cdc_a (id int)")
    with snapshot(database, schemas=("public", "audti")) as taken:
        assert taken.missing_schemas == ("audti",)
        assert len(taken.tables) == 1


def test_a_database_without_cdc_tables_has_a_snapshot_of_none(database: FreshDatabase) -> None:
    with snapshot(database) as taken:
        assert (taken.tables, taken.counts, taken.missing) == ((), {}, ())


def test_a_snapshot_ends_with_its_block(database: FreshDatabase) -> None:
    database.execute("create table _cdc_a (id int)")
    with snapshot(database) as taken:
        pid = taken.connection.info.backend_pid
        assert database.rows("select state from pg_stat_activity where pid = %s", [pid]) == [("idle in transaction",)]
    assert taken.connection.closed
    with reached(database).connect() as connection:
        connection.execute("set lock_timeout = '60s'; drop table public._cdc_a")


def test_the_servers_time_limits_do_not_end_a_snapshot(database: FreshDatabase, tmp_path: Path) -> None:
    database.execute(f"""
        create table _cdc_a (id int); insert into _cdc_a values (1);
        alter database {database.name} set idle_in_transaction_session_timeout = '50ms';
    """)
    with snapshot(database) as taken:
        database.execute("select pg_sleep(0.3)")
        assert taken.connection.execute("select count(*) from public._cdc_a").fetchall() == [(1,)]


def test_the_write_ahead_logs_position_is_told_where_the_role_may_see_it(database: FreshDatabase) -> None:
    database.execute("create table _cdc_a (id int)")
    with snapshot(database) as taken:
        assert taken.wal is not None
        position = taken.wal
    assert database.rows("select %s::pg_lsn <= pg_current_wal_lsn()", [position]) == [(True,)]
