"""`migration.restore`: says what it will do, asks where rows would go, does all of it or nothing, tells."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pexpect
import psycopg
import pytest

from backup.cdc_backup import CDCBackup
from backup.errors import DeclinedError, RestoreError, UsageError
from backup.lock import locked
from backup.postgres.embedded import Server
from backup.session.folder import Session
from backup.session.restore import RestoreMode, restore_session
from backup.session.script import LOCK
from backup.session.sidecar import Restore, Verdict
from tests.restoring import bring_back, done, everything, proven
from tests.servers import FreshDatabase, clean_environment, fresh_database
from tests.sessions import clients_for, pretending, reached, rows, write

CDC_BACKUP = str(Path(sys.executable).with_name("cdc-backup"))


@pytest.fixture
def database(embedded_server: Server) -> Iterator[FreshDatabase]:
    with fresh_database(embedded_server) as fresh:
        fresh.execute("""
            create table _cdc_a (id int primary key, t text); insert into _cdc_a values (1, 'x'), (2, 'y');
            create table _cdc_b (n int); insert into _cdc_b values (1), (1);
        """)
        yield fresh


@pytest.fixture
def session(database: FreshDatabase, tmp_path: Path) -> Session:
    return write(database, tmp_path / "sessions")


@pytest.fixture
def in_its_project(database: FreshDatabase, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """The current folder is that of the sessions' folder, and the environment names the database."""
    monkeypatch.setenv("DATABASE_URL", database.url)
    monkeypatch.chdir(session.path.parent.parent)


def recipe(database: FreshDatabase, session: Session, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `cdc-backup` for the database, without a terminal."""
    return subprocess.run(
        (CDC_BACKUP, *arguments, "--path", str(session.path.parent)),
        env={**clean_environment(), "DATABASE_URL": database.url},
        cwd=session.path.parent.parent,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_recipe_brings_back_what_is_gone_and_says_it_as_json(database: FreshDatabase, session: Session) -> None:
    before = everything(database)
    database.execute("drop table _cdc_a; truncate _cdc_b")
    ended = recipe(database, session, "restore", "--json")
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert told["status"] == "restored"
    assert told["session"] == str(session.path)
    assert told["restored"] == [
        {
            "schema": "public", "name": "_cdc_a", "state": "gone",
            "rows_before": None, "rows_added": 2, "rows_kept_different": 0, "rows_removed": 0,
            "rows_newer": 0, "rows_updated": 0,
        },
        {
            "schema": "public", "name": "_cdc_b", "state": "there",
            "rows_before": 0, "rows_added": 2, "rows_kept_different": 0, "rows_removed": 0,
            "rows_newer": 0, "rows_updated": 0,
        },
    ]  # fmt: skip
    assert everything(database) == before


def test_dry_run_says_what_would_be_done_and_does_not(database: FreshDatabase, session: Session) -> None:
    database.execute("drop table _cdc_a")
    before = everything(database)
    ended = recipe(database, session, "restore", "--dry-run")
    assert ended.returncode == 0
    assert "brought back" in ended.stdout
    assert "missing rows are added" in ended.stdout
    assert everything(database) == before


def test_only_the_named_tables_are_touched(database: FreshDatabase, session: Session) -> None:
    database.execute("truncate _cdc_a, _cdc_b")
    ended = recipe(database, session, "restore", "--table", "public._cdc_b")
    assert ended.returncode == 0, ended.stderr
    assert (rows(database, "_cdc_a"), rows(database, "_cdc_b")) == ([], ["(1)", "(1)"])


def test_a_table_that_the_session_does_not_hold_is_refused(database: FreshDatabase, session: Session) -> None:
    ended = recipe(database, session, "restore", "--table", "_cdc_x", "--json")
    assert ended.returncode == 2
    assert "holds no table called '_cdc_x'" in json.loads(ended.stdout)["message"]


def test_a_session_that_is_not_there_or_not_whole_is_refused(database: FreshDatabase, session: Session) -> None:
    assert recipe(database, session, "restore", "--session", "backup_2020-01-01T00-00-00-000Z").returncode == 2
    (session.path / "_cdc_a.sql").unlink()
    ended = recipe(database, session, "restore", "--session", session.name)
    assert ended.returncode == 2
    assert "is no complete session" in ended.stdout
    ended = recipe(database, session, "restore", "--session", f"sessions/{session.name}/restore.sql")
    assert ended.returncode == 2
    assert "sessions/sessions" not in ended.stdout.replace("\n", "")
    ended = recipe(database, session, "restore")
    assert ended.returncode == 2
    assert "There is no complete session" in ended.stdout


def test_a_failure_is_exit_7_and_says_that_nothing_was_changed(database: FreshDatabase, session: Session) -> None:
    database.execute("drop table _cdc_a; truncate _cdc_b; alter table _cdc_b add check (n > 1)")
    before = everything(database)
    ended = recipe(database, session, "restore", "--json")
    assert ended.returncode == 7
    told = json.loads(ended.stdout)
    assert told["status"] == "failed"
    assert "violates check constraint" in told["message"]
    assert "nothing was changed" in told["message"]
    assert everything(database) == before


@pytest.mark.parametrize("unreachable", ["port=1", "dbname=none", "password=wrong"])
def test_an_unreachable_database_is_exit_7(database: FreshDatabase, session: Session, unreachable: str) -> None:
    keyword, _, value = unreachable.partition("=")
    with pytest.raises(RestoreError, match=r"(?s)No connection to .*Nothing was restored"):
        bring_back(reached(database, **{keyword: value}), session)


def test_an_unknown_mode_is_refused(database: FreshDatabase, session: Session) -> None:
    ended = recipe(database, session, "restore", "--mode", "all")
    assert ended.returncode == 2
    assert "--mode is missing, replace, aside, not 'all'" in ended.stdout


def test_replace_asks_and_a_no_changes_nothing(database: FreshDatabase, session: Session) -> None:
    database.execute("insert into _cdc_a values (3, 'new')")
    before = everything(database)
    arguments = ["restore", "--mode", "replace", "--path", str(session.path.parent)]
    environment = os.environ | clean_environment() | {"DATABASE_URL": database.url, "TERM": "xterm"}

    def attended() -> pexpect.spawn:  # type: ignore[type-arg]
        return pexpect.spawn(
            CDC_BACKUP, arguments, encoding="utf-8", timeout=60, dimensions=(50, 200),
            env=environment, cwd=str(session.path.parent.parent),
        )  # fmt: skip

    for answer, code in (("n", 4), ("\x04", 4), ("\x03", 130)):
        terminal = attended()
        terminal.expect("Of the 5 rows of today, those that the backup does not hold will go")
        terminal.sendline(answer) if answer == "n" else terminal.send(answer)
        terminal.expect(pexpect.EOF)
        terminal.close()
        assert terminal.exitstatus == code
        assert everything(database) == before
    terminal = attended()
    terminal.expect("Go on")
    terminal.sendline("y")
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 0
    assert rows(database, "_cdc_a") == ["(1,x)", "(2,y)"]


def test_replace_needs_yes_where_nobody_can_be_asked(database: FreshDatabase, session: Session) -> None:
    database.execute("insert into _cdc_a values (3, 'new')")
    before = everything(database)
    ended = recipe(database, session, "restore", "--mode", "replace")
    assert ended.returncode == 2
    assert "Say --yes" in ended.stdout
    assert everything(database) == before
    assert recipe(database, session, "restore", "--mode", "replace", "--yes").returncode == 0
    assert rows(database, "_cdc_a") == ["(1,x)", "(2,y)"]


def test_replace_asks_nothing_where_nothing_can_go(database: FreshDatabase, session: Session) -> None:
    database.execute("drop table _cdc_a; truncate _cdc_b")
    assert recipe(database, session, "restore", "--mode", "replace").returncode == 0
    assert rows(database, "_cdc_a") == ["(1,x)", "(2,y)"]


def test_replace_asks_also_for_rows_that_it_may_not_count(embedded_server: Server, tmp_path: Path) -> None:
    with fresh_database(embedded_server) as database:
        database.execute("""
            create role forced login; create table _cdc_t (id int); insert into _cdc_t values (1);
            alter table _cdc_t enable row level security, force row level security, owner to forced
        """)
        try:
            session = write(database, tmp_path)
            database.execute(f"alter role forced password '{embedded_server.password}'")
            with pytest.raises(UsageError, match="those that cannot be counted"):
                bring_back(reached(database, user="forced"), session, mode=RestoreMode.REPLACE, ask=True)
        finally:
            database.execute("drop owned by forced cascade; drop role forced")


def test_while_another_restore_runs_it_is_refused(database: FreshDatabase, session: Session) -> None:
    database.execute("drop table _cdc_a")
    before = everything(database)
    with psycopg.connect(database.url) as other:
        other.execute("select pg_advisory_xact_lock(%s)", [LOCK])
        with pytest.raises(RestoreError, match="another restore is running in this database; nothing was changed"):
            bring_back(database, session)
        assert everything(database) == before
    bring_back(database, session)


def test_while_a_session_is_restored_nobody_prunes_it(database: FreshDatabase, session: Session) -> None:
    """The transaction of somebody else holds the restore up; what holds the session is the restore."""
    with psycopg.connect(database.url) as other:
        other.execute("lock table _cdc_b in access share mode")
        with _restoring(database, session) as child:
            _wait_until_blocked(database)
            with pytest.raises(BlockingIOError), locked(session.path, wait=False):
                pytest.fail("nobody holds it")
            other.rollback()
            assert child.wait() == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_restore_that_is_ended_half_way_changes_nothing(
    database: FreshDatabase, session: Session, number: signal.Signals
) -> None:
    database.execute("drop table _cdc_a; delete from _cdc_b")
    before = everything(database)
    with psycopg.connect(database.url) as other:
        other.execute("lock table _cdc_b in access share mode")
        with _restoring(database, session) as child:
            _wait_until_blocked(database)
            child.send_signal(number)
            assert child.wait() != 0
        other.rollback()
    _wait_until_alone(database)
    assert everything(database) == before
    bring_back(database, session)
    assert rows(database, "_cdc_a") == ["(1,x)", "(2,y)"]


def _restoring(database: FreshDatabase, session: Session) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        (CDC_BACKUP, "restore", "--path", str(session.path.parent), "--session", session.name),
        env={**clean_environment(), "DATABASE_URL": database.url},
        cwd=session.path.parent.parent,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _wait_until_blocked(database: FreshDatabase) -> None:
    _wait(database, "select 1 from pg_locks where not granted")


def _wait_until_alone(database: FreshDatabase) -> None:
    others = "select 1 from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
    _wait(database, f"select 1 where not exists ({others})")


def _wait(database: FreshDatabase, query: str) -> None:
    with database.connect() as connection:
        while not connection.execute(query).fetchall():
            connection.execute("select pg_sleep(0.01)")


def test_two_restores_at_once_bring_every_row_back_once(database: FreshDatabase, session: Session) -> None:
    database.execute("truncate _cdc_a, _cdc_b")
    children = [_restoring(database, session) for _ in range(3)]
    codes = [child.wait() for child in children]
    assert set(codes) <= {0, 7}
    assert 0 in codes
    assert rows(database, "_cdc_b") == ["(1)", "(1)"]


def test_an_application_that_writes_meanwhile_loses_nothing(database: FreshDatabase, session: Session) -> None:
    with psycopg.connect(database.url) as other:
        other.execute("insert into _cdc_a values (3, 'new')")
        with _restoring(database, session) as child:
            _wait_until_blocked(database)
            other.commit()
            assert child.wait() == 0
    assert rows(database, "_cdc_a") == ["(1,x)", "(2,y)", "(3,new)"]


@pytest.mark.usefixtures("in_its_project")
def test_without_a_session_the_newest_is_taken_or_one_that_is_owed(database: FreshDatabase, session: Session) -> None:
    newer = write(database, session.path.parent)

    def taken() -> str:
        cdc = CDCBackup(session.path.parent)
        cdc.restore()
        assert cdc.result.session
        return cdc.result.session.name

    assert taken() == newer.name
    moment = session.manifest.created
    Verdict(moment=moment, command="a test", destroyed={"public._cdc_a": "dropped"}).write(session.path)
    assert taken() == session.name
    kept = Restore.read(session.path)
    assert kept is not None
    assert kept.tables.keys() == {"public._cdc_a", "public._cdc_b"}
    assert taken() == newer.name


@pytest.mark.parametrize("how", ["dry run", "aside", "failed", "declined", "elsewhere"])
def test_what_brought_nothing_back_does_not_count_as_restored(
    database: FreshDatabase, session: Session, embedded_server: Server, how: str
) -> None:
    match how:
        case "dry run":
            bring_back(database, session, plan_only=True)
        case "aside":
            bring_back(database, session, mode=RestoreMode.ASIDE)
        case "failed":
            database.execute("alter table _cdc_a drop t")
            with pytest.raises(RestoreError):
                bring_back(database, session)
        case "declined":
            with pytest.raises((UsageError, DeclinedError)):
                bring_back(database, session, mode=RestoreMode.REPLACE, ask=True)
        case _:
            with fresh_database(embedded_server) as other:
                bring_back(other, session)
    assert Restore.read(session.path) is None


def test_proof_is_told_as_what_it_is(
    database: FreshDatabase, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bring_back(database, proven(database, tmp_path))
    assert "their rows have the fingerprints that the drill saw" in capsys.readouterr().out
    bring_back(database, write(database, tmp_path))
    assert "counted; the session is not drilled" in capsys.readouterr().out


def test_names_of_every_sort_come_back(database: FreshDatabase, tmp_path: Path) -> None:
    names = [
        "_cdc_ A.b",
        '_cdc_"q"',
        "_cdc_'s'",
        "_cdc_a/b",
        "_cdc_\n\\! x",
        "_cdc_é%s",
        "_cdc_" + "n" * 58,
        "_cdc_$cdc$",
    ]
    with database.connect() as connection:
        for name in names:
            quoted = name.replace('"', '""')
            connection.execute(f'create table "{quoted}" (id int primary key, "{quoted}" text)')
            connection.execute(f"insert into \"{quoted}\" values (1, 'a'), (2, 'b')")
    before = everything(database)
    session = proven(database, tmp_path)
    with database.connect() as connection:
        for number, name in enumerate(names):
            quoted = name.replace('"', '""')
            statement = f'drop table "{quoted}"' if number % 2 else f'delete from "{quoted}" where id = 2'
            connection.execute(statement)
    result = bring_back(database, session)
    assert sum(added for added, _, _ in done(result).values()) == 12
    assert everything(database) == before
    bring_back(database, session, mode=RestoreMode.REPLACE)
    bring_back(database, session, mode=RestoreMode.ASIDE)


def test_a_table_whose_rows_differ_still_does_not_count_as_restored(
    database: FreshDatabase, session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    database.execute("update _cdc_a set t = 'gone' where id = 1; drop table _cdc_b")
    bring_back(database, session)
    kept = Restore.read(session.path)
    assert kept is not None
    assert kept.tables.keys() == {"public._cdc_b"}
    assert "Not what they were: public._cdc_a. --mode aside" in " ".join(capsys.readouterr().out.split())
    bring_back(database, session, mode=RestoreMode.REPLACE)
    kept = Restore.read(session.path)
    assert kept is not None
    assert kept.tables.keys() == {"public._cdc_a", "public._cdc_b"}


def test_a_database_that_was_made_anew_at_the_same_address_does_not_count_as_restored(
    database: FreshDatabase, session: Session
) -> None:
    with psycopg.connect(database.server.url(), autocommit=True) as connection:
        connection.execute(f"drop database {database.name}")
        connection.execute(f"create database {database.name}")
    bring_back(database, session)
    assert rows(database, "_cdc_a") == ["(1,x)", "(2,y)"]
    assert Restore.read(session.path) is None


@pytest.mark.parametrize("lie", ["cat >/dev/null", 'sed "/committed/d" | real "$@"'])
def test_a_psql_that_leaves_something_out_is_not_believed(
    database: FreshDatabase, session: Session, tmp_path: Path, lie: str
) -> None:
    database.execute("drop table _cdc_a")
    clients = pretending(tmp_path / "bin", clients_for(database), 'real "$@"')
    (clients.folder / "psql").write_text(
        f'#!/bin/sh\nreal() {{ "{database.server.binaries / "psql"}" "$@"; }}\n{lie}\n'
    )
    with pytest.raises(RestoreError, match="psql ended as if all were well"):
        restore_session(
            session,
            files=session.path,
            database=reached(database),
            clients=clients,
            mode=RestoreMode.MISSING,
            oids=frozenset(table.oid for table in session.manifest.tables),
            fingerprints={},
        )


@pytest.mark.usefixtures("in_its_project")
def test_a_newer_session_that_is_passed_over_is_named(
    database: FreshDatabase, session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    newer = write(database, session.path.parent)
    lost = {"public._cdc_a": "dropped"}
    verdict = Verdict(moment=session.manifest.created, command="a test", destroyed=lost)
    verdict.model_copy(update={"announced": tuple(lost)}).write(session.path)
    CDCBackup(session.path.parent).restore()
    assert newer.name in capsys.readouterr().out, "what somebody had agreed to is not owed"
    verdict.write(session.path)
    CDCBackup(session.path.parent).restore()
    said = " ".join(capsys.readouterr().out.split())
    assert f"{newer.name} is newer, and passed over, because what the migration after {session.name} destroyed" in said


@pytest.mark.usefixtures("in_its_project")
def test_a_session_of_a_copy_at_another_address_is_not_taken_for_this_database(
    database: FreshDatabase, session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = write(database, session.path.parent)
    manifest = json.loads((copy.path / "manifest.json").read_text())
    (copy.path / "manifest.json").write_text(json.dumps(manifest | {"host": "staging:5432"}))
    CDCBackup(session.path.parent).restore()
    said = " ".join(capsys.readouterr().out.split())
    assert f"{copy.name} is newer, and passed over, because it is of another address" in said
    assert f"{session.name}: {database.name}" in said


def test_a_role_that_reads_at_one_moment_misses_nothing_that_was_written_before_its_lock(
    database: FreshDatabase, session: Session
) -> None:
    database.execute(f"alter database {database.name} set default_transaction_isolation = 'repeatable read'")
    database.execute("truncate _cdc_b")
    with ThreadPoolExecutor() as background, database.connect() as writer:
        with writer.transaction():
            writer.execute("insert into _cdc_b values (1), (1)")
            restoring = background.submit(bring_back, database, session, "_cdc_b")
            waiting = "select from pg_locks where not granted and relation = '_cdc_b'::regclass"
            while not database.rows(waiting):
                assert not restoring.done()
        restoring.result()
    assert rows(database, "_cdc_b") == ["(1)", "(1)"]
