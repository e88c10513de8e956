"""What makes change data capture work, and what a migration takes from it: told, with what brings it back."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import psycopg
import pytest

from backup.migration.faults import Fault, Part, find_faults, machinery_before
from backup.migration.verdict import Change, Verdict
from backup.postgres.embedded import Server
from backup.postgres.machinery import Machinery, look_at_machinery
from backup.postgres.tables import Table, find_tables
from tests.chain import Project, new_project, psql
from tests.lacking import lacking
from tests.servers import FreshDatabase, fresh_database
from tests.sessions import PREFIX, fresh_role, reached, rows

CAPTURE = """
create table users (id integer primary key, name text);
create table roles (id integer primary key, name text);
create table _cdc_users (id serial primary key, op text, name text, unique (op, id),
                         number integer generated always as identity);
create index by_op on _cdc_users (op);
create table _cdc_roles (id serial primary key, op text);
create table _cdc_all (id serial primary key, op text default 'none');
grant insert, select on _cdc_users to public;
create view shown as select op from _cdc_all;
create function audit_users() returns trigger language plpgsql as $$
begin insert into _cdc_users (op, name) values (tg_op, coalesce(new.name, old.name)); return null; end $$;
create trigger cdc_users_audit after insert or update or delete on users for each row execute function audit_users();
create function audit() returns trigger language plpgsql as $$
begin execute format('insert into %I (op) values ($1)', '_cdc_' || tg_table_name) using tg_op; return null; end $$;
create trigger cdc_roles_audit after insert on roles for each row execute function audit();
create trigger cdc_roles_named after update of name on roles for each row when (new.name is not null)
  execute function audit();
create function write_down(op text) returns void language sql as $$ insert into _cdc_all (op) values (op) $$;
create function forward() returns trigger language plpgsql as $$
begin perform write_down(new.op); return null; end $$;
create trigger forward after insert on _cdc_users for each row execute function forward();
create rule keep as on delete to roles do also insert into _cdc_all (op) values ('gone');
create function unrelated() returns trigger language plpgsql as $$ begin return null; end $$;
create trigger unrelated after insert on users for each row execute function unrelated();
alter table _cdc_roles replica identity full;
alter table users enable always trigger cdc_users_audit;
create publication feed for table _cdc_users, users with (publish = 'insert, update');
insert into users values (1, 'ada');
insert into roles values (1, 'admin');
"""


@dataclass(frozen=True, kw_only=True)
class Looked:
    """A database whose machinery was looked at."""

    database: FreshDatabase
    tables: tuple[Table, ...]
    machinery: Machinery

    def faults(self, *announced: str) -> tuple[Fault, ...]:
        """What is not as it was; of these tables a person was told before that they would be dropped."""
        verdicts = [
            Verdict(
                schema=t.schema,
                name=t.name,
                change=Change.DROPPED if t.name in announced else Change.UNTOUCHED,
                rows_before=0,
                rows_after=0,
                announced=t.name in announced,
            )
            for t in self.tables
        ]
        return find_faults(reached(self.database), self.machinery, self.tables, verdicts)


@pytest.fixture
def captured(database: FreshDatabase) -> Looked:
    """Tables that capture, on each of the servers."""
    database.execute(CAPTURE)
    with reached(database).connect() as connection:
        tables = find_tables(connection, prefix=PREFIX, schemas="*")
    return Looked(database=database, tables=tables, machinery=machinery_before(reached(database), tables))


TAKEN = {
    "a trigger": (
        ("drop trigger cdc_users_audit on users",),
        "public.users no longer writes to public._cdc_users: its trigger cdc_users_audit is gone.",
    ),
    "a trigger with its function": (
        ("drop function audit_users() cascade",),
        "public.users no longer writes to public._cdc_users: its trigger cdc_users_audit is gone.",
    ),
    "a trigger that is disabled": (
        ("alter table users disable trigger cdc_users_audit",),
        "public.users no longer writes to public._cdc_users: its trigger cdc_users_audit is disabled.",
    ),
    "all triggers, disabled": (
        ("alter table roles disable trigger all",),
        "public.roles no longer writes to public._cdc_roles: its trigger cdc_roles_audit is disabled.",
    ),
    "one of a trigger's events": (
        (
            "drop trigger cdc_users_audit on users",
            "create trigger cdc_users_audit after insert on users for each row execute function audit_users()",
        ),
        "public.users no longer writes to public._cdc_users on UPDATE or DELETE: its trigger cdc_users_audit was "
        "changed.",
    ),
    "a trigger's function": (
        (
            "drop trigger cdc_users_audit on users",
            "create trigger cdc_users_audit after insert on users for each row execute function unrelated()",
        ),
        "public.users no longer writes to public._cdc_users: its trigger cdc_users_audit was changed.",
    ),
    "what a function says": (
        ("create or replace function audit() returns trigger language plpgsql as 'begin return null; end'",),
        "public.roles no longer writes to public._cdc_roles: its trigger cdc_roles_audit is there, and its function "
        "public.audit() does not speak of it any more.",
    ),
    "a table that was made anew": (
        ("create table fresh as table users", "drop table users", "alter table fresh rename to users"),
        "public.users no longer writes to public._cdc_users: its trigger cdc_users_audit is gone.",
    ),
    "a rule": (
        ("drop rule keep on roles",),
        "public.roles no longer writes to public._cdc_all: its rule keep is gone.",
    ),
    "a trigger of a CDC table": (
        ("drop trigger forward on _cdc_users",),
        "public._cdc_users no longer writes to public._cdc_all: its trigger forward is gone.",
    ),
    "a function that a trigger's function calls": (
        ("drop function write_down",),
        "The function public.write_down(op text), which speaks of public._cdc_all, is gone, or does not speak of any "
        "CDC table now.",
    ),
    "a publication": (
        ("drop publication feed",),
        "The publication feed, which sent public._cdc_users, is gone.",
    ),
    "a table of a publication": (
        ("alter publication feed drop table _cdc_users",),
        "The publication feed no longer contains public._cdc_users.",
    ),
    "what a publication sends": (
        ("alter publication feed set (publish = 'insert')",),
        "The publication feed, with public._cdc_users in it, no longer publishes UPDATE.",
    ),
    "a replica identity": (
        ("alter table _cdc_roles replica identity default",),
        "The replica identity of public._cdc_roles was FULL and is DEFAULT.",
    ),
}


@pytest.mark.parametrize(("statements", "sentence"), TAKEN.values(), ids=TAKEN.keys())
def test_what_was_taken_is_told_and_the_statements_that_are_printed_bring_it_back(
    captured: Looked, statements: Sequence[str], sentence: str
) -> None:
    for statement in statements:
        captured.database.execute(statement)
    faults = captured.faults()
    assert sentence in [fault.sentence for fault in faults]
    assert {fault.is_loss for fault in faults} == {True}
    for fault in faults:
        captured.database.execute(fault.way_back)
    assert captured.faults() == ()
    before = len(rows(captured.database, "_cdc_users")), len(rows(captured.database, "_cdc_roles"))
    captured.database.execute("insert into users values (7, 'eve'); insert into roles values (7, 'x')")
    after = len(rows(captured.database, "_cdc_users")), len(rows(captured.database, "_cdc_roles"))
    assert after == (before[0] + 1, before[1] + 1)


QUIET = {
    "nothing": ("select 1",),
    "a trigger of others": ("drop trigger unrelated on users", "drop function unrelated"),
    "names": (
        "alter table users rename to people",
        "alter trigger cdc_users_audit on people rename to audit",
        "alter function audit_users() rename to audit_people",
    ),
    "a table and what writes it": (
        "alter table _cdc_users rename to _cdc_people",
        "create or replace function audit_users() returns trigger language plpgsql as $$"
        "\nbegin insert into _cdc_people (op, name) values (tg_op, coalesce(new.name, old.name)); return null; end $$",
    ),
    "columns that a trigger names": (
        "alter table roles rename name to label",
        "alter table _cdc_users rename number to position",
        "alter index by_op rename to sorted",
        "alter view shown rename to seen",
    ),
    "a new column with a default, and one that may be null": (
        "alter table _cdc_users add x integer not null default 0, add y text",
    ),
    "a sequence that went on": ("select nextval('_cdc_users_id_seq')",),
    "a table that begins anew": ("truncate _cdc_roles restart identity",),
    "a row filter's way": ("alter publication feed set table users, _cdc_users",),
    "another trigger for the same": (
        "drop trigger cdc_users_audit on users",
        "create trigger other after insert or update or delete on users for each row execute function audit_users()",
        "alter table users enable always trigger other",
    ),
    "a publication's name for all tables": ("create publication everything for all tables",),
}


@pytest.mark.parametrize("statements", QUIET.values(), ids=QUIET.keys())
def test_what_still_captures_under_other_names_is_nothing_to_tell(captured: Looked, statements: Sequence[str]) -> None:
    for statement in statements:
        captured.database.execute(statement)
    assert captured.faults() == ()


FAILS = {
    "a column that a function names": (
        "alter table _cdc_users rename column op to operation",
        "The column op of public._cdc_users is called operation now, and public.audit_users() names it: what that "
        "writes fails.",
    ),
    "a default": (
        "alter table _cdc_users alter id drop default",
        "The column id of public._cdc_users is NOT NULL and has no default now, and public.audit_users() does not name "
        "it: what that writes fails.",
    ),
    "an identity": (
        "alter table _cdc_users alter number drop identity",
        "The column number of public._cdc_users is NOT NULL and has no default now, and public.audit_users() does not "
        "name it: what that writes fails.",
    ),
    "a column that nobody fills": (
        "alter table _cdc_users add x integer not null default 0; alter table _cdc_users alter x drop default",
        "The column x of public._cdc_users is NOT NULL and has no default now, and public.audit_users() does not name "
        "it: what that writes fails.",
    ),
    "a sequence": (
        "select setval('_cdc_users_id_seq', 1, false)",
        "The sequence public._cdc_users_id_seq stands behind the largest id in public._cdc_users: what is written "
        "fails.",
    ),
    "a new identity, which begins anew": (
        "alter table _cdc_users alter number drop identity; alter table _cdc_users alter number add generated always "
        "as identity; create unique index on _cdc_users (number)",
        "The sequence public._cdc_users_number_seq stands behind the largest number in public._cdc_users: what is "
        "written fails.",
    ),
}


@pytest.mark.parametrize(("statement", "sentence"), FAILS.values(), ids=FAILS.keys())
def test_writes_that_fail_although_the_table_is_there_are_told_and_mended(
    captured: Looked, statement: str, sentence: str
) -> None:
    captured.database.execute(statement)
    faults = captured.faults()
    assert [(f.part, f.sentence) for f in faults if f.is_loss] == [(Part.WRITES_FAIL, sentence)]
    with pytest.raises(psycopg.errors.Error) as failed:
        captured.database.execute("insert into users values (8, 'joe')")
    assert "_cdc_users" in str(failed.value)
    captured.database.execute(next(fault for fault in faults if fault.is_loss).way_back)
    assert [fault for fault in captured.faults() if fault.is_loss] == []
    captured.database.execute("insert into users values (9, 'joe')")


LESS = {
    "WHEN": (
        "drop trigger cdc_users_audit on users; create trigger cdc_users_audit after insert or update or delete on "
        "users for each row when (false) execute function audit_users();"
        "alter table users enable always trigger cdc_users_audit",
        "public.users writes less to public._cdc_users: its trigger cdc_users_audit fires only WHEN (false).",
    ),
    "UPDATE OF": (
        "drop trigger cdc_users_audit on users; create trigger cdc_users_audit after insert or update of id or delete "
        "on users for each row execute function audit_users(); alter table users enable always trigger cdc_users_audit",
        "public.users writes less to public._cdc_users: it is written only on UPDATE OF id.",
    ),
    "a body that names its table only in a comment": (
        "create or replace function audit_users() returns trigger language plpgsql as"
        " 'begin /* insert into _cdc_users */ return null; -- _cdc_users\nend'",
        "public.users no longer writes to public._cdc_users: its trigger cdc_users_audit is there, and its function "
        "public.audit_users() does not speak of it any more.",
    ),
    "a table that has the name now, without the trigger": (
        "alter table users rename to people; create table users (like people including all)",
        "public.users is another table now, and nothing writes its changes to public._cdc_users: the trigger "
        "cdc_users_audit is on public.people.",
    ),
    "UNLOGGED": (
        "alter publication feed drop table _cdc_users; alter table _cdc_users set unlogged",
        "public._cdc_users is UNLOGGED now: its rows are gone after the next crash, and nothing is sent on.",
    ),
}


@pytest.mark.parametrize(("statement", "sentence"), LESS.values(), ids=LESS.keys())
def test_what_captures_less_under_the_same_name_is_a_loss_and_can_be_brought_back(
    captured: Looked, statement: str, sentence: str
) -> None:
    captured.database.execute(statement)
    faults = captured.faults()
    assert (sentence, True) in [(fault.sentence, fault.is_loss) for fault in faults]
    for fault in reversed(faults):
        captured.database.execute(fault.way_back)
    assert captured.faults() == ()


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ("_cdc_users where (id < 0)", "The publication feed sends of public._cdc_users only its rows WHERE (id < 0)."),
        ("_cdc_users (id)", "The publication feed sends of public._cdc_users no longer its columns name, number, op."),
    ],
)
def test_a_publication_that_sends_less_of_a_table_is_a_loss(captured: Looked, entry: str, sentence: str) -> None:
    if captured.database.rows("select current_setting('server_version_num')::int < 150000")[0][0]:
        lacking("row filters of publications (they came with PostgreSQL 15)")
    captured.database.execute(f"alter table _cdc_users replica identity full; alter publication feed set table {entry}")
    assert (sentence, True) in [(fault.sentence, fault.is_loss) for fault in captured.faults()]
    for fault in captured.faults():
        captured.database.execute(fault.way_back)
    assert captured.faults() == ()


def test_a_setting_by_which_no_trigger_fires_is_a_loss(captured: Looked) -> None:
    name = captured.database.name
    captured.database.execute(f"alter database {name} set session_replication_role = replica")
    (fault,) = captured.faults()
    assert (fault.part, fault.is_loss) == (Part.SETTING, True)
    before = len(rows(captured.database, "_cdc_roles"))
    captured.database.execute("insert into roles values (7, 'x')")
    assert len(rows(captured.database, "_cdc_roles")) == before
    captured.database.execute(fault.way_back)
    assert captured.faults() == ()
    captured.database.execute("insert into roles values (8, 'x')")
    assert len(rows(captured.database, "_cdc_roles")) == before + 1


TOLD = {
    "a function that writes as before and says something else": (
        "create or replace function audit_users() returns trigger language plpgsql as $$"
        " begin insert into _cdc_users (op) values ('x'); return null; end $$",
        "The function public.audit_users(), which writes to public._cdc_users, is another now.",
    ),
    "a function's settings": (
        "alter function audit_users() set work_mem = '1MB'",
        "The function public.audit_users(), which writes to public._cdc_users, is another now.",
    ),
    "when a trigger fires": (
        "drop trigger cdc_roles_audit on roles;"
        "create trigger cdc_roles_audit before insert on roles for each row execute function audit()",
        "The trigger cdc_roles_audit on public.roles is another now: CREATE TRIGGER cdc_roles_audit BEFORE INSERT ON "
        "public.roles FOR EACH ROW EXECUTE FUNCTION public.audit().",
    ),
    "a column that is only spoken of": (
        "alter table _cdc_roles rename column op to operation",
        "The column op of public._cdc_roles is called operation now, and public.audit() names it: what that writes may "
        "fail.",
    ),
    "a column that whoever writes may not fill": (
        "alter table _cdc_roles add x integer not null default 0; alter table _cdc_roles alter x drop default",
        "The column x of public._cdc_roles is NOT NULL and has no default now: what is written may fail.",
    ),
    "a column that may not be null any more": (
        "alter table _cdc_users alter op set not null",
        "The column op of public._cdc_users is NOT NULL and has no default now: what is written may fail.",
    ),
    "a CHECK": (
        "alter table _cdc_users add constraint known check (op <> 'INSERT') not valid",
        "The constraint known on public._cdc_users is new: what is written may fail by it.",
    ),
    "a key": (
        "create unique index one on _cdc_users (name)",
        "The index one on public._cdc_users is new: what is written may fail by it.",
    ),
    "row security": (
        "alter table _cdc_users enable row level security",
        "Row security of public._cdc_users is enabled now: who writes to it may be refused.",
    ),
    "row security for owners": (
        "alter table _cdc_users force row level security",
        "Row security of public._cdc_users is forced, also for its owner now: who writes to it may be refused.",
    ),
    "a default of a column that may be null": (
        "alter table _cdc_all alter op drop default",
        "The column op of public._cdc_all has no default now: what does not name it is NULL there.",
    ),
    "rights": (
        "revoke insert, select on _cdc_users from public",
        "PUBLIC has lost the right to INSERT, SELECT on public._cdc_users.",
    ),
    "a rule by which nothing is written": (
        "create rule nothing as on insert to _cdc_users do instead nothing",
        "The rule nothing on public._cdc_users is new: what is written may be changed by it, or go nowhere.",
    ),
    "a trigger by which nothing may be written": (
        "create trigger first before insert on _cdc_all for each row execute function unrelated()",
        "The trigger first on public._cdc_all is new: what is written may be changed by it, or go nowhere.",
    ),
    "an index": ("drop index by_op", "The index by_op on public._cdc_users is gone."),
    "a view": ("drop view shown", "The view shown on public._cdc_all is gone."),
}


def test_what_may_well_be_meant_is_told_and_no_loss(captured: Looked) -> None:
    for statement, sentence in TOLD.values():  # in one database, because each way back leaves it as it was
        captured.database.execute(statement)
        faults = captured.faults()
        assert [(fault.sentence, fault.is_loss) for fault in faults] == [(sentence, False)]
        captured.database.execute(faults[0].way_back)
        assert captured.faults() == (), sentence


def test_a_role_that_has_another_name_or_is_gone_or_may_do_all_has_lost_nothing(captured: Looked) -> None:
    database = captured.database
    server = database.server
    with fresh_role(server) as renamed, fresh_role(server) as gone, fresh_role(server) as owner:
        database.execute(f"grant insert on _cdc_users to {renamed}, {gone}")
        looked = replace(captured, machinery=machinery_before(reached(database), captured.tables))
        database.execute(f"alter role {renamed} rename to {renamed}_2; drop owned by {gone}; drop role {gone}")
        database.execute(f"alter table _cdc_roles owner to {owner}")
        try:
            assert [fault.sentence for fault in looked.faults()] == []
        finally:
            database.execute(f"alter role {renamed}_2 rename to {renamed}; create role {gone}")
            database.execute(f"alter table _cdc_roles owner to current_user; drop owned by {renamed}")


def test_the_number_of_queries_does_not_grow_with_the_tables(captured: Looked) -> None:
    def queries() -> int:
        asked = []

        class Counted(psycopg.Cursor[tuple[Any, ...]]):
            def execute(self, *args: Any, **kwargs: Any) -> Self:
                asked.append(args)
                return super().execute(*args, **kwargs)

        with reached(captured.database).connect() as connection:
            names = [(table.schema, table.name) for table in find_tables(connection, prefix=PREFIX, schemas="*")]
            connection.cursor_factory = Counted
            assert len(look_at_machinery(connection, names).shapes) == len(names)
        return len(asked)

    few = queries()
    captured.database.execute("".join(f"create table _cdc_more_{n} (id serial primary key);" for n in range(20)))
    assert queries() == few


@pytest.mark.parametrize(
    ("statement", "sentence", "insert"),
    [
        (
            "drop table _cdc_users",
            "The trigger cdc_users_audit on public.users writes to public._cdc_users, which is gone: every INSERT, "
            "UPDATE or DELETE on public.users fails until it is back.",
            "insert into users values (8, 'joe')",
        ),
        (
            "alter table _cdc_roles rename to attic",
            "The trigger cdc_roles_audit on public.roles writes to public._cdc_roles, which is gone: every INSERT on "
            "public.roles fails until it is back (public._cdc_roles is public.attic now).",
            "insert into roles values (8, 'joe')",
        ),
    ],
)
def test_a_trigger_that_outlives_its_table_makes_writes_fail_and_that_is_told_first(
    captured: Looked, statement: str, sentence: str, insert: str
) -> None:
    captured.database.execute(statement)
    first = captured.faults("_cdc_users")[0]
    assert (first.part, first.sentence, first.is_loss) == (Part.WRITES_FAIL, sentence, True)
    with pytest.raises(psycopg.errors.UndefinedTable):
        captured.database.execute(insert)


def test_a_lock_that_a_migration_left_is_not_waited_for_without_end(
    captured: Looked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backup.migration.faults._LOCK_WAIT", "100ms")
    with captured.database.connect(autocommit=False) as left:
        left.execute("drop table _cdc_roles")
        (fault,) = captured.faults()
        left.rollback()
    assert (fault.part, fault.is_loss) == (Part.UNKNOWN, True)


def test_a_trigger_that_does_not_fire_breaks_nothing(captured: Looked) -> None:
    captured.database.execute("alter table users disable trigger all; drop table _cdc_users")
    assert Part.WRITES_FAIL not in [fault.part for fault in captured.faults()]


def test_what_goes_with_an_application_table_is_told_and_no_loss(captured: Looked) -> None:
    captured.database.execute("drop table users, roles")
    told = {fault.sentence: fault.is_loss for fault in captured.faults()}
    assert told == {
        "public.users is gone, and with it its trigger cdc_users_audit, which wrote to public._cdc_users.": False,
        "public.roles is gone, and with it its trigger cdc_roles_audit, which wrote to public._cdc_roles.": False,
        "public.roles is gone, and with it its trigger cdc_roles_named, which wrote to public._cdc_roles.": False,
        "public.roles is gone, and with it its rule keep, which wrote to public._cdc_all.": False,
    }


def test_only_what_is_missing_is_made_again(captured: Looked) -> None:
    captured.database.execute("drop trigger cdc_roles_audit on roles")
    (fault,) = captured.faults()
    assert fault.way_back == (
        "CREATE TRIGGER cdc_roles_audit AFTER INSERT ON public.roles FOR EACH ROW EXECUTE FUNCTION public.audit();"
    )


def test_who_writes_a_table_that_was_let_go_is_no_loss_of_its_own(captured: Looked) -> None:
    captured.database.execute("drop function audit_users() cascade; drop table _cdc_users")
    assert [fault.is_loss for fault in captured.faults("_cdc_users") if fault.part is Part.TRIGGER] == [False]
    assert True in [fault.is_loss for fault in captured.faults() if fault.part is Part.TRIGGER]


@pytest.mark.parametrize(
    ("body", "spoken"),
    [
        ("insert into one._cdc_x values (1)", {"one"}),
        ('insert into "one"."_cdc_x" values (1)', {"one"}),
        ("insert into _cdc_x values (1)", {"one", "two"}),
        ("insert into _CDC_X values (1)", {"one", "two"}),
        ("insert into _cdc_xyz values (1)", set()),
        ("insert into my_cdc_x values (1)", set()),
    ],
)
def test_a_function_speaks_of_the_tables_that_its_words_name(
    database: FreshDatabase, body: str, spoken: set[str]
) -> None:
    for schema in ("one", "two"):
        database.execute(f"create schema {schema}; create table {schema}._cdc_x (id integer)")
    database.execute(f"create function f() returns void language plpgsql as $$ begin {body}; end $$")
    with reached(database).connect() as connection:
        tables = find_tables(connection, prefix=PREFIX, schemas="*")
    functions = machinery_before(reached(database), tables).functions.values()
    assert {schema for function in functions for schema, _ in function.names} == spoken


@pytest.fixture
def project(embedded_server: Server, tmp_path: Path) -> Iterator[Project]:
    """A project with tables that capture, on the embedded server."""
    with new_project(embedded_server, tmp_path / "project", CAPTURE) as made:
        yield made


def test_writes_that_fail_are_said_loudly_kept_beside_the_session_and_shown_by_list(project: Project) -> None:
    value, ended = project.json("run-safe", "--", *psql(project, "drop table _cdc_users"))
    assert ended.code == 6
    sentence = "every INSERT, UPDATE or DELETE on public.users fails until it is back"
    assert sentence in ended.stderr
    assert value["message"].startswith(
        "The migration destroyed CDC data: public._cdc_users (dropped); the application's own writes fail."
    )
    assert [(entry["kind"], entry["loss"]) for entry in value["machinery"]] == [("writes fail", True)]
    (session,) = project.published
    kept = json.loads(session.with_name(f"{session.name}.verdict.json").read_text())
    assert kept["destroyed"] == {"public._cdc_users": "dropped"}
    assert sentence in kept["machinery"][0]
    assert value["message"].startswith(kept["sentence"])
    assert sentence in project.cdc("list").stdout
    (advised,) = ended.advised
    assert project.run(*advised).code == 0
    project.database.execute("insert into users values (8, 'joe')")


def test_a_capture_that_was_stopped_is_exit_6_also_where_no_table_was_touched(project: Project) -> None:
    value, ended = project.json("run-safe", "--", *psql(project, "drop trigger cdc_users_audit on users"))
    assert ended.code == 6
    assert {entry["change"] for entry in value["verdict"]} == {"untouched"}
    assert value["message"].startswith("Changes are no longer captured or published as before.")
    (entry,) = value["machinery"]
    assert "CREATE TRIGGER cdc_users_audit" in entry["remedy"]
    assert entry["remedy"] in value["message"]
    project.database.execute(entry["remedy"])
    value, ended = project.json("run-safe", "--", *psql(project, "select 1"))
    assert (ended.code, value["machinery"]) == (0, [])


def test_a_catalog_that_cannot_be_looked_at_again_is_not_taken_for_intact(embedded_server: Server) -> None:
    with fresh_database(embedded_server) as database:
        database.execute(CAPTURE)
        with reached(database).connect() as connection:
            tables = find_tables(connection, prefix=PREFIX, schemas="*")
        machinery = machinery_before(reached(database), tables)
        gone = reached(database, dbname="no_such_database")
        (fault,) = find_faults(gone, machinery, tables, ())
    assert (fault.part, fault.is_loss) == (Part.UNKNOWN, True)
    assert "no_such_database" in fault.sentence
