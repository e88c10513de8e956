"""A statement that is about to take a CDC table: it goes on, a person is asked, or it is cancelled on the server."""

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
    assert code == 6, said
    assert tables(project) == {"_cdc_empty"}


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
    assert project.cdc("restore", "--yes").code == 0
    assert project.database.rows("select count(*) from _cdc_users") == [(3,)]
