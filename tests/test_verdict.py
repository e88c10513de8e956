"""The verdict: what a command did to the CDC tables, read from the database, and the way back that is printed."""

import itertools
import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from psycopg import sql

from backup.migration.command import MigrationCommand
from backup.migration.rehearsal import Forecast
from backup.migration.verdict import Change, Verdict, judge
from backup.postgres.embedded import DISPOSABLE, Server, start_server
from backup.postgres.unfinished import find_unfinished, server_clock, wait_for_unfinished
from backup.report import Report
from backup.result import Result, Status
from backup.safe_run import SafeRun
from backup.session.sidecar import Verdict as VerdictRecord
from backup.settings import load_settings
from tests.chain import CDC_BACKUP, INVOKE, TABLES, TASKS, Project, new_project, psql
from tests.servers import FreshDatabase, fresh_database
from tests.sessions import fresh_role, reached, rows, snapshot, write

ENDS = itertools.cycle(["", "exit 3"])
"""Every other command of the table below fails after its work was done: that saves nobody the verdict."""


TOUCHED = "rows of the backup updated or deleted"
REWRITTEN = "it was rewritten, and nothing proves that its rows are still the same"
ONE = "1 row of the backup updated or deleted"


@dataclass(frozen=True, kw_only=True)
class Strike:
    """What a migration does to `_cdc_users`, the verdict on that, and the rows that are left."""

    name: str
    statements: tuple[str, ...]
    change: Change
    left: int | None
    detail: str = ""
    end: str = ""


STRIKES = [
    Strike(name=name, statements=statements, change=change, left=left, detail=detail, end=next(ENDS))
    for name, statements, change, left, detail in (
        ("DROP", ("drop table _cdc_users",), Change.DROPPED, None, ""),
        ("DROP CASCADE of its schema", ("drop schema public cascade",), Change.DROPPED, None, ""),
        ("TRUNCATE", ("truncate _cdc_users",), Change.EMPTIED, 0, ""),
        ("TRUNCATE CASCADE of another table", ("truncate users cascade",), Change.EMPTIED, 0, ""),
        ("DELETE of all", ("delete from _cdc_users",), Change.EMPTIED, 0, ""),
        ("DELETE of one", ("delete from _cdc_users where id = 2",), Change.ROWS_LOST, 2, "1 fewer"),
        ("DROP COLUMN", ("alter table _cdc_users drop note",), Change.COLUMNS_LOST, 3, "note is gone"),
        (
            "ALTER TYPE",
            ("alter table _cdc_users alter name type varchar(2) using left(name, 2)",),
            Change.COLUMNS_LOST,
            3,
            "name was text and is character varying(2)",
        ),
        (
            "a column dropped and made again",
            ("alter table _cdc_users drop note", "alter table _cdc_users add note text"),
            Change.COLUMNS_LOST,
            3,
            "note is gone",
        ),
        ("RENAME", ("alter table _cdc_users rename to people",), Change.RENAMED, 3, "it is public.people now"),
        (
            "SET SCHEMA",
            ("create schema attic", "alter table _cdc_users set schema attic"),
            Change.RENAMED,
            3,
            "it is attic._cdc_users now",
        ),
        (
            "RENAME and TRUNCATE",
            ("alter table _cdc_users rename to people", "truncate people"),
            Change.EMPTIED,
            0,
            "it is public.people now",
        ),
        (
            "DELETE and DROP COLUMN",
            ("delete from _cdc_users where id = 2", "alter table _cdc_users drop note"),
            Change.ROWS_LOST,
            2,
            "1 fewer, note is gone",
        ),
        (
            "renamed, and another made under its name",
            ("alter table _cdc_users rename to old", "create table _cdc_users (id integer)"),
            Change.RENAMED,
            3,
            "it is public.old now",
        ),
        (
            "DROP and CREATE",
            ("drop table _cdc_users", "create table _cdc_users (id integer primary key, name text, note text)"),
            Change.REPLACED,
            0,
            "another table has its name now",
        ),
        (
            "DROP and CREATE with as many rows",
            (
                "create table copy as table _cdc_users",
                "drop table _cdc_users",
                "alter table copy rename to _cdc_users",
            ),
            Change.REPLACED,
            3,
            "another table has its name now",
        ),
        ("nothing", ("select 1",), Change.UNTOUCHED, 3, ""),
        (
            "more rows",
            ("insert into _cdc_users values (4, 'joe')",),
            Change.UNTOUCHED,
            4,
            "1 row more, written meanwhile",
        ),
        ("UPDATE", ("update _cdc_users set note = 'x' where id < 3",), Change.ROWS_CHANGED, 3, "2 " + TOUCHED),
        (
            "UPDATE that changes no value, and more rows",
            ("update _cdc_users set note = note where id = 1", "insert into _cdc_users values (4, 'joe')"),
            Change.ROWS_CHANGED,
            4,
            f"{ONE}, 1 more than before",
        ),
        (
            "DELETE and as many INSERTs",
            ("delete from _cdc_users where id = 2", "insert into _cdc_users values (4, 'joe')"),
            Change.ROWS_CHANGED,
            3,
            ONE,
        ),
        (
            "DELETE and fewer INSERTs",
            ("delete from _cdc_users where id < 3", "insert into _cdc_users values (4, 'joe')"),
            Change.ROWS_LOST,
            2,
            "1 fewer, 2 " + TOUCHED,
        ),
        (
            "TRUNCATE and as many INSERTs",
            ("truncate _cdc_users", *(f"insert into _cdc_users values ({n}, 'joe')" for n in (4, 5, 6))),
            Change.UNKNOWN,
            3,
            REWRITTEN,
        ),
        (
            "DELETE, rewritten, and as many INSERTs",
            (
                "delete from _cdc_users where id = 2",
                "alter table _cdc_users add more float default random()",
                "insert into _cdc_users values (4, 'joe')",
            ),
            Change.UNKNOWN,
            3,
            REWRITTEN,
        ),
        (
            "VACUUM FULL, and more rows",
            ("vacuum full _cdc_users", "insert into _cdc_users values (4, 'joe')"),
            Change.UNTOUCHED,
            4,
            "1 row more, written meanwhile",
        ),
        (
            "UPDATE and VACUUM FULL",
            ("update _cdc_users set note = 'x' where id = 2", "vacuum full _cdc_users"),
            Change.ROWS_CHANGED,
            3,
            ONE,
        ),
        ("a column more", ("alter table _cdc_users add more text default 'x'",), Change.UNTOUCHED, 3, ""),
        (
            "a column renamed",
            ("alter table _cdc_users rename note to remark",),
            Change.UNTOUCHED,
            3,
            "note is called remark now",
        ),
        (
            "rewritten",
            ("alter table _cdc_users add more float default random()",),
            Change.UNKNOWN,
            3,
            REWRITTEN,
        ),
    )
]

REFERRING = TABLES.replace("note text);", "note text, of integer default 1 references users);").replace(
    "insert into _cdc_users", "insert into users values (1); insert into _cdc_users (id, name, note)"
)


@pytest.fixture
def project(embedded_server: Server, tmp_path: Path) -> Iterator[Project]:
    """A project with three CDC tables on the embedded server."""
    with new_project(embedded_server, tmp_path / "project") as made:
        yield made


def on(verdicts: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """The verdict on one table."""
    (verdict,) = (verdict for verdict in verdicts if verdict["name"] == name)
    return verdict


@pytest.mark.parametrize("strike", STRIKES, ids=lambda strike: strike.name)
def test_the_verdict_is_what_the_database_holds_whatever_the_commands_exit_code(
    embedded_server: Server, tmp_path: Path, strike: Strike
) -> None:
    tables = REFERRING if "users cascade" in strike.statements[0] else TABLES
    with new_project(embedded_server, tmp_path / "project", tables) as project:
        value, ended = project.json("run-safe", "--", *psql(project, *strike.statements, end=strike.end))
        loss = strike.change is not Change.UNTOUCHED
        assert ended.code == (6 if loss else 5 if strike.end else 0), ended.said
        assert value["migration"]["exit_code"] == (3 if strike.end else 0)
        said = on(value["verdict"], "_cdc_users")
        assert (said["change"], said["rows_before"], said["rows_after"]) == (strike.change, 3, strike.left)
        assert (said["detail"], said["announced"]) == (strike.detail, False)
        assert [fault["sentence"] for fault in value["machinery"] if fault["loss"]] == []
        (line,) = (line for line in ended.stderr.splitlines() if line.startswith(f"public._cdc_users  {strike.change}"))
        assert line.rstrip().endswith(strike.detail)
        assert ("It also failed" in value["message"]) == bool(loss and strike.end)
        if "cascade of its schema" not in strike.name.lower():
            assert on(value["verdict"], "_cdc_roles")["change"] == "untouched"


def test_a_database_that_writes_dates_in_another_way_is_judged_like_any_other(project: Project) -> None:
    project.configure(drill=True)
    name = sql.Identifier(project.database.name)
    project.database.execute(sql.SQL("alter database {} set datestyle = 'German, DMY'").format(name))
    value, ended = project.json("run-safe", "--", *psql(project, "drop table _cdc_users"))
    assert ended.code == 6, ended.said
    assert on(value["verdict"], "_cdc_users")["change"] == "dropped"
    assert project.cdc("restore").code == 0


def test_a_table_that_was_rewritten_has_its_rows_by_the_fingerprint_of_the_drill(project: Project) -> None:
    project.configure(drill=True)
    rewrite = ("alter table _cdc_users add more float default random()", "insert into _cdc_users values (4, 'joe')")
    value, ended = project.json("run-safe", "--", *psql(project, *rewrite))
    assert ended.code == 0, ended.said
    assert on(value["verdict"], "_cdc_users")["change"] == "untouched"
    others = "begin; truncate _cdc_users; insert into _cdc_users select g, 'other' from generate_series(1, 9) g; commit"
    value, ended = project.json("run-safe", "--", *psql(project, others))
    assert ended.code == 6, ended.said
    assert on(value["verdict"], "_cdc_users")["change"] == "unknown"


@pytest.mark.parametrize(
    "statements",
    [
        ("alter table _cdc_users rename to old_users",),
        ("create schema attic", "alter table _cdc_users set schema attic"),
        ("create schema attic", 'alter table _cdc_users rename to "Old"', 'alter table "Old" set schema attic'),
        ("alter table _cdc_users rename to old_users", "create table _cdc_users (id int)"),
    ],
)
def test_the_statements_that_are_printed_give_a_table_its_name_again(
    embedded_server: Server, tmp_path: Path, statements: tuple[str, ...]
) -> None:
    with new_project(embedded_server, tmp_path / "project") as project:
        value, ended = project.json("run-safe", "--yes", "--", *psql(project, *statements))
        assert ended.code == 6, ended.said
        if "-- another table is called public._cdc_users now" in value["message"]:
            project.database.execute("drop table _cdc_users")
        for line in value["message"].splitlines():
            if line.startswith("  ALTER TABLE"):
                project.database.execute(line)
        assert len(rows(project.database, "_cdc_users")) == 3


def test_what_a_restore_into_another_table_of_the_name_does_not_bring_back_is_said(project: Project) -> None:
    anew = psql(project, "drop table _cdc_users", "create table _cdc_users (id int, name text, note text)")
    value, ended = project.json("run-safe", "--yes", "--", *anew)
    assert ended.code == 6, ended.said
    assert "Into public._cdc_users, the table of today, come rows alone." in value["message"]


def test_a_server_that_is_gone_leaves_a_verdict_of_unknown_and_that_is_a_loss(
    embedded_server: Server, tmp_path: Path
) -> None:
    with start_server(embedded_server.binaries, settings=DISPOSABLE) as server:
        project = Project(folder=tmp_path, database=FreshDatabase(server=server, name="postgres"))
        project.database.execute(TABLES)
        project.configure()
        pid = (server.data / "postmaster.pid").read_text().split()[0]
        stop = f"kill -QUIT {pid}; while kill -0 {pid} 2>/dev/null; do sleep 0.05; done"
        value, ended = project.json("run-safe", "--", "sh", "-c", stop)
        assert ended.code == 6, ended.said
        assert {verdict["change"] for verdict in value["verdict"]} == {"unknown"}
        assert on(value["verdict"], "_cdc_users")["rows_before"] == 3
        assert on(value["verdict"], "_cdc_users")["rows_after"] is None
        assert len(ended.advised) == 1
        beside = project.published[0].with_name(f"{project.published[0].name}.verdict.json")
        assert json.loads(beside.read_text())["destroyed"]["public._cdc_users"] == "unknown"


@dataclass(frozen=True, kw_only=True)
class Backed:
    """A database and its session, and what a verdict compares with."""

    database: FreshDatabase
    result: Result

    def judge(self, **options: Any) -> dict[str, Verdict]:
        """The verdicts, by the tables' names."""
        result = self.result
        told = {"database": reached(self.database), "announced": {}, "horizon": result.horizon, **options}
        return {verdict.name: verdict for verdict in judge(before=result.tables, counts=result.counts, **told)}

    def oid(self, name: str) -> int:
        """The OID that the table had."""
        (oid,) = (table.oid for table in self.result.tables if table.name == name)
        return oid


@pytest.fixture
def backed(embedded_server: Server, tmp_path: Path) -> Iterator[Backed]:
    """Three CDC tables and a session of them."""
    with fresh_database(embedded_server) as database:
        database.execute(TABLES)
        session = write(database, tmp_path / "sessions")
        with snapshot(database) as taken:
            result = Result(session=session, tables=taken.tables, counts=taken.counts, horizon=taken.horizon)
        yield Backed(database=database, result=result)


def test_a_statement_that_a_killed_migration_left_running_is_waited_for(project: Project) -> None:
    held = "select pg_advisory_xact_lock(7); drop table _cdc_roles"
    client = shlex.join(psql(project, f"begin; {held}; commit")).replace("'$DATABASE_URL'", '"$DATABASE_URL"')
    looks = shlex.join(psql(project, "select 'waits' from pg_locks where locktype = 'advisory' and not granted"))
    killed = f"{client} & client=$!; until {looks} | grep -q waits; do :; done; kill -9 $client"
    with project.database.connect() as holder:
        holder.execute("select pg_advisory_lock(7)")
        with project.started(CDC_BACKUP, "run-safe", "--", "sh", "-c", killed) as running:
            assert running.stdout
            for line in running.stdout:
                if line.startswith("Waiting for a statement that is still running on the server: begin; select pg_adv"):
                    break
            else:
                pytest.fail("it was not waited for")
            holder.execute("select pg_advisory_unlock(7)")
            said = running.stdout.read()
    assert running.returncode == 6
    assert "The migration destroyed CDC data: public._cdc_roles (dropped)." in said


def test_what_still_runs_after_the_limit_is_said_and_no_table_is_called_untouched(backed: Backed) -> None:
    with reached(backed.database).connect() as connection:
        since, tables = server_clock(connection), [table.oid for table in backed.result.tables]
        with backed.database.connect(autocommit=False) as migration:
            migration.execute("alter table _cdc_users add password text default 'hush'")
            told: list[str] = []
            (still,) = wait_for_unfinished(connection, tables, since, limit=0.3, tell=told.append)
            assert str(still) == (
                f"alter table _cdc_users add password text default '…', by process {migration.info.backend_pid}"
            )
            assert told == [f"Waiting for a statement that is still running on the server: {still}"]
            verdicts = backed.judge(unfinished=str(still), lock_timeout=0.1)
            migration.rollback()
        assert wait_for_unfinished(connection, tables, since, limit=0, tell=told.append) == ()
    assert {name: (verdict.change, verdict.detail) for name, verdict in verdicts.items()} == {
        "_cdc_users": (Change.UNKNOWN, "somebody holds it locked"),
        "_cdc_roles": (Change.UNKNOWN, f"still running on the server: {still}"),
        "_cdc_empty": (Change.UNKNOWN, f"still running on the server: {still}"),
    }


@pytest.mark.parametrize("called", ["select migrate()", "call migrate_too()", "with x as (select migrate()) table x"])
def test_a_function_that_a_killed_migration_left_running_may_do_anything(backed: Backed, called: str) -> None:
    body = "language plpgsql as $$ begin perform pg_advisory_xact_lock(7); drop table _cdc_roles; end $$"
    backed.database.execute(
        f"create function migrate() returns void {body}; create procedure migrate_too() {body};"
        "create function harmless() returns void stable language sql as 'select pg_advisory_xact_lock(7)'"
    )
    tables = [table.oid for table in backed.result.tables]
    with backed.database.connect() as holder, reached(backed.database).connect() as connection:
        since = server_clock(connection)
        holder.execute("select pg_advisory_lock(7)")
        with backed.database.connect() as left, backed.database.connect() as other:
            left.pgconn.send_query(called.encode())
            other.pgconn.send_query(b"select harmless()")
            waiting = "select from pg_locks where locktype = 'advisory' and not granted"
            while len(holder.execute(waiting).fetchall()) < 2:
                pass
            (running,) = find_unfinished(connection, tables, since)
            assert (running.pid, running.query) == (left.info.backend_pid, called)
            holder.execute("select pg_advisory_unlock(7)")
            assert wait_for_unfinished(connection, tables, since, limit=30, tell=lambda _: None) == ()
            for ended in (left, other):
                while ended.pgconn.get_result():
                    pass
    assert backed.judge()["_cdc_roles"].change is Change.DROPPED


def test_a_transaction_that_a_migration_left_prepared_is_not_over(embedded_server: Server, tmp_path: Path) -> None:
    settings = {**DISPOSABLE, "max_prepared_transactions": "3"}
    with (
        start_server(embedded_server.binaries, settings=settings) as server,
        new_project(server, tmp_path) as project,
        project.database.connect() as connection,
    ):
        since, oids = server_clock(connection), [o for (o,) in connection.execute("select oid::int8 from pg_class")]
        roles = connection.execute("select '_cdc_roles'::regclass::oid::int8").fetchone()
        for statement, name in (("delete from _cdc_users", "left"), ("select from _cdc_roles", "reads")):
            for each in ("begin", statement, f"prepare transaction '{name}'"):
                connection.execute(each)
        try:
            (prepared,) = wait_for_unfinished(connection, oids, since, limit=0, tell=print)
            assert str(prepared) == "the prepared transaction 'left', which COMMIT PREPARED or ROLLBACK PREPARED ends"
            assert find_unfinished(connection, list(roles or ()), since) == ()
            assert find_unfinished(connection, oids, server_clock(connection)) == ()
        finally:
            for name in ("left", "reads"):
                connection.execute(f"rollback prepared '{name}'")


def test_statements_of_others_are_not_waited_for(backed: Backed) -> None:
    with backed.database.connect(autocommit=False) as application, reached(backed.database).connect() as connection:
        since = server_clock(connection)
        application.execute("update _cdc_users set note = 'x'")
        assert find_unfinished(connection, [table.oid for table in backed.result.tables], since) == ()
        application.rollback()


def test_a_table_that_cannot_be_read_is_unknown_and_the_others_are_judged(backed: Backed) -> None:
    with fresh_role(backed.database.server) as role:
        backed.database.execute(f"grant select on _cdc_users, _cdc_empty to {role}")
        verdicts = backed.judge(database=reached(backed.database, user=role))
        backed.database.execute(f"drop owned by {role}")
    assert verdicts["_cdc_users"].change is Change.UNTOUCHED
    assert verdicts["_cdc_roles"].change is Change.UNKNOWN
    assert "permission denied" in verdicts["_cdc_roles"].detail


def test_a_column_or_a_name_that_goes_as_well_is_more_than_was_announced(backed: Backed) -> None:
    backed.database.execute("delete from _cdc_users where id = 1; delete from _cdc_roles where id = 1")
    told = {backed.oid(name): verdict for name, verdict in backed.judge().items()}
    assert {v.change for v in told.values()} == {Change.ROWS_LOST, Change.UNTOUCHED}
    assert [v.announced for v in backed.judge(announced=told).values() if v.is_loss] == [True, True]
    backed.database.execute("alter table _cdc_users drop note; alter table _cdc_roles rename to roles")
    assert [v.announced for v in backed.judge(announced=told).values() if v.is_loss] == [False, False]


def test_who_let_a_statement_have_a_table_agreed_to_no_delete(backed: Backed) -> None:
    oids = [table.oid for table in backed.result.tables]
    backed.database.execute("delete from _cdc_roles; truncate _cdc_users; drop table _cdc_empty")
    verdicts = backed.judge(allowed=oids)
    assert {name: (v.change, v.announced) for name, v in verdicts.items()} == {
        "_cdc_roles": (Change.EMPTIED, False),
        "_cdc_users": (Change.EMPTIED, True),
        "_cdc_empty": (Change.DROPPED, True),
    }
    assert not any(v.announced for v in backed.judge(allowed=oids, gaps=dict.fromkeys(oids, "a gap")).values())


def dropped(name: str) -> Verdict:
    """What a forecast says of a table that will be dropped."""
    return Verdict(schema="public", name=name, change=Change.DROPPED, rows_before=3, rows_after=None)


def test_a_loss_counts_as_announced_only_when_it_is_that_loss_and_the_table_was_guarded(backed: Backed) -> None:
    backed.database.execute("drop table _cdc_users; truncate _cdc_roles")
    told = {backed.oid(name): dropped(name) for name in ("_cdc_users", "_cdc_roles")}
    assert [v.announced for v in backed.judge(announced=told).values()] == [False, False, True]
    gap = "nobody guarded it for 3 s"
    verdict = backed.judge(announced=told, gaps={backed.oid("_cdc_users"): gap})["_cdc_users"]
    assert (verdict.announced, verdict.detail) == (False, gap)


def test_what_went_as_announced_is_no_failure_and_is_kept_beside_the_session(
    backed: Backed, capsys: pytest.CaptureFixture[str]
) -> None:
    psql_ = str(backed.database.server.binaries / "psql")
    drop = "drop table _cdc_users; insert into _cdc_roles values (3, 'x')"
    command = MigrationCommand(argv=(psql_, backed.database.url, "--command", drop), directory=Path.cwd())
    SafeRun(
        database=reached(backed.database),
        agreed=Forecast(command=command, verdicts=(dropped("_cdc_users"),)),
        ask=False,
        settings=load_settings(),
        restore="cdc-backup restore",
        named=(),
        report=Report(),
        result=backed.result,
    ).run([command], "")
    assert backed.result.status is Status.MIGRATED
    assert backed.result.session
    kept = VerdictRecord.read(backed.result.session.path)
    assert kept
    assert (kept.destroyed, kept.announced) == ({"public._cdc_users": "dropped"}, ("public._cdc_users",))
    sentence = "Gone as announced: public._cdc_users (dropped); 1 row was written to CDC tables meanwhile."
    assert kept.sentence == sentence
    said = " ".join(capsys.readouterr().out.split())
    assert f"The migration is done. {sentence}" in said
    back = f"cdc-backup restore --session {backed.result.session.name} --table public._cdc_users"
    assert f"If that was not meant, this brings it back: {back}" in said


def test_a_verdict_of_an_older_version_is_still_read(tmp_path: Path) -> None:
    session = tmp_path / "backup_2025-07-20T12-26-55-178Z"
    VerdictRecord.beside(session).write_text(
        '{"moment": "2025-07-20T12:27:00Z", "command": "x", "destroyed": {"public._cdc_users": "dropped"}}'
    )
    kept = VerdictRecord.read(session)
    assert kept
    assert (kept.destroyed, kept.announced, kept.machinery) == ({"public._cdc_users": "dropped"}, (), ())


def test_rows_that_were_changed_are_brought_back_by_the_commands_that_are_printed(project: Project) -> None:
    before = contents(project)
    ended = project.cdc("run-safe", "--", *psql(project, "update _cdc_users set name = 'x' where id < 3"))
    assert ended.code == 6, ended.said
    aside, replace = ended.advised
    assert project.run(*aside).code == 0
    assert contents(project) != before
    assert project.run(*replace, "--yes").code == 0
    assert rows(project.database, "_cdc_users") == before["_cdc_users"]


BACK = {
    "dropped": ("drop table _cdc_users",),
    "its trigger's table dropped": ("drop table users cascade", "drop table _cdc_users, _cdc_roles, _cdc_empty"),
    "emptied": ("truncate _cdc_users, _cdc_roles",),
    "rows lost": ("delete from _cdc_users where id = 2",),
    "replaced": ("drop table _cdc_users", "create table _cdc_users (id integer primary key, name text, note text)"),
}


@pytest.mark.parametrize("statements", BACK.values(), ids=BACK.keys())
def test_the_command_that_is_printed_brings_everything_back(project: Project, statements: tuple[str, ...]) -> None:
    before = contents(project)
    ended = project.cdc("run-safe", "--", *psql(project, *statements))
    assert ended.code == 6, ended.said
    assert contents(project) != before
    (advised,) = ended.advised
    assert advised[0] == "cdc-backup"
    assert project.run(*advised).code == 0
    assert contents(project) == before


def test_the_command_that_is_printed_touches_no_table_that_lost_nothing(project: Project) -> None:
    ended = project.cdc("run-safe", "--", *psql(project, "drop table _cdc_users"))
    (advised,) = ended.advised
    assert advised[-2:] == ("--table", "public._cdc_users")
    with project.database.connect(autocommit=False) as other:
        other.execute("lock table _cdc_roles in row exclusive mode")
        assert project.run(*advised).code == 0


def test_who_uses_invoke_is_told_a_command_of_invoke(project: Project) -> None:
    (project.folder / "tasks.py").write_text(TASKS)
    before = contents(project)
    ended = project.run(INVOKE, "migration.run-safe", "--", *psql(project, "drop table _cdc_users"))
    assert ended.code == 6, ended.said
    (advised,) = ended.advised
    assert advised[:2] == ("invoke", "migration.restore")
    assert project.run(*advised).code == 0
    assert contents(project) == before


def test_the_command_that_is_printed_finds_the_session_of_another_configuration(project: Project) -> None:
    other = project.folder / "other configuration.yml"
    other.write_text("backup: {drill: off, path: elsewhere, url_variable: SHOP_URL}\n")
    given = project.environment(SHOP_URL=project.database.url, DATABASE_URL="postgresql://postgres@127.0.0.1:1/no")
    before = contents(project)
    drop = ("sh", "-c", shlex.join(psql(project, "drop table _cdc_users")).replace("$DATABASE_URL", "$SHOP_URL"))
    ended = project.cdc("run-safe", "--config", other.name, "--", *drop, environment=given)
    assert ended.code == 6, ended.said
    (advised,) = ended.advised
    assert project.run(*advised, environment=given).code == 0
    assert contents(project) == before


def test_what_cannot_go_back_into_its_place_is_brought_back_beside_it(project: Project) -> None:
    """Columns that are gone, a table under another name: each table has its own way, and each works."""
    strike = psql(
        project,
        "alter table _cdc_users drop note",
        "drop table _cdc_roles",
        "alter table _cdc_empty rename to nothing",
    )
    ended = project.cdc("run-safe", "--", *strike)
    assert ended.code == 6, ended.said
    back, aside = ended.advised
    assert back[-2:] == ("--table", "public._cdc_roles")
    assert aside[-2:] == ("--table", "public._cdc_users")
    assert "ALTER TABLE" in ended.said
    assert project.run(*back).code == 0
    assert rows(project.database, "_cdc_roles") == ["(1,admin)", "(2,editor)"]
    assert project.run(*aside).code == 0
    (schema,) = (name for (name,) in project.database.rows("select nspname from pg_namespace") if "restored_" in name)
    assert project.database.rows(f'select note from "{schema}"._cdc_users order by id') == [("ü",), ("",), (None,)]


def contents(project: Project) -> dict[str, list[str]]:
    """The CDC tables and their rows."""
    found = project.database.rows("select relname from pg_class where relkind = 'r' and starts_with(relname, '_cdc_')")
    return {name: rows(project.database, name) for (name,) in found}


NEWER = {
    "into a table that was empty": ("insert into _cdc_empty values (1), (2)", "truncate _cdc_empty"),
    "and the others are back": (
        "create table copied as table _cdc_users",
        "insert into _cdc_users values (4, 'joe')",
        "begin; truncate _cdc_users; insert into _cdc_users table copied; commit",
    ),
}


@pytest.mark.parametrize("statements", NEWER.values(), ids=NEWER.keys())
def test_rows_that_are_newer_than_the_backup_are_a_loss_as_well(project: Project, statements: tuple[str, ...]) -> None:
    project.configure(drill=True)
    *before, taken = statements
    ended = project.cdc("run-safe", "--", *psql(project, *before, taken))
    assert ended.code == 6, ended.said
    left = contents(project)
    (advised,) = ended.advised
    assert project.run(*advised).code == 0
    assert contents(project) != left
    table = "_cdc_empty" if "_cdc_empty" in taken else "_cdc_users"
    assert len(rows(project.database, table)) == (2 if table == "_cdc_empty" else 4)


def test_a_table_that_was_written_anew_is_brought_back_by_the_commands_that_are_printed(project: Project) -> None:
    before = contents(project)
    ended = project.cdc("run-safe", "--", *psql(project, "alter table _cdc_users alter name type text using 'gone'"))
    assert ended.code == 6, ended.said
    *_, replace = ended.advised
    assert project.run(*replace, "--yes").code == 0
    assert rows(project.database, "_cdc_users") == before["_cdc_users"]
