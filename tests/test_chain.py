"""The chain: what fails before the command keeps it from being started, and the command is left as it is."""

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest
from psycopg import sql

from backup.migration.guard import ALONE
from backup.postgres.embedded import Server
from tests.attending import Leash
from tests.chain import (
    CDC_BACKUP,
    INVOKE,
    MARK,
    PATIENCE,
    TABLES,
    TASKS,
    TELL,
    Ended,
    Project,
    end,
    environment,
    new_project,
    pretend_clients,
    psql,
)
from tests.lacking import lacking
from tests.servers import fresh_database
from tests.sessions import fresh_role, rows

QUESTION = r"Back them up and go on\?"
NOT_STARTED = "The migration was not started."

AWKWARD = ("two words", "it's", 'say "x"', "*", "$HOME", "", "--", "-- --", "ü ❯", "a\\b", "--json", "--yes")


@pytest.fixture
def project(embedded_server: Server, tmp_path: Path) -> Iterator[Project]:
    """A project with three CDC tables on the embedded server."""
    with new_project(embedded_server, tmp_path / "project") as made:
        yield made


def never_started(project: Project, ended: Ended, *, code: int = 3) -> None:
    """It failed in the way that it should, nothing half done is left, and the command was not started."""
    assert ended.code == code, ended.said
    assert NOT_STARTED in ended.said
    assert not project.migrated
    assert [path for path in project.sessions if path.name.startswith(".")] == []


# a backup that fails


def test_a_table_that_may_not_be_read_stops_the_chain(embedded_server: Server, tmp_path: Path) -> None:
    with fresh_role(embedded_server) as role, new_project(embedded_server, tmp_path / "project") as project:
        project.database.execute(f"grant select on _cdc_users, _cdc_empty to {role}")
        url = project.database.url.replace("//postgres:", f"//{role}:")
        ended = project.cdc("run-safe", "--", *MARK, environment=environment(project.folder, DATABASE_URL=url))
        never_started(project, ended)
        assert "public._cdc_roles" in ended.said
        assert "SELECT" in ended.said
        assert project.sessions == []


def test_a_table_that_stays_locked_stops_the_chain_and_names_who_holds_it(project: Project) -> None:
    project.configure(lock_timeout="50ms")
    with project.database.connect(application_name="nightly job") as other, other.transaction():
        other.execute("lock table _cdc_users in access exclusive mode")
        ended = project.cdc("run-safe", "--", *MARK)
    never_started(project, ended)
    assert "public._cdc_users by process" in ended.said
    assert "nightly job" in ended.said
    assert project.sessions == []


def test_clients_that_are_older_than_the_server_stop_the_chain(project: Project) -> None:
    # For any other spelling of this host the embedded clients, of the server's own version, are not taken.
    url = project.database.url.replace("@127.0.0.1:", "@127.1:")
    ended = project.cdc("run-safe", "--", *MARK, environment=environment(project.folder, DATABASE_URL=url))
    if ended.code == 0:
        lacking("a server that is newer than every installed pg_dump")
    never_started(project, ended)
    assert "no pg_dump, pg_restore and psql that can serve it were found" in ended.said
    assert project.sessions == []


def test_a_pg_dump_that_fails_stops_the_chain_with_what_it_said(project: Project, tmp_path: Path) -> None:
    path = pretend_clients(tmp_path / "clients", pg_dump="echo pg_dump: no such luck >&2; exit 1")
    ended = project.cdc("run-safe", "--", *MARK, environment=project.environment(PATH=path))
    never_started(project, ended)
    assert "pg_dump: no such luck" in ended.said
    assert "no session was published" in ended.said
    assert project.sessions == []


def test_a_pg_dump_that_writes_nothing_and_is_content_stops_the_chain(project: Project, tmp_path: Path) -> None:
    path = pretend_clients(tmp_path / "clients", pg_dump='real --exclude-table-data="*" "$@"')
    ended = project.cdc("run-safe", "--", *MARK, environment=project.environment(PATH=path))
    never_started(project, ended)
    assert "_cdc_users" in ended.said or "_cdc_roles" in ended.said
    assert project.sessions == []


def test_a_server_that_is_not_there_stops_the_chain(project: Project) -> None:
    url = "postgresql://postgres@127.0.0.1:1/shop"
    ended = project.cdc("run-safe", "--", *MARK, environment=environment(project.folder, DATABASE_URL=url))
    never_started(project, ended)
    assert "shop on 127.0.0.1:1 as postgres" in ended.said
    assert project.sessions == []


def test_a_connection_that_is_lost_during_the_backup_stops_the_chain(project: Project, tmp_path: Path) -> None:
    cut = "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'cdc-backup'"
    psql = shlex.quote(str(project.database.server.binaries / "psql"))
    path = pretend_clients(
        tmp_path / "clients",
        pg_dump=f'real "$@" || exit; PGAPPNAME=cutter {psql} -qAtc "{cut}" >&2',
    )
    ended = project.cdc("run-safe", "--", *MARK, environment=project.environment(PATH=path))
    never_started(project, ended)
    assert project.database.name in ended.said
    assert project.sessions == []


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[Path]:
    """A file system of its own that is soon full."""
    folder.mkdir()
    mount = ("mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder))
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        lacking("a full disk (only root may mount a small tmpfs)")
    try:
        yield folder
    finally:
        subprocess.run(("umount", str(folder)), check=True)


def test_a_full_disk_stops_the_chain(project: Project, tmp_path: Path) -> None:
    project.database.execute("insert into _cdc_roles select n, repeat('x', 1000) from generate_series(3, 400) n")
    with small_disk(tmp_path / "disk", 256) as disk:
        project.configure(path=str(disk / "backups"))
        ended = project.cdc("run-safe", "--", *MARK)
        never_started(project, ended)
        assert "No space left on device" in ended.said
        assert list((disk / "backups").iterdir()) == []


def test_a_folder_that_cannot_be_made_stops_the_chain(project: Project) -> None:
    (project.folder / "local").write_text("a file where a folder should be")
    ended = project.cdc("run-safe", "--", *MARK)
    never_started(project, ended)
    assert "Not a directory" in ended.said


def test_without_a_scratch_database_there_is_no_proof_and_no_migration(project: Project) -> None:
    project.configure(drill=True, scratch="postgresql://postgres:secret@127.0.0.1:1/scratch")
    ended = project.cdc("run-safe", "--", *MARK)
    never_started(project, ended)
    assert "127.0.0.1:1" in ended.said
    assert "secret" not in ended.said


def test_a_session_that_does_not_come_back_is_no_proof_and_no_migration(project: Project, tmp_path: Path) -> None:
    project.configure(drill=True)
    path = pretend_clients(tmp_path / "clients", psql="exit 0")
    ended = project.cdc("run-safe", "--", *MARK, environment=project.environment(PATH=path))
    never_started(project, ended)
    assert "is no proof against loss" in ended.said
    kept = project.published
    assert len(kept) == 1, "a session that could not be proven is kept"
    assert str(kept[0]) in ended.said
    assert json.loads(kept[0].with_name(f"{kept[0].name}.drill.json").read_text())["problem"]


def test_a_named_table_is_never_mistaken_for_all(project: Project) -> None:
    ended = project.cdc("backup", "--table", "_cdc_userz")
    assert ended.code == 2
    assert "_cdc_userz" in ended.said
    assert project.sessions == []


# a backup that is declined or interrupted


@pytest.mark.parametrize(
    ("keys", "code"),
    [("n\r", 4), ("maybe\rN\r", 4), ("\x04", 4), ("\x03", 130)],
    ids=["n", "asked again", "Ctrl-D", "Ctrl-C"],
)
def test_who_does_not_want_the_backup_gets_no_migration_either(project: Project, keys: str, code: int) -> None:
    with project.terminal(CDC_BACKUP, "run-safe", "--", *MARK) as shown:
        shown.expect(QUESTION)
        for key in keys.splitlines(keepends=True):
            shown.send(key)
            if key == "maybe\r":
                shown.expect("Please enter Y or N")
        ended, said = end(shown)
    assert ended == code, said
    assert "no migration was started" in said if code == 130 else "nothing was started" in said
    assert not project.migrated
    assert project.sessions == []


def waiting_clients(folder: Path, program: Literal["pg_dump", "psql"]) -> tuple[str, Leash]:
    """Clients one of which takes for ever; the value for PATH, and what tells that it has begun, and ended."""
    leash, nobody = Leash(folder), folder / "nobody"
    os.mkfifo(nobody)
    script = f"exec 3>{shlex.quote(str(folder / 'leash'))}; printf ! >&3; read nothing <{shlex.quote(str(nobody))}"
    scripts = {"pg_dump": 'real "$@"', "psql": 'real "$@"', program: script}
    return pretend_clients(folder / "clients", **scripts), leash


def test_ctrl_c_during_the_backup_leaves_nothing_and_starts_nothing(project: Project, tmp_path: Path) -> None:
    path, leash = waiting_clients(tmp_path, "pg_dump")
    with project.terminal(
        CDC_BACKUP, "run-safe", "--yes", "--", *MARK, environment=project.environment(PATH=path)
    ) as shown:
        assert leash.read() == b"!"
        shown.sendintr()
        assert leash.read() == b"", "pg_dump still lives"
        code, said = end(shown)
    assert code == 130, said
    assert "no migration was started" in said
    assert not project.migrated
    assert project.sessions == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_during_the_backup_leaves_nothing_and_starts_nothing(
    project: Project, tmp_path: Path, number: signal.Signals
) -> None:
    path, leash = waiting_clients(tmp_path, "pg_dump")
    given = project.environment(PATH=path)
    with project.started(CDC_BACKUP, "run-safe", "--json", "--", *MARK, environment=given) as process:
        assert leash.read() == b"!"
        process.send_signal(number)
        assert leash.read() == b"", "pg_dump still lives"
        stdout, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, stderr
    assert json.loads(stdout)["status"] == "interrupted"
    assert "no migration was started" in stderr
    assert not project.migrated
    assert project.sessions == []


def test_an_interrupted_drill_says_that_the_session_is_whole_and_starts_nothing(
    project: Project, tmp_path: Path
) -> None:
    path, leash = waiting_clients(tmp_path, "psql")
    project.configure(drill=True)
    with project.terminal(
        CDC_BACKUP, "run-safe", "--yes", "--", *MARK, environment=project.environment(PATH=path)
    ) as shown:
        assert leash.read() == b"!"
        shown.sendintr()
        assert leash.read() == b"", "psql still lives"
        code, said = end(shown)
    assert code == 130, said
    assert "is complete; no migration was started" in " ".join(said.split())
    assert not project.migrated
    assert len(project.published) == 1
    left = project.database.rows("select datname from pg_database where datname like 'cdc_scratch%'")
    assert left == []


# what it asks


def test_the_question_says_how_much_is_at_risk_and_where_it_will_go_and_enter_means_yes(project: Project) -> None:
    with project.terminal(CDC_BACKUP, "pre") as shown:
        shown.expect(QUESTION)
        said = str(shown.before)
        shown.send("\r")
        code, after = end(shown)
    assert "3 CDC tables\r\nwith 5 rows" in said
    assert f"The backup will go to {project.backups}\r\n" in said
    assert code == 0
    assert "Backed up 5 rows of 2 tables" in after
    assert len(project.published) == 1


@pytest.mark.parametrize("way", ["--yes", "mode: auto"])
def test_who_does_not_want_to_be_asked_is_backed_up_unasked(project: Project, way: str) -> None:
    project.configure(mode="auto" if way == "mode: auto" else "prompt")
    yes = ["--yes"] if way == "--yes" else []
    with project.terminal(CDC_BACKUP, "run-safe", *yes, "--", *MARK) as shown:
        code, said = end(shown)
    assert code == 0, said
    assert "go on?" not in said
    assert project.migrated
    assert len(project.published) == 1


def test_without_a_terminal_nobody_is_asked_and_the_tables_are_backed_up(project: Project) -> None:
    ended = project.cdc("run-safe", "--", *MARK, stdin="n\n")
    assert ended.code == 0
    assert "go on?" not in ended.said
    assert project.migrated
    assert len(project.published) == 1


# neither with --dry


@pytest.mark.parametrize(
    "argv",
    [
        (CDC_BACKUP, "--dry", "run-safe", "--", *MARK),
        (CDC_BACKUP, "run-safe", "--dry", "--", *MARK),
        (CDC_BACKUP, "-R", "push-safe"),
        (INVOKE, "--dry", "migration.run-safe", "--", *MARK),
    ],
    ids=["before", "behind", "push-safe", "invoke"],
)
def test_dry_starts_neither_backup_nor_command_and_says_what_it_would_do(
    project: Project, argv: tuple[str, ...]
) -> None:
    (project.folder / "tasks.py").write_text(TASKS)
    project.configure(push=list(MARK))
    ended = project.run(*argv)
    assert ended.code == 0, ended.said
    assert f"Would back up into {project.backups}" in ended.said
    assert f"Would run: {shlex.join(MARK)}" in ended.said
    assert not project.migrated
    assert not project.backups.exists()


# the command


both_commands = pytest.mark.parametrize("drizzle", [False, True], ids=["any command", "drizzle-kit"])
"""drizzle-kit is listened to, because its exit code says nothing."""


def a_drizzle_kit(project: Project) -> tuple[str]:
    """A program of that name, which writes down what it was given."""
    program = project.folder / "drizzle-kit"
    program.write_text(f"#!/bin/sh\nexec {shlex.join(TELL)}\n")
    program.chmod(0o755)
    return (str(program),)


@pytest.mark.parametrize("program", ["cdc-backup", "invoke"])
def test_the_command_gets_its_arguments_word_by_word(project: Project, program: str) -> None:
    (project.folder / "tasks.py").write_text(TASKS)
    recipe = (CDC_BACKUP, "run-safe") if program == "cdc-backup" else (INVOKE, "migration.run-safe")
    ended = project.run(*recipe, "--", *TELL, *AWKWARD)
    assert ended.code == 0, ended.said
    assert project.told["argv"] == list(AWKWARD)


@pytest.mark.parametrize("recipe", ["push-safe", "full-safe"])
def test_what_follows_the_dashes_goes_to_drizzle_kit_word_by_word(project: Project, recipe: str) -> None:
    tell = [*TELL, "set by us"]
    project.configure(push=tell, generate=tell, migrate=list(MARK))
    ended = project.cdc(recipe, "--", *AWKWARD)
    assert ended.code == 0, ended.said
    assert project.told["argv"] == ["set by us", *AWKWARD]
    assert project.migrated == (recipe == "full-safe")


def test_the_commands_environment_and_folder_are_those_of_a_plain_run(project: Project) -> None:
    (project.folder / ".env").write_text("PGHOST=elsewhere\nFROM_DOTENV=1\n")
    given = project.environment(EMPTY="", PERCENT="%41 $HOME", PGOPTIONS="-c geqo=off", LINES="7")
    assert project.run(*TELL, environment=given).code == 0
    plain = project.told
    assert project.cdc("run-safe", "--", *TELL, environment=given).code == 0
    assert project.told == plain
    assert plain["environment"].keys() == given.keys()


def test_the_command_of_push_safe_runs_in_the_projects_folder_and_that_of_run_safe_where_one_is(
    project: Project,
) -> None:
    below = project.folder / "src" / "deep"
    below.mkdir(parents=True)
    project.configure(push=list(TELL))
    assert project.cdc("push-safe", cwd=below).code == 0
    assert project.told["cwd"] == str(project.folder.resolve())
    assert project.cdc("run-safe", "--", *TELL, cwd=below).code == 0
    assert json.loads((below / "told.json").read_text())["cwd"] == str(below.resolve())


@both_commands
def test_without_a_terminal_the_command_reads_what_is_piped_into_it_unless_it_would_ask(
    project: Project, drizzle: bool
) -> None:
    tell = a_drizzle_kit(project) if drizzle else TELL
    ended = project.cdc("run-safe", "--", *tell, stdin="insert into users values (1);")
    assert ended.code == 0, ended.said
    assert project.told["stdin"] == ("" if drizzle else "insert into users values (1);")
    assert project.told["terminals"] == [False, False, False]


@both_commands
def test_on_a_terminal_the_command_has_the_terminal(project: Project, drizzle: bool) -> None:
    tell = a_drizzle_kit(project) if drizzle else TELL
    with project.terminal(CDC_BACKUP, "run-safe", "--yes", "--", *tell) as shown:
        end(shown)
    assert project.told["terminals"] == [True, True, True]


def test_what_asks_on_its_own_terminal_finds_none_where_we_have_none(project: Project) -> None:
    """pexpect's terminal is the controlling one; a shell between takes it from our stdin alone."""
    asks = (sys.executable, "-c", "open('/dev/tty')")
    argv = shlex.join((CDC_BACKUP, "run-safe", "--", *asks))
    with project.terminal("sh", "-c", f"{argv} </dev/null") as shown:
        code, said = end(shown)
    assert code == 5
    assert "No such device or address: '/dev/tty'" in said


@pytest.mark.parametrize(("script", "code"), [("exit 7", 7), ("kill -9 $$", 137), ("kill -TERM $$", 143)])
def test_the_commands_own_exit_code_is_told_and_ours_is_5(project: Project, script: str, code: int) -> None:
    value, ended = project.json("run-safe", "--", "sh", "-c", script)
    assert ended.code == 5
    assert f"ended with exit code {code}." in ended.stderr
    assert f"ended with exit code {code}." in value["message"]
    assert value["migration"] == {"argv": ["sh", "-c", script], "exit_code": code, "reached": False}
    assert [verdict["change"] for verdict in value["verdict"]] == ["untouched"] * 3


def test_the_first_command_that_fails_ends_the_row(project: Project) -> None:
    project.configure(generate=["sh", "-c", "exit 4"], migrate=list(MARK))
    ended = project.cdc("full-safe")
    assert ended.code == 5
    assert "exit code 4" in ended.said
    assert not project.migrated


def test_a_command_that_is_not_there_is_refused_before_anything_is_done(project: Project) -> None:
    ended = project.cdc("run-safe", "--", "no-such-program")
    assert ended.code == 2
    assert "no-such-program" in ended.said
    assert "Nothing was started" in ended.said
    assert not project.backups.exists()


def test_a_command_that_cannot_be_started_after_all_is_a_failed_migration_with_a_verdict(project: Project) -> None:
    broken = project.folder / "migrate"
    broken.write_text("#!/no/such/interpreter\n")
    broken.chmod(0o755)
    value, ended = project.json("run-safe", "--", "./migrate")
    assert ended.code == 5
    assert "./migrate" in value["message"]
    assert {verdict["change"] for verdict in value["verdict"]} == {"untouched"}
    assert "migration" not in value, "nothing ran"


# Not signal.pause(): a signal that comes right before it is waited for forever.
WAITS = "import signal, sys, time; {}; print('re' + 'ady', flush=True)\nwhile True: time.sleep(0.05)"


@pytest.mark.parametrize(
    ("answers", "code", "told"),
    [
        ("signal.signal(signal.SIGINT, lambda *_: sys.exit(9))", 5, "ended with exit code 9."),
        ("signal.signal(signal.SIGINT, signal.SIG_DFL)", 5, "ended with exit code 130."),
        ("signal.signal(signal.SIGINT, lambda *_: sys.exit(0))", 0, "The migration is done"),
    ],
    ids=["its own exit code", "dies of it", "goes on and is done"],
)
def test_ctrl_c_is_the_commands_to_answer_and_the_verdict_follows(
    project: Project, answers: str, code: int, told: str
) -> None:
    command = (sys.executable, "-c", WAITS.format(answers))
    with project.terminal(CDC_BACKUP, "run-safe", "--yes", "--", *command) as shown:
        shown.expect("ready")
        shown.sendintr()
        ended, said = end(shown)
    assert ended == code, said
    assert told in " ".join(said.split())
    assert "What the migration did to the CDC tables" in said


def test_a_signal_to_us_reaches_the_command_and_the_verdict_follows(project: Project) -> None:
    command = (sys.executable, "-c", WAITS.format("signal.signal(signal.SIGTERM, lambda *_: sys.exit(9))"))
    with project.started(CDC_BACKUP, "run-safe", "--", *command) as process:
        assert process.stdout
        for line in process.stdout:
            if line == "ready\n":
                process.send_signal(signal.SIGTERM)
                break
        said = process.stdout.read()
    assert process.returncode == 5
    assert "ended with exit code 9." in said
    assert "What the migration did to the CDC tables" in said


def test_a_command_without_a_terminal_ends_at_its_time_limit(project: Project) -> None:
    project.configure(time_limit="200ms")
    value, ended = project.json("run-safe", "--", sys.executable, "-c", "import signal; signal.pause()")
    assert ended.code == 5
    assert "was ended after 0.2 s (backup.time_limit)" in value["message"]
    assert value["migration"]["exit_code"] == 143
    assert {verdict["change"] for verdict in value["verdict"]} == {"untouched"}


def test_a_command_that_points_the_project_elsewhere_is_still_judged_by_the_database_that_was_backed_up(
    project: Project,
) -> None:
    dotenv = project.folder / ".env"
    dotenv.write_text(f"DATABASE_URL={project.database.url}\n")
    drop = shlex.join(psql(project, "drop table _cdc_users"))
    given = environment(project.folder, HERE=project.database.url)
    elsewhere = f"DATABASE_URL=$HERE {drop}; echo DATABASE_URL=postgresql://postgres@127.0.0.1:1/elsewhere >.env"
    value, ended = project.json("run-safe", "--", "sh", "-c", elsewhere, environment=given)
    assert ended.code == 6
    changes = {verdict["name"]: verdict["change"] for verdict in value["verdict"]}
    assert changes == {"_cdc_users": "dropped", "_cdc_roles": "untouched", "_cdc_empty": "untouched"}


def test_a_command_that_reaches_another_database_does_not_end_in_silence(project: Project) -> None:
    migration = psql(project, "drop table if exists _cdc_users")
    with fresh_database(project.database.server) as other:
        there = ("env", f"DATABASE_URL={other.url}", *migration)
        value, ended = project.json("run-safe", "--yes", "--no-rehearse", "--", *there)
    assert (ended.code, value["migration"]["reached"]) == (0, False)
    assert "No connection to" in ended.said
    for here in ("select 1", "create table quickly ()", "insert into users values (77)"):
        value, ended = project.json("run-safe", "--yes", "--no-rehearse", "--", *psql(project, here))
        assert (ended.code, value["migration"]["reached"]) == (0, True)
        assert "No connection to" not in ended.said


def test_psql_that_went_on_after_an_error_did_not_do_its_work(project: Project) -> None:
    program = (str(project.database.server.binaries / "psql"), "-X", f"--dbname={project.database.url}")
    ended = project.cdc("run-safe", "--yes", "--", *program, "-c", "select 1/0", "-c", "select 'ERROR:  not one'")
    assert ended.code == 5, ended.said
    assert "psql went on after 'ERROR:  division by zero'" in ended.said
    ended = project.cdc("run-safe", "--yes", "--", *program, "-c", "select 'ERROR:  not one'")
    assert ended.code == 0, ended.said


def test_a_run_that_was_refused_leaves_nothing_that_nobody_knows(project: Project) -> None:
    with project.database.connect() as other:
        other.execute("select pg_advisory_lock(%s)", [ALONE])
        ended = project.cdc("run-safe", "--yes", "--", *MARK)
    assert ended.code == 3
    assert "Another run rehearses or migrates" in ended.said
    assert project.json("list")[0]["sessions"][0]["destroyed"] is None
    assert list(project.backups.glob("*.verdict.json")) == []


def test_enter_is_no_yes_to_a_loss_that_was_announced(project: Project) -> None:
    project.configure(rehearse="on")
    with project.terminal(CDC_BACKUP, "run-safe", "--rehearse", "--", *psql(project, "drop table _cdc_users")) as shown:
        shown.expect(r"Go on\?")
        shown.sendline("")
        assert end(shown)[0] == 4
    assert len(rows(project.database, "_cdc_users")) == 3


# switched off


def test_backups_that_are_switched_off_say_so_and_write_nothing(project: Project) -> None:
    project.configure(enabled=False)
    value, ended = project.json("backup")
    assert ended.code == 0
    assert value["status"] == "disabled"
    assert "backup.enabled: false" in ended.stderr
    assert not project.backups.exists()


@pytest.mark.parametrize("recipe", ["pre", "push-safe", "full-safe", "run-safe"])
def test_the_safe_recipes_refuse_where_backups_are_switched_off(project: Project, recipe: str) -> None:
    mark = list(MARK)
    project.configure(enabled=False, push=mark, generate=mark, migrate=mark)
    ended = project.cdc(recipe, "--yes", *(["--", *MARK] if recipe == "run-safe" else []))
    assert ended.code == 2
    assert "--without-backup" in ended.said
    assert not project.migrated


@pytest.mark.parametrize("enabled", [True, False])
def test_without_backup_in_so_many_words_migrates_and_still_judges(project: Project, enabled: bool) -> None:
    project.configure(enabled=enabled)
    drop = psql(project, "drop table _cdc_users")
    value, ended = project.json("run-safe", "--without-backup", "--", *drop)
    assert ended.code == 6
    assert value["session"] is None
    assert {v["name"]: v["change"] for v in value["verdict"]}["_cdc_users"] == "dropped"
    assert "There is no backup of it" in value["message"]
    assert ended.advised == []
    assert not project.backups.exists()


def test_without_backup_a_server_that_is_not_there_still_stops_the_chain(project: Project) -> None:
    url = "postgresql://postgres@127.0.0.1:1/shop"
    given = environment(project.folder, DATABASE_URL=url)
    ended = project.cdc("run-safe", "--without-backup", "--", *MARK, environment=given)
    never_started(project, ended)


def test_a_database_without_cdc_tables_is_migrated_and_said_to_have_none(
    embedded_server: Server, tmp_path: Path
) -> None:
    with new_project(embedded_server, tmp_path / "project", "create table users (id integer)") as project:
        value, ended = project.json("run-safe", "--", *MARK)
        assert ended.code == 0, ended.said
        assert "has no table that begins with '_cdc_'" in ended.stderr
        assert project.migrated
        assert (value["session"], value["tables"], value["verdict"]) == (None, [], [])
        assert project.sessions == []


# which database


def test_no_database_is_a_refusal_that_says_what_to_set(project: Project) -> None:
    project.configure(url_variable="SHOP_URL")
    ended = project.cdc("run-safe", "--", *MARK)
    assert ended.code == 2
    assert "SHOP_URL is set neither in the environment nor in" in ended.said
    assert "Set SHOP_URL=postgresql://" in ended.said
    assert not project.migrated


@pytest.mark.parametrize("source", [".env", "environment before .env", "url_variable", "PG*"])
def test_the_database_is_the_one_that_the_project_names(project: Project, source: str) -> None:
    database = project.database
    given, dotenv, keys = environment(project.folder), "", {}
    match source:
        case ".env":
            dotenv = f"DATABASE_URL='{database.url}'\n"
        case "environment before .env":
            dotenv = "DATABASE_URL=postgresql://postgres@127.0.0.1:1/other\n"
            given |= {"DATABASE_URL": database.url}
        case "url_variable":
            keys = {"url_variable": "SHOP_URL"}
            given |= {"SHOP_URL": database.url, "DATABASE_URL": "postgresql://postgres@127.0.0.1:1/other"}
        case _:
            given |= {"PGHOST": "127.0.0.1", "PGPORT": str(database.server.port), "PGUSER": "postgres"}
            given |= {"PGDATABASE": database.name, "PGPASSWORD": database.server.password}
    (project.folder / ".env").write_text(dotenv)
    project.configure(**keys)
    below = project.folder / "src"
    below.mkdir()
    value, ended = project.json("backup", environment=given, cwd=below)
    assert ended.code == 0, ended.said
    assert [table["name"] for table in value["tables"]] == ["_cdc_roles", "_cdc_users"]
    assert json.loads(Path(value["session"], "manifest.json").read_text())["database"] == database.name


PASSWORD = "p%@ :/s'e"


def test_a_password_is_nowhere_whether_it_is_right_or_wrong(embedded_server: Server, tmp_path: Path) -> None:
    quoted = "p%25%40%20%3A%2Fs%27e"
    with (
        fresh_role(embedded_server, "superuser login") as role,
        new_project(embedded_server, tmp_path / "project") as project,
    ):
        project.database.execute(
            sql.SQL("alter role {} password {}").format(sql.Identifier(role), sql.Literal(PASSWORD))
        )
        project.configure(drill=True)
        where = f"127.0.0.1:{embedded_server.port}"
        urls = {
            "right": f"postgresql://{role}:{quoted}@{where}/{project.database.name}",
            "wrong password": f"postgresql://{role}:{quoted}x@{where}/{project.database.name}",
            "wrong role": f"postgresql://nobody:{quoted}@{where}/{project.database.name}",
            "wrong database": f"postgresql://{role}:{quoted}@{where}/nowhere",
            "wrong port": f"postgresql://{role}:{quoted}@127.0.0.1:1/{project.database.name}",
            "no URL": f"postgresql://{role}:{PASSWORD}%zz@{where}/{project.database.name}",
        }
        seen = {}
        for name, url in urls.items():
            given = environment(project.folder, DATABASE_URL=url)
            value, seen[name] = project.json("run-safe", "--", *MARK, environment=given)
            assert quoted not in seen[name].said, name
            assert PASSWORD not in seen[name].said + json.dumps(value, ensure_ascii=False), name
        codes = {name: ended.code for name, ended in seen.items()}
        assert codes == dict.fromkeys(urls, 3) | {"right": 0, "no URL": 2}
        for name, target, cause in (
            ("wrong password", f"{project.database.name} on {where} as {role}", "password authentication failed"),
            ("wrong role", f"{project.database.name} on {where} as nobody", "password authentication failed"),
            ("wrong database", f"nowhere on {where} as {role}", "does not exist"),
            ("wrong port", f"{project.database.name} on 127.0.0.1:1 as {role}", "refused"),
        ):
            assert target in seen[name].stderr
            assert cause in seen[name].stderr
        for file in project.backups.rglob("*"):
            if file.is_file():
                text = file.read_text()
                assert PASSWORD not in text, file
                assert quoted not in text, file


@pytest.mark.parametrize(
    "word",
    [
        "postgresql://u:{}@127.0.0.1:1/shop",
        "postgresql+asyncpg://u:@:/{}@127.0.0.1/shop",
        "host=127.0.0.1 password={} user=u",
        "postgresql://127.0.0.1:1/shop?user=u&password={}",
        "PGPASSWORD={}",
        "--token={}",
        "DB_PASS={}",
    ],
)
def test_a_password_in_the_commands_own_arguments_is_not_repeated(project: Project, word: str) -> None:
    value, ended = project.json("run-safe", "--", "sh", "-c", "exit 3", word.format("seCret%40"))
    assert ended.code == 5
    assert "seCret" not in ended.said
    assert value["migration"]["argv"][-1] == word.replace("@:/{}", "{}").format("***")
    for file in project.backups.rglob("*.json"):
        assert "seCret" not in file.read_text()


# the configuration that such projects have today


def test_the_first_systems_configuration_works_unchanged(embedded_server: Server, tmp_path: Path) -> None:
    tables = TABLES.replace("_cdc_", "_audit_")
    with new_project(embedded_server, tmp_path / "apps" / "shop" / "backend", tables) as project:
        (project.folder / "config" / "backup.yml").unlink()
        config = project.folder / "drizzle" / "config"
        config.mkdir(parents=True)
        (config / "backup.yml").write_text(
            "backup:\n"
            "  enabled: true\n"
            '  path: "../../../../local/backups/drizzle/cdc"  # Project root\n'
            '  format: "sql"\n'
            "  compress: false\n"
            "  retention_days: 30\n"
        )
        (config / "audit-tables.yml").write_text("audit:\n  config:\n    prefix: _audit_\n  tables: [users]\n")
        value, ended = project.json("run-safe", "--", *MARK)
        assert ended.code == 0, ended.said
        assert [table["name"] for table in value["tables"]] == ["_audit_roles", "_audit_users"]
        assert Path(value["session"]).parent == tmp_path.resolve() / "apps/local/backups/drizzle/cdc"
        assert value["drill"]["problem"] is None
        assert project.migrated
