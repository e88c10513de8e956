"""The rehearsal: what it foresees is what then happens, and it never touches the real database."""

import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from backup.errors import BackupError
from backup.migration.command import MigrationCommand
from backup.migration.redirect import Tool, leads_by_pg, redirected, tool_of, why_not
from backup.migration.rehearsal import Stage, Watched, rehearse
from backup.postgres.cluster import changed_objects, shared_objects
from backup.postgres.database import Database
from backup.postgres.embedded import Server
from backup.stand_guard import StoodAgainst
from tests.chain import CDC_BACKUP, TABLES, Project, end, new_project
from tests.servers import FreshDatabase
from tests.sessions import clients_for, dump, fresh_role, reached, snapshot

LINKED = """
alter table _cdc_users add user_id integer;
insert into users values (1, 'ada'), (2, 'bob');
update _cdc_users set user_id = 1;
alter table _cdc_users add foreign key (user_id) references users on delete cascade;
"""
"""The tables of TABLES, with a foreign key by which a strike on `users` reaches `_cdc_users`."""


@pytest.fixture
def project(embedded_server: Server, tmp_path: Path) -> Iterator[Project]:
    """A project with three CDC tables on the embedded server, whose migrations are rehearsed."""
    with new_project(embedded_server, tmp_path / "project", TABLES + LINKED) as made:
        made.configure(rehearse="auto")
        yield made


def foreseen(value: dict[str, Any]) -> dict[str, tuple[str, int, int | None]]:
    """What the forecast says of each table."""
    return told(value["forecast"]["tables"])


def happened(value: dict[str, Any]) -> dict[str, tuple[str, int, int | None]]:
    """What the verdict says of each table."""
    return told(value["verdict"])


def told(tables: list[dict[str, Any]]) -> dict[str, tuple[str, int, int | None]]:
    return {table["name"]: (table["change"], table["rows_before"], table["rows_after"]) for table in tables}


def place(database: FreshDatabase) -> dict[str, str]:
    """What leads psql to the database without an argument."""
    with database.connect() as connection:
        info = connection.info
        named = {"PGHOST": info.host, "PGPORT": str(info.port), "PGUSER": info.user, "PGDATABASE": info.dbname}
        return {**named, "PGPASSWORD": info.password}


def psql_environment(project: Project, **more: str) -> dict[str, str]:
    """The project's environment, in which psql finds the database as well."""
    return project.environment(**place(project.database), **more)


def psql_file(project: Project, *statements: str) -> tuple[str, ...]:
    """A migration by psql as a person types it, with all that is asked of it in a file."""
    (project.folder / "migration.sql").write_text("\n".join(f"{statement};" for statement in statements))
    psql = project.database.server.binaries / "psql"
    return (str(psql), "--no-psqlrc", "--set=ON_ERROR_STOP=1", "--file=migration.sql")


def scratch_databases(project: Project) -> list[tuple[Any, ...]]:
    return project.database.rows("select datname from pg_database where datname like 'cdc_scratch%'")


# by psql


def test_what_is_foreseen_is_what_happens_and_counts_as_announced_to_who_said_yes(project: Project) -> None:
    drop = psql_file(
        project, "drop table _cdc_roles", "truncate users cascade", "alter table _cdc_empty rename to people"
    )
    value, ended = project.json("run-safe", "--yes", "--", *drop, environment=psql_environment(project))
    assert foreseen(value) == happened(value)
    assert foreseen(value) == {
        "_cdc_empty": ("renamed", 0, 0),
        "_cdc_roles": ("dropped", 2, None),
        "_cdc_users": ("emptied", 3, 0),
    }
    assert "empty `_cdc_users` (3 rows) through the cascade from `users`" in ended.stderr
    assert ended.code == 0, ended.said
    assert f"restore --session {Path(value['session']).name}" in ended.stderr
    assert scratch_databases(project) == []


def test_a_loss_that_was_shown_to_nobody_who_agreed_is_not_announced(project: Project) -> None:
    drop = psql_file(project, "drop table _cdc_roles")
    value, ended = project.json("run-safe", "--", *drop, environment=psql_environment(project))
    assert foreseen(value)["_cdc_roles"][0] == "dropped"
    assert ended.code == 6, ended.said


def test_a_loss_that_the_rehearsal_did_not_show_is_not_announced_by_a_yes(project: Project) -> None:
    sly = psql_file(
        project,
        "drop table _cdc_empty",
        "do $$ begin if current_database() not like 'cdc_scratch%' then drop table _cdc_roles; end if; end $$",
    )
    value, ended = project.json("run-safe", "--yes", "--", *sly, environment=psql_environment(project))
    assert foreseen(value)["_cdc_roles"] == ("untouched", 2, 2)
    assert "Safe, untouched there: _cdc_roles, _cdc_users." in ended.stderr
    assert ended.code == 6, ended.said
    assert "_cdc_roles (dropped)" in value["message"]
    assert "gone as well: public._cdc_empty (dropped)" in value["message"]
    assert value["message"].endswith(" --table public._cdc_roles")


def test_an_update_is_foreseen_and_one_that_the_rehearsal_did_not_show_was_done_by_others(project: Project) -> None:
    update = psql_file(project, "update _cdc_users set note = 'x' where id = 1")
    value, ended = project.json("run-safe", "--yes", "--", *update, environment=psql_environment(project))
    assert foreseen(value) == happened(value)
    assert foreseen(value)["_cdc_users"] == ("rows changed", 3, 3)
    assert "change rows of `_cdc_users` (1 row of the backup updated or deleted)" in ended.stderr
    assert ended.code == 0, ended.said
    elsewhere = (
        "do $$ begin if current_database() not like 'cdc_scratch%'"
        " then update _cdc_roles set name = 'x'; end if; end $$"
    )
    value, ended = project.json(
        "run-safe", "--yes", "--", *psql_file(project, elsewhere), environment=psql_environment(project)
    )
    assert [table["by_others"] for table in value["verdict"]] == [False, True, False]
    assert "by others meanwhile, for the rehearsal changed none" in ended.stderr
    assert ended.code == 0, ended.said


def test_rows_are_never_called_changed_by_others_where_the_rehearsal_lacked_rows(project: Project) -> None:
    project.database.execute(
        "create table closed (id int, why text);"
        "insert into closed select g, repeat('x', 1900) from generate_series(1, 20000) g"
    )
    update = psql_file(project, "update _cdc_users c set note = 'x' from closed where closed.id = c.id + 1")
    value, ended = project.json("run-safe", "--yes", "--", *update, environment=psql_environment(project))
    assert foreseen(value)["_cdc_users"] == ("untouched", 3, 3)
    assert "run with only the first row of closed: what depends on their data may differ" in ended.stderr
    assert [(table["change"], table["by_others"]) for table in value["verdict"]] == [
        ("untouched", False),
        ("untouched", False),
        ("rows changed", False),
    ]
    assert ended.code == 6, ended.said


def test_a_delete_that_cascades_and_a_lost_column_are_foreseen(project: Project) -> None:
    strike = psql_file(project, "delete from users where id = 1", "alter table _cdc_roles drop name")
    value, ended = project.json("rehearse", "--", *strike, environment=psql_environment(project))
    assert ended.code == 0, ended.said
    assert value["status"] == "rehearsed"
    assert foreseen(value)["_cdc_users"] == ("emptied", 3, 0)
    assert foreseen(value)["_cdc_roles"][0] == "columns lost"
    assert project.database.rows("select count(*) from _cdc_users, users") == [(6,)]
    assert len(project.published) == 1, "the backup comes first"


def test_what_fails_in_the_rehearsal_is_not_tried_on_the_real_database_unless_told(project: Project) -> None:
    fails = psql_file(project, "drop table _cdc_roles", "drop table nowhere")
    before = dump(project.database)
    value, ended = project.json("run-safe", "--yes", "--", *fails, environment=psql_environment(project))
    assert ended.code == 5, ended.said
    assert foreseen(value)["_cdc_roles"] == ("dropped", 2, None)
    assert 'table "nowhere" does not exist' in ended.stderr
    assert "--no-rehearse" in value["message"]
    assert len(project.published) == 1, "the backup comes first"
    assert dump(project.database) == before
    value, ended = project.json(
        "run-safe", "--yes", "--no-rehearse", "--", *fails, environment=psql_environment(project)
    )
    assert ended.code == 6, ended.said
    assert "forecast" not in value


def test_a_person_is_told_before_the_question_and_a_no_leaves_all_as_it_was(project: Project) -> None:
    before = dump(project.database)
    argv = psql_file(project, "drop table _cdc_roles")
    with project.terminal(CDC_BACKUP, "run-safe", "--", *argv, environment=psql_environment(project)) as shown:
        shown.expect(r"will drop `_cdc_roles` \(2 rows\)")
        shown.expect(r"Go on\?")
        shown.send("n\r")
        code, said = end(shown)
    assert code == 4, said
    assert dump(project.database) == before


def test_another_command_is_only_rehearsed_when_asked_because_it_runs_twice(project: Project) -> None:
    twice = ("sh", "-c", "echo ran >>mark; psql -c 'drop table _cdc_empty'")
    path = f"{project.database.server.binaries}{os.pathsep}{project.environment()['PATH']}"
    given = psql_environment(project, PATH=path)
    value, ended = project.json("run-safe", "--", *twice, environment=given)
    assert "--rehearse" in value["forecast"]["unknown"]
    assert {change for change, _, _ in foreseen(value).values()} == {"unknown"}
    assert (project.folder / "mark").read_text() == "ran\n"
    assert ended.code == 6
    project.database.execute("create table _cdc_empty (id integer)")
    value, ended = project.json("run-safe", "--yes", "--rehearse", "--", *twice, environment=given)
    assert (project.folder / "mark").read_text() == "ran\n" * 3
    assert foreseen(value) == happened(value)
    assert ended.code == 0, ended.said


@pytest.mark.parametrize("yes", [("--yes",), ()])
def test_a_command_that_does_nothing_of_what_its_rehearsal_did_is_not_done(
    project: Project, yes: tuple[str, ...]
) -> None:
    path = f"{project.database.server.binaries}{os.pathsep}{project.environment()['PATH']}"
    there = ("sh", "-c", "case $DATABASE_URL in *cdc_scratch*) psql -c 'drop table _cdc_roles';; esac")
    given = psql_environment(project, PATH=path)
    ended = project.cdc("run-safe", *yes, "--rehearse", "--", *there, environment=given)
    assert ended.code == 5, ended.said
    assert "In the rehearsal it struck CDC tables" in ended.said
    assert "The CDC tables are as they were." in ended.said
    assert "The migration is done" not in ended.said


# what cannot be known


def test_a_table_that_a_delete_could_reach_from_rows_that_were_not_copied_counts_as_at_risk(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backup.postgres.copy.BUDGET", 100_000)
    project.database.execute(
        "insert into users select n, repeat('x', 1000) from generate_series(3, 200) n;"
        "update _cdc_users set user_id = 199"
    )
    delete = python(project, "connection.execute('delete from users where id = 199')")
    forecast = rehearse(delete, stage(project.database))
    assert [(v.name, v.change) for v in forecast.at_risk] == [("_cdc_users", "unknown")]
    assert "a DELETE in users would reach it" in forecast.at_risk[0].detail
    assert [v.name for v in forecast.safe] == ["_cdc_empty", "_cdc_roles"]
    forecast = rehearse(delete, stage(project.database, also=("users",)))
    assert [(v.name, v.change) for v in forecast.losses] == [("_cdc_users", "emptied")], "its rows were there"


def test_a_command_that_takes_too_long_is_ended_with_all_it_started_and_no_forecast(project: Project) -> None:
    slow = python(project, "connection.execute('drop table _cdc_roles; select pg_sleep(600)')")
    forecast = rehearse(slow, stage(project.database, time_limit=2))
    assert "time limit" in forecast.unknown
    assert {verdict.change for verdict in forecast.verdicts} == {"unknown"}
    assert scratch_databases(project) == []


def test_a_database_that_reaches_others_through_foreign_servers_is_not_rehearsed(project: Project) -> None:
    project.database.execute(
        "create foreign data wrapper nothing; create server elsewhere foreign data wrapper nothing"
    )
    argv = psql_file(project, "select 1")
    value, ended = project.json("run-safe", "--", *argv, environment=psql_environment(project))
    assert "elsewhere" in value["forecast"]["unknown"]
    assert ended.code == 0, "with auto the chain goes on"
    value, ended = project.json("rehearse", "--", *argv, environment=psql_environment(project))
    assert ended.code == 3, "with on it halts"


# never the wrong database


NOWHERE = Database(parameters={"host": "localhost", "dbname": "shop"}, source="")


def refusal(words: Sequence[str], folder: Path, *, by_pg: bool | None = True, shared: bool = True) -> str:
    """Why this command is not rehearsed, as far as that is known before anything runs."""
    command = MigrationCommand(argv=tuple(words), directory=folder)
    return why_not(command, database=NOWHERE, variable="DATABASE_URL", environment={}, by_pg=by_pg, shared=shared)


@pytest.mark.parametrize(
    "words",
    [
        *(("psql", "-X", "-d", "shop", "-c", "select 1"), ("psql", "-X", "-hlocalhost", "-c", "select 1")),
        *(("psql", "-X", "--port=5432", "-c", "select 1"), ("psql", "-X", "-U", "me", "-c", "select 1")),
        *(("psql", "-X", "--db=shop", "-c", "select 1"), ("psql", "-X", "--hos=h", "-c", "select 1")),
        *(("psql", "-Xqdshop", "-c", "select 1"), ("psql", "-qXhelse", "-c", "select 1")),
        *(("psql", "-X", "-c", "select 1", "shop"), ("psql", "-X", "postgresql://h/shop", "-c", "select 1")),
        *(("psql", "-X"), ("psql", "-X", "-f", "-"), ("psql", "-X", "-f", "nowhere.sql"), ("psql", "-c", "select 1")),
        *(("psql", "-X", "-o", "|psql -d shop", "-c", "select 1"), ("psql", "-X", "--cluster", "15/main", "-c", "x")),
        ("psql", "-X", "-v", "sql=select dblink('dbname=shop', 'x')", "-c", "select 1"),
        *(("sh", "-c", "psql postgres://u@h/d"), ("sh", "-c", "psql 'host=h dbname=d'")),
        ("env", "PGHOST=elsewhere", "psql", "-c", "select 1"),
        ("npx", "drizzle-kit", "push", "--url=postgres://u@h/d"),
        ("alembic", "-x", "url=postgresql+psycopg://u@h/d", "upgrade", "head"),
        *(("alembic", "revision"), ("npx", "prisma", "migrate", "reset")),
    ],
    ids=" ".join,
)
def test_a_command_that_may_name_a_database_itself_is_refused(words: tuple[str, ...], tmp_path: Path) -> None:
    assert refusal(words, tmp_path)


@pytest.mark.parametrize(
    "words",
    [
        ("psql", "-X", "-v", "ON_ERROR_STOP=1", "-c", "update t set port = 5, host = 'x'"),
        ("psql", "-1X", "--command=drop table t", "--set", "a=b", "-Ppager=off"),
        ("sh", "-c", 'psql --dbname="$DATABASE_URL" -c "select 1"'),
        ("alembic", "-c", "alembic.ini", "upgrade", "head"),
        ("npx", "prisma", "migrate", "deploy"),
    ],
    ids=" ".join,
)
def test_a_command_that_leaves_it_to_the_variables_is_not_refused(words: tuple[str, ...], tmp_path: Path) -> None:
    assert not refusal(words, tmp_path)


@pytest.mark.parametrize(
    "words",
    [
        *(("-X", "postgresql://u:s3cret@h/d"), ("-X", "host=h password=s3cret"), ("-Xdpassword=s3cret",)),
        *(("-X", "-c", "\\set x `psql password=s3cret`"), ("-X", "-c", "copy t to program 'psql password=s3cret'")),
    ],
    ids=" ".join,
)
def test_a_refusal_shows_no_password(words: tuple[str, ...], tmp_path: Path) -> None:
    said = refusal(("psql", *words), tmp_path)
    assert said
    assert "s3cret" not in said


def test_psql_is_not_rehearsed_where_the_pg_variables_lead_elsewhere_or_nowhere(tmp_path: Path) -> None:
    words = ("psql", "-X", "-c", "select 1")
    assert "different databases" in refusal(words, tmp_path, by_pg=False)
    assert "none of PGHOST" in refusal(words, tmp_path, by_pg=None)
    assert "different databases" in refusal(("sh", "migrate.sh"), tmp_path, by_pg=False)


@pytest.mark.parametrize(
    "script",
    [
        *("\\c shop", "\\connect shop", "\\! ls", "\\gexec", "\\copy t from 'x'", "select 1 \\g | psql -d shop"),
        *("\\set x `psql -d shop`", "\\x \\! ls", "select 1 \\; select 2 \\! ls", "\\echo it's\n\\! ls '"),
        *("select dblink_exec('x', 'y')", "select '--', dblink('x')", "select E'it\\'s -- ', dblink('x')"),
        *("copy t from program 'x'", "copy t to '/tmp/x'", "copy t from stdin;\n1\n\\.", "load 'x'"),
        *("create extension postgres_fdw", "select lo_export(1, '/x')", "select pg_read_file('/x')"),
        "create function f() returns int language plpython3u as $$ $$",
        *("select $$ '$$, 1 \\! ls", "select a$b$c, 1 \\! ls $b$", "/* a /* b */ it's */ \\! ls"),
    ],
)
def test_a_script_that_can_reach_out_of_its_database_is_refused(script: str, tmp_path: Path) -> None:
    (tmp_path / "m.sql").write_text(script)
    assert "can reach out" in (said := refusal(("psql", "-X", "-f", "m.sql"), tmp_path)) or "comment" in said
    assert refusal(("psql", "-X", "-c", script), tmp_path, shared=False)


@pytest.mark.parametrize(
    "script",
    [
        *(
            "create role x",
            "create/**/role x",
            "CREATE -- x\n USER x",
            "grant a to b",
            "alter system set work_mem = '5MB'",
        ),
        *("alter database shop set work_mem = '5MB'", "drop owned by x", "comment on role x is 'y'"),
        *("security label for a on role y is 'z'", "grant connect on database shop to x"),
    ],
)
def test_what_all_databases_of_a_server_share_is_only_changed_on_a_server_of_its_own(
    script: str, tmp_path: Path
) -> None:
    assert "scratch: embedded" in refusal(("psql", "-X", "-c", script), tmp_path)
    assert not refusal(("psql", "-X", "-c", script), tmp_path, shared=False)
    file = tmp_path / "prisma" / "migrations" / "1_roles" / "migration.sql"
    file.parent.mkdir(parents=True)
    file.write_text(script)
    assert "1_roles says" in refusal(("npx", "prisma", "migrate", "deploy"), tmp_path)


@pytest.mark.parametrize(
    "script",
    [
        *("create table a (language text, role text, load int)", "select regexp_replace(x, '\\s+\\!', '')"),
        "grant select on t to app; -- create role x\n/* drop database y */",
        "\\set ON_ERROR_STOP on\n\\timing\n\\echo it's done\nselect E'a\\nb' \\; select 2;\n\\dt+ public.*\n\\q",
        "create function f() returns trigger language plpgsql as $x$ begin raise 'a\\b'; end $x$",
        "copy (select 1) to stdout; alter table t owner to me; alter default privileges grant select on tables to x",
    ],
)
def test_an_ordinary_script_is_not_refused(script: str, tmp_path: Path) -> None:
    (tmp_path / "m.sql").write_text(script)
    assert not refusal(("psql", "-X", "--file=m.sql"), tmp_path)


@pytest.mark.parametrize(
    ("words", "tool"),
    [
        (("npx", "drizzle-kit@0.31.11", "push"), Tool.DRIZZLE),
        (("pnpm", "exec", "drizzle-kit", "migrate"), Tool.DRIZZLE),
        (("uv", "run", "alembic", "upgrade", "head"), Tool.ALEMBIC),
        (("/srv/.venv/bin/python3.12", "-m", "alembic", "upgrade", "head"), Tool.ALEMBIC),
        (("npx", "prisma", "migrate", "deploy"), Tool.PRISMA),
        (("npx", "prisma", "db", "push"), Tool.OTHER),
        (("/usr/bin/psql", "-f", "x.sql"), Tool.PSQL),
        (("sh", "-c", "psql -f x.sql"), Tool.OTHER),
        (("npm", "run", "db:push"), Tool.OTHER),
        (("rm", "-rf", "drizzle-kit"), Tool.OTHER),
    ],
    ids=str,
)
def test_only_what_is_known_to_do_nothing_but_migrate_is_taken_for_that(words: tuple[str, ...], tool: Tool) -> None:
    assert tool_of(words) is tool


@pytest.mark.parametrize(
    ("url", "given", "expected"),
    [
        (
            "postgresql+psycopg://me:s%40x@db:6000/shop?schema=app&sslmode=require",
            {"PGSSLMODE": "require", "PGSERVICE": "shop", "PGDATABASE": "shop"},
            {
                "URL": "postgresql+psycopg://me:s%40x@db:6000/scratch?schema=app&sslmode=require",
                "PGSSLMODE": "require",
            },
        ),
        (
            "postgres://you:other@elsewhere/shop?schema=app&sslmode=require&host=elsewhere",
            {"PGSSLMODE": "require", "PGPASSFILE": "/home/me/.pgpass"},
            {"URL": "postgres://me:s%40x@db:6000/scratch?schema=app"},
        ),
        ("host=elsewhere dbname=shop", {}, {"URL": "postgresql://me:s%40x@db:6000/scratch"}),
    ],
    ids=["the same server", "another server", "a keyword string"],
)
def test_a_command_gets_the_place_of_the_scratch_database_and_keeps_the_rest(
    url: str, given: dict[str, str], expected: dict[str, str]
) -> None:
    to = Database(
        parameters={"host": "db", "port": "6000", "user": "me", "password": "s@x", "dbname": "scratch"}, source=""
    )
    given = {"HOME": "/home/me", "URL": url, **given}
    there = {"PGHOST": "db", "PGPORT": "6000", "PGUSER": "me", "PGDATABASE": "scratch", "PGPASSWORD": "s@x"}
    environment = redirected(given, to, variable="URL", url=url, by_pg=True)
    assert environment == {"HOME": "/home/me", **there, **expected}
    environment = redirected(given, to, variable="URL", url=url, by_pg=False)
    assert environment["URL"] == expected["URL"]
    assert environment["PGHOST"].endswith(".invalid"), "who follows these alone did not come to the database by them"


def python(project: Project, text: str) -> MigrationCommand:
    """A command that follows DATABASE_URL with one connection, and knows of another to the `real` database."""
    (project.folder / "script.py").write_text(
        f"import os, psycopg\nreal = psycopg.connect({project.database.url!r}, autocommit=True)\n"
        f"connection = psycopg.connect(os.environ['DATABASE_URL'], autocommit=True)\n{text}"
    )
    return MigrationCommand(argv=(sys.executable, "script.py"), directory=project.folder)


def test_a_command_that_ran_and_was_not_seen_on_the_scratch_database_stops_the_chain(project: Project) -> None:
    (project.folder / "astray.py").write_text(
        f"import psycopg\npsycopg.connect({project.database.url!r}, autocommit=True)"
        ".execute('delete from _cdc_roles')\nprint('done')"
    )
    value, ended = project.json("run-safe", "--rehearse", "--yes", "--", sys.executable, "astray.py")
    assert ended.code == 3, ended.said
    assert "never connected to the scratch database" in value["message"]
    assert "last said “done”" in value["message"]
    assert "it may have run on another database, also on the real one" in value["message"]


def test_a_command_that_finds_its_database_by_libpqs_defaults_is_led_nowhere(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment names the server alone, and so does not lead to the database."""
    default = {**place(project.database), "PGDATABASE": "postgres"}
    (project.folder / "default.py").write_text("import psycopg; psycopg.connect('').close()")
    follows = MigrationCommand(argv=(sys.executable, "default.py"), directory=project.folder)
    for name, value in default.items():
        monkeypatch.setenv(name, value)
    assert leads_by_pg(reached(project.database)) is False
    assert "different databases" in rehearse(follows, stage(project.database)).unknown
    monkeypatch.setenv("PGDATABASE", project.database.name)
    assert leads_by_pg(reached(project.database)) is True
    assert rehearse(follows, stage(project.database)).unknown == ""
    monkeypatch.delenv("PGHOST")
    monkeypatch.delenv("PGDATABASE")
    assert leads_by_pg(reached(project.database)) is None
    with pytest.raises(BackupError, match=r"never connected .*resolve host"):
        rehearse(follows, stage(project.database))


def test_a_rehearsal_in_which_the_real_catalog_changes_stops_the_chain_loudly(project: Project) -> None:
    both = python(project, "real.execute('create table surprise ()')")
    with pytest.raises(BackupError, match="the catalog of the real database"):
        rehearse(both, stage(project.database))


def test_a_rehearsal_that_changes_what_all_databases_share_stops_the_chain_and_names_it(project: Project) -> None:
    """What it says is put together while it runs: no look at words finds it."""
    database = project.database
    database.execute("create role rehearsed_old; create role rehearsed_member")
    statements = (
        "create role rehearsed_new",
        "drop role rehearsed_old",
        "grant rehearsed_new to rehearsed_member",
        "alter role rehearsed_member createdb",
        f"alter database {database.name} set work_mem = '5MB'",
    )
    try:
        with pytest.raises(BackupError) as raised:
            rehearse(python(project, f"for s in {statements}: connection.execute(s)"), stage(database))
    finally:
        database.execute("drop role if exists rehearsed_old, rehearsed_new, rehearsed_member")
    for said in (
        "membership of rehearsed_member in rehearsed_new is there now",
        "role rehearsed_member was changed",
        "role rehearsed_new is there now",
        "role rehearsed_old is gone",
        f"setting work_mem of database {database.name} is there now",
    ):
        assert said in raised.value.what
    database.execute("alter system set work_mem = '5MB'")
    with database.connect() as connection:
        before = shared_objects(connection)
        connection.execute("alter system reset work_mem")
        assert changed_objects(before, shared_objects(connection)) == ("setting work_mem of the server is gone",)


def test_an_ordinary_role_sees_what_all_databases_share_as_well(project: Project) -> None:
    with (
        fresh_role(project.database.server, "login") as role,
        reached(project.database, user=role).connect() as connection,
    ):
        before = shared_objects(connection)
        project.database.execute(f"alter role {role} set work_mem = '5MB'")
        assert changed_objects(before, shared_objects(connection)) == (f"setting work_mem of role {role} is there now",)


@dataclass(frozen=True)
class Struck:
    """A guard that has been struck already."""

    strikes: tuple[str, ...] = ("DROP TABLE _cdc_roles was cancelled",)
    struck: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.struck.set()


def stage(
    database: FreshDatabase,
    watched: Watched | None = None,
    scratch: str = "server",
    also: tuple[str, ...] = (),
    time_limit: float = 60,
) -> Stage:
    there = reached(database)
    with snapshot(there) as taken:
        tables, counts = taken.tables, taken.counts
    return Stage(
        database=there,
        tables=tables,
        counts=counts,
        clients=clients_for(database),
        scratch=scratch,
        also=also,
        lock_timeout=10,
        variable="DATABASE_URL",
        url=database.url,
        environment={**os.environ, "DATABASE_URL": database.url},
        time_limit=time_limit,
        fingerprints={},
        watched=lambda: nullcontext(watched or StoodAgainst()),
    )


def test_the_first_strike_on_a_real_table_ends_the_command_and_the_chain(project: Project) -> None:
    command = MigrationCommand(argv=("sh", "-c", "sleep 600; echo went on >mark"), directory=project.folder)
    with pytest.raises(BackupError, match="DROP TABLE _cdc_roles was cancelled"):
        rehearse(command, stage(project.database, Struck()))
    assert not project.migrated


def test_another_server_gives_the_same_forecast_and_what_shows_too_little_is_said(project: Project) -> None:
    command = python(project, "connection.execute('truncate users cascade')")
    for scratch in ("server", "embedded"):
        forecast = rehearse(command, stage(project.database, scratch=scratch))
        assert forecast.unknown == ""
        assert [(v.name, v.change) for v in forecast.losses] == [("_cdc_users", "emptied")]
        assert forecast.through == {("public", "_cdc_users"): ("public", "users")}
        assert "nothing but its session on the copy shows that it follows DATABASE_URL" in forecast.limits[0]


# alembic, which takes its database from what env.py says

ENV = """
import os
from alembic import context
from sqlalchemy import create_engine
url = {url}.replace("postgresql://", "postgresql+psycopg://")
with create_engine(url).connect() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
"""

REVISION = """
from alembic import op
revision, down_revision = "{revision}", {down!r}
def upgrade():
    op.execute("{statement}")
"""


def alembic(project: Project, *statements: str, url: str = 'os.environ["DATABASE_URL"]') -> tuple[str, ...]:
    """A migration by alembic, one revision a statement."""
    versions = project.folder / "alembic" / "versions"
    versions.mkdir(parents=True)
    (project.folder / "alembic.ini").write_text("[alembic]\nscript_location = alembic\n")
    (project.folder / "alembic" / "env.py").write_text(ENV.format(url=url))
    down = None
    for number, statement in enumerate(statements):
        text = REVISION.format(revision=number, down=down, statement=statement)
        (versions / f"{number}.py").write_text(text)
        down = str(number)
    return ("alembic", "upgrade", "head")


def test_what_alembic_does_is_foreseen_also_when_some_of_it_was_applied_before(project: Project) -> None:
    argv = alembic(project, "drop table _cdc_empty", "delete from _cdc_roles where id = 1", "truncate users cascade")
    project.database.execute(
        "create table alembic_version (version_num varchar(32) primary key); insert into alembic_version values ('0');"
        "drop table _cdc_empty"
    )
    value, ended = project.json("run-safe", "--yes", "--", *argv)
    assert foreseen(value) == happened(value) == {"_cdc_roles": ("rows lost", 2, 1), "_cdc_users": ("emptied", 3, 0)}
    assert ended.code == 0, ended.said


def test_an_alembic_that_names_its_database_itself_is_not_rehearsed_on_it(project: Project) -> None:
    argv = alembic(project, "drop table _cdc_roles", url=repr(project.database.url))
    before = dump(project.database)
    value, ended = project.json("rehearse", "--", *argv)
    assert ended.code == 3, ended.said
    assert "did not connect to the scratch database" in value["forecast"]["unknown"]
    assert dump(project.database) == before
