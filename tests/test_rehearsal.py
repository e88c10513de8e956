"""The rehearsal: what it foresees is what then happens, and it never touches the real database."""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from backup.errors import BackupError
from backup.migration.command import MigrationCommand
from backup.migration.redirect import Tool, redirected, tool_of, why_not
from backup.migration.rehearsal import Stage, Unwatched, Watched, rehearse
from backup.postgres.database import Database
from backup.postgres.embedded import Server
from tests.chain import CDC_BACKUP, TABLES, Project, end, new_project
from tests.servers import FreshDatabase
from tests.sessions import clients_for, dump, reached, snapshot

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


def psql_environment(project: Project, **more: str) -> dict[str, str]:
    """What leads psql to the project's database without an argument."""
    with project.database.connect() as connection:
        info = connection.info
        place = {"PGHOST": info.host, "PGPORT": str(info.port), "PGUSER": info.user, "PGDATABASE": info.dbname}
        return project.environment(**place, PGPASSWORD=info.password, **more)


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


def test_a_delete_that_cascades_and_a_lost_column_are_foreseen(project: Project) -> None:
    strike = psql_file(project, "delete from users where id = 1", "alter table _cdc_roles drop name")
    value, ended = project.json("rehearse", "--", *strike, environment=psql_environment(project))
    assert ended.code == 0, ended.said
    assert value["status"] == "rehearsed"
    assert foreseen(value)["_cdc_users"] == ("emptied", 3, 0)
    assert foreseen(value)["_cdc_roles"][0] == "columns lost"
    assert project.database.rows("select count(*) from _cdc_users, users") == [(6,)]
    assert project.sessions == []


def test_what_fails_in_the_rehearsal_is_not_tried_on_the_real_database_unless_told(project: Project) -> None:
    fails = psql_file(project, "drop table _cdc_roles", "drop table nowhere")
    before = dump(project.database)
    value, ended = project.json("run-safe", "--yes", "--", *fails, environment=psql_environment(project))
    assert ended.code == 5, ended.said
    assert foreseen(value)["_cdc_roles"] == ("dropped", 2, None)
    assert 'table "nowhere" does not exist' in ended.stderr
    assert "--no-rehearse" in value["message"]
    assert project.sessions == []
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
        shown.expect(r"go on\?")
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


# what cannot be known


def test_a_table_that_a_delete_could_reach_from_rows_that_were_not_copied_counts_as_at_risk(project: Project) -> None:
    project.database.execute(
        "insert into users select n, repeat('x', 1000) from generate_series(3, 40000) n;"
        "update _cdc_users set user_id = 39999"
    )
    delete = psql_file(project, "delete from users where id = 39999")
    value, ended = project.json("rehearse", "--", *delete, environment=psql_environment(project))
    assert ended.code == 0, ended.said
    assert {name: change for name, (change, _, _) in foreseen(value).items()} == {
        "_cdc_empty": "untouched",
        "_cdc_roles": "untouched",
        "_cdc_users": "unknown",
    }
    assert "At risk: _cdc_users, because a DELETE in users would reach it" in ended.stderr
    project.configure(rehearse="auto", rehearse_data=["users"])
    value, ended = project.json("rehearse", "--", *delete, environment=psql_environment(project))
    assert foreseen(value)["_cdc_users"] == ("emptied", 3, 0), "its rows were asked for, and were there"


def test_a_command_that_takes_too_long_is_ended_with_all_it_started_and_no_forecast(project: Project) -> None:
    project.configure(rehearse="auto", time_limit=1)
    slow = psql_file(project, "drop table _cdc_roles", "select pg_sleep(600)")
    value, ended = project.json("rehearse", "--", *slow, environment=psql_environment(project))
    assert ended.code == 3, ended.said
    assert "time limit" in value["forecast"]["unknown"]
    assert scratch_databases(project) == []


def test_a_database_that_reaches_others_through_foreign_servers_is_not_rehearsed(project: Project) -> None:
    project.database.execute(
        "create foreign data wrapper nothing; create server elsewhere foreign data wrapper nothing"
    )
    argv = psql_file(project, "select 1")
    value, ended = project.json("run-safe", "--", *argv, environment=psql_environment(project))
    assert "elsewhere" in value["forecast"]["unknown"]
    assert ended.code == 0, "with auto the chain goes on"
    value, ended = project.json("run-safe", "--rehearse", "--", *argv, environment=psql_environment(project))
    assert ended.code == 3, "with on it halts"


# never the wrong database


@pytest.mark.parametrize(
    "words",
    [
        ("psql", "-d", "shop", "-c", "select 1"),
        ("psql", "-hlocalhost", "-c", "select 1"),
        ("psql", "--port=5432", "-c", "select 1"),
        ("psql", "-U", "me", "-c", "select 1"),
        ("psql", "-c", "select 1", "shop"),
        ("psql", "postgresql://localhost/shop", "-c", "select 1"),
        ("psql", "-c", "\\c shop"),
        ("psql", "-c", "\\connect shop"),
        ("psql",),
        ("sh", "-c", "psql postgres://u@h/d"),
        ("sh", "-c", "psql 'host=h dbname=d'"),
        ("env", "PGHOST=elsewhere", "psql", "-c", "select 1"),
        ("npx", "drizzle-kit", "push", "--url=postgres://u@h/d"),
        ("alembic", "-x", "url=postgresql+psycopg://u@h/d", "upgrade", "head"),
        ("alembic", "revision"),
        ("npx", "prisma", "migrate", "reset"),
    ],
    ids=" ".join,
)
def test_a_command_that_may_name_a_database_itself_is_refused(words: tuple[str, ...], tmp_path: Path) -> None:
    assert why_not(MigrationCommand(argv=words, directory=tmp_path), variable="DATABASE_URL", environment={})


@pytest.mark.parametrize(
    "words",
    [
        ("psql", "-X", "-v", "ON_ERROR_STOP=1", "-c", "update t set port = 5, host = 'x'"),
        ("psql", "-1", "--command=drop table t", "--set", "a=b"),
        ("sh", "-c", 'psql --dbname="$DATABASE_URL" -c "select 1"'),
        ("alembic", "-c", "alembic.ini", "upgrade", "head"),
        ("npx", "prisma", "migrate", "deploy"),
    ],
    ids=" ".join,
)
def test_a_command_that_leaves_it_to_the_variables_is_not_refused(words: tuple[str, ...], tmp_path: Path) -> None:
    assert not why_not(MigrationCommand(argv=words, directory=tmp_path), variable="DATABASE_URL", environment={})


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
    place = {"host": "db", "port": "6000", "user": "me", "password": "s@x", "dbname": "scratch"}
    environment = redirected(
        {"HOME": "/home/me", "URL": url, **given}, Database(parameters=place, source=""), variable="URL", url=url
    )
    there = {"PGHOST": "db", "PGPORT": "6000", "PGUSER": "me", "PGDATABASE": "scratch", "PGPASSWORD": "s@x"}
    assert environment == {"HOME": "/home/me", **there, **expected}


def script(project: Project, text: str) -> tuple[str, ...]:
    """A command that finds its database in its own file, whatever the environment says."""
    (project.folder / "script.py").write_text(
        f"import os, psycopg\nreal = psycopg.connect({project.database.url!r}, autocommit=True)\n{text}"
    )
    return (sys.executable, "script.py")


def test_a_command_that_never_connects_to_the_scratch_database_gives_no_forecast(project: Project) -> None:
    value, ended = project.json("rehearse", "--", *script(project, "real.execute('select 1')"))
    assert ended.code == 3, ended.said
    assert "never connected to the scratch database" in value["forecast"]["unknown"]
    assert {change for change, _, _ in foreseen(value).values()} == {"unknown"}


def test_a_rehearsal_in_which_the_real_catalog_changes_stops_the_chain_loudly(project: Project) -> None:
    both = script(
        project, "psycopg.connect(os.environ['DATABASE_URL']).close()\nreal.execute('create table surprise ()')"
    )
    value, ended = project.json("run-safe", "--rehearse", "--", *both)
    assert ended.code == 3, ended.said
    assert "the catalog of the real database" in value["message"]
    assert project.sessions == []


@dataclass(frozen=True)
class Struck:
    """A guard that has been struck already."""

    strikes: tuple[str, ...] = ("DROP TABLE _cdc_roles was cancelled",)
    struck: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.struck.set()


def stage(database: FreshDatabase, watched: Watched | None = None, scratch: str = "server") -> Stage:
    there = reached(database)
    with snapshot(there) as taken:
        tables, counts = taken.tables, taken.counts
    return Stage(
        database=there,
        tables=tables,
        counts=counts,
        clients=clients_for(database),
        scratch=scratch,
        also=(),
        lock_timeout=10,
        variable="DATABASE_URL",
        url=database.url,
        environment={**os.environ, "DATABASE_URL": database.url},
        time_limit=60,
        watched=lambda: nullcontext(watched or Unwatched()),
    )


def test_the_first_strike_on_a_real_table_ends_the_command_and_the_chain(project: Project) -> None:
    command = MigrationCommand(argv=("sh", "-c", "sleep 600; echo went on >mark"), directory=project.folder)
    with pytest.raises(BackupError, match="DROP TABLE _cdc_roles was cancelled"):
        rehearse(command, stage(project.database, Struck()))
    assert not project.migrated


def test_another_server_gives_the_same_forecast(project: Project) -> None:
    drop = (
        sys.executable,
        "-c",
        "import os, psycopg; psycopg.connect(os.environ['DATABASE_URL'], autocommit=True)"
        ".execute('truncate users cascade')",
    )
    command = MigrationCommand(argv=drop, directory=project.folder)
    for scratch in ("server", "embedded"):
        forecast = rehearse(command, stage(project.database, scratch=scratch))
        assert forecast.unknown == ""
        assert [(v.name, v.change) for v in forecast.losses] == [("_cdc_users", "emptied")]
        assert forecast.through == {("public", "_cdc_users"): ("public", "users")}


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
    assert project.run(*argv[:2], "0").code == 0
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
