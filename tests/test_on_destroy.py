"""A statement that is about to take a CDC table: it goes on, a person is asked, or it is cancelled on the server."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from backup.postgres.embedded import Server
from tests.chain import CDC_BACKUP, Project, end, new_project, psql

DROP = "drop table _cdc_users, _cdc_roles"


@pytest.fixture
def project(embedded_server: Server, tmp_path: Path) -> Iterator[Project]:
    """A project with three CDC tables on the embedded server."""
    with new_project(embedded_server, tmp_path / "project") as made:
        yield made


def tables(project: Project) -> set[str]:
    """The CDC tables that are there."""
    return {name for (name,) in project.database.rows("select relname from pg_class where relname ~ '^_cdc_[a-z]+$'")}


@pytest.mark.parametrize("on_destroy", ["stop", "ask"])
def test_where_nobody_can_be_asked_what_was_not_announced_is_cancelled(project: Project, on_destroy: str) -> None:
    project.configure(rehearse="off", on_destroy=on_destroy)
    value, ended = project.json("run-safe", "--yes", "--", *psql(project, DROP))
    assert ended.code == 5, ended.said
    assert tables(project) == {"_cdc_users", "_cdc_roles", "_cdc_empty"}
    [strike] = value["guard"]["strikes"]
    assert strike["statement"] == DROP
    assert "not announced" in strike["refused"]
    assert f"'{DROP}' wanted {strike['table']}" in ended.stderr
    assert {table["change"] for table in value["verdict"]} == {"untouched"}


def test_a_command_that_went_on_after_the_guard_cancelled_a_statement_of_it_is_no_success(project: Project) -> None:
    project.configure(rehearse="off", on_destroy="stop")
    value, ended = project.json("run-safe", "--yes", "--", *psql(project, DROP, end="exit 0"))
    assert (ended.code, value["migration"]["exit_code"]) == (5, 0)
    assert "The guard cancelled a statement of it, and it went on" in value["message"]


def test_what_was_announced_goes_on_and_only_that(project: Project) -> None:
    project.configure(rehearse="on", on_destroy="stop")
    value, ended = project.json("run-safe", "--yes", "--", *psql(project, DROP))
    assert ended.code == 0, ended.said
    assert tables(project) == {"_cdc_empty"}
    assert [strike["refused"] for strike in value["guard"]["strikes"]] == [None, None]
    assert f"'{DROP}' wanted public._cdc_users, public._cdc_roles and waited" in ended.stderr
    assert value["guard"]["held_up_ms"] > 0
    assert f"held up a writer for {value['guard']['held_up_ms']} ms at most" in ended.stderr
    elsewhere = "do $$ begin if current_database() not like 'cdc_scratch%' then drop table _cdc_empty; end if; end $$"
    value, ended = project.json("run-safe", "--yes", "--", *psql(project, elsewhere))
    assert ended.code == 5, ended.said
    assert tables(project) == {"_cdc_empty"}


def test_a_statement_that_gave_up_before_the_guard_let_it_go_on_is_told_with_what_to_do(project: Project) -> None:
    project.configure(rehearse="off", on_destroy="ask", mode="auto")
    statements = ("set lock_timeout = '500ms'", "drop table _cdc_users")
    with project.terminal(CDC_BACKUP, "run-safe", "--", *psql(project, *statements)) as shown:
        shown.expect_exact("Let it go on? [y/n]")
        shown.expect_exact("canceling statement due to lock timeout")
        shown.sendline("y")
        code, said = end(shown)
    assert code == 5, said
    told = " ".join(said.split())
    assert "Then it gave up, while the guard held what it wanted." in told
    assert "backup.guard: off" in told
    assert "cancelled" not in told
    assert tables(project) == {"_cdc_users", "_cdc_roles", "_cdc_empty"}


def test_a_yes_lets_one_table_go_and_a_no_cancels_all_of_the_statement(project: Project) -> None:
    project.configure(rehearse="off", on_destroy="ask", mode="auto")
    with project.terminal(CDC_BACKUP, "run-safe", "--", *psql(project, DROP)) as shown:
        shown.expect_exact("is about to take public._cdc_users, and waits:")
        shown.expect_exact(DROP)
        shown.expect_exact("Let it go on? [y/n]")
        shown.sendline("y")
        shown.expect_exact("is about to take public._cdc_roles, and waits:")
        shown.sendline("n")
        code, said = end(shown)
    assert code == 5, said
    assert "It was cancelled: a person said no." in said
    assert tables(project) == {"_cdc_users", "_cdc_roles", "_cdc_empty"}


def test_who_says_yes_gets_what_he_asked_for(project: Project) -> None:
    project.configure(rehearse="off", on_destroy="ask", mode="auto")
    with project.terminal(CDC_BACKUP, "run-safe", "--", *psql(project, DROP)) as shown:
        for _ in range(2):
            shown.expect_exact("Let it go on? [y/n]")
            shown.sendline("y")
        code, said = end(shown)
    assert code == 0, said
    assert "Gone as announced: public._cdc_roles (dropped), public._cdc_users (dropped)." in said
    assert tables(project) == {"_cdc_empty"}


def test_a_statement_that_takes_many_tables_is_asked_about_three_times_and_another_anew(project: Project) -> None:
    names = [f"_cdc_{number}" for number in range(6)]
    project.database.execute("".join(f"create table {name} (id int);" for name in names))
    project.configure(rehearse="off", on_destroy="ask", mode="auto")
    many = f"drop table {', '.join(names)}"
    with project.terminal(CDC_BACKUP, "run-safe", "--", *psql(project, many, "drop table _cdc_empty")) as shown:
        for question in (
            "Let it go on? [y/n]",
            "Let it go on? [y/n]",
            "Let it have this one, and all others that it takes? [y/n]",
        ):
            shown.expect_exact(question)
            shown.sendline("y")
        shown.expect_exact("is about to take public._cdc_empty, and waits:")
        shown.expect_exact("Let it go on? [y/n]")
        shown.sendline("n")
        code, said = end(shown)
    assert code == 5, said
    assert tables(project) == {"_cdc_users", "_cdc_roles", "_cdc_empty"}


def test_what_a_person_agreed_to_before_he_is_asked_again_when_it_happens(project: Project) -> None:
    project.configure(rehearse="on", on_destroy="ask")
    with project.terminal(CDC_BACKUP, "run-safe", "--", *psql(project, "drop table _cdc_roles")) as shown:
        shown.expect_exact("will drop `_cdc_roles` (2 rows)")
        shown.expect(r"Go on\?")
        shown.send("y\r")
        shown.expect_exact("Let it go on? [y/n]")
        shown.sendline("n")
        code, said = end(shown)
    assert code == 5, said
    assert tables(project) == {"_cdc_users", "_cdc_roles", "_cdc_empty"}


def test_what_was_typed_before_the_question_is_no_answer_to_it(project: Project) -> None:
    project.configure(rehearse="off", on_destroy="ask", mode="auto")
    slow = psql(project, "select pg_advisory_lock(7)", "drop table _cdc_roles")
    with project.database.connect() as holder:
        holder.execute("select pg_advisory_lock(7)")
        with project.terminal(CDC_BACKUP, "run-safe", "--", *slow) as shown:
            shown.expect_exact("Running: ")
            waiting = "select from pg_locks where locktype = 'advisory' and objid = 7 and not granted"
            while not holder.execute(waiting).fetchall():
                pass
            shown.sendline("y")
            holder.execute("select pg_advisory_unlock(7)")
            shown.expect_exact("Let it go on? [y/n]")
            shown.sendline("n")
            code, said = end(shown)
    assert code == 5, said
    assert "_cdc_roles" in tables(project)


def test_a_drop_is_not_what_was_announced_where_rows_alone_were_to_go(project: Project) -> None:
    project.configure(rehearse="on", on_destroy="stop")
    project.database.execute(
        "create function here() returns bool language sql as $$ select current_database() !~ 'cdc_s' $$"
    )
    statements = (
        "delete from _cdc_users where id = 1",
        "do $$ begin if here() then drop table _cdc_users; end if; end $$",
        "do $$ begin if not here() then truncate _cdc_roles; end if; end $$",
        "do $$ begin if here() then execute 'drop table _cdc_roles'; end if; end $$",
    )
    for statement in statements[1], statements[3]:
        value, ended = project.json("run-safe", "--yes", "--", *psql(project, statements[0], statements[2], statement))
        assert ended.code != 0, ended.said
        assert value["guard"]["strikes"][0]["refused"]
        assert tables(project) == {"_cdc_users", "_cdc_roles", "_cdc_empty"}


def test_ctrl_c_at_the_question_is_a_no(project: Project) -> None:
    project.configure(rehearse="off", on_destroy="ask", mode="auto")
    with project.terminal(CDC_BACKUP, "run-safe", "--", *psql(project, DROP)) as shown:
        shown.expect(r"\[y/n\]")
        shown.sendintr()
        code, said = end(shown)
    assert code != 0, said
    assert tables(project) == {"_cdc_users", "_cdc_roles", "_cdc_empty"}


def test_rows_that_no_restore_can_bring_in_are_kept_for_a_person_and_that_is_no_success(project: Project) -> None:
    project.configure(rehearse="on", drill=True)
    statements = (
        "alter table _cdc_users add column extra integer",
        "insert into _cdc_users values (4, 'joe', null, 777)",
        "drop table _cdc_users",
    )
    value, ended = project.json("run-safe", "--yes", "--", *psql(project, *statements))
    assert ended.code == 6, ended.said
    [gap] = value["guard"]["gaps"]
    assert gap["table"] == "public._cdc_users"
    assert "its columns were changed meanwhile" in gap["reason"]
    session = Path(value["session"])
    [kept] = session.with_name(f"{session.name}.delta").glob("*.aside.sql")
    assert kept.name in gap["reason"]
    assert "Rows that were written to public._cdc_users after the backup may be missing then" in value["message"]
    assert "4\tjoe\t\\N\t777\n" in kept.read_text()
    back = project.cdc("restore", "--yes")
    assert back.code == 0
    assert f"not brought back: the rows in {kept}" in back.said
    assert project.database.rows("select count(*) from _cdc_users") == [(3,)]
    project.configure(drill=True, keep_last=1, retention_days=1)
    assert project.cdc("backup").code == 0
    manifest = session / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"created": "2020-01-01T00:00:00"}))
    listed = project.json("list")[0]["sessions"][-1]
    assert kept.name in listed["kept_because"]
    assert "others in 1 file aside" in project.cdc("list").stdout
    kept.unlink()
    assert project.json("list")[0]["sessions"][-1]["kept_because"] is None
