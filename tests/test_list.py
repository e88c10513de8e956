"""`migration.list`: every session with what is known of it, newest first."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backup.cdc_backup import CDCBackup
from backup.errors import UsageError
from backup.postgres.embedded import Server
from backup.session.sidecar import Drill, Restore, Verdict
from tests.servers import FreshDatabase, fresh_database
from tests.sessions import write


@pytest.fixture
def database(embedded_server: Server) -> Iterator[FreshDatabase]:
    with fresh_database(embedded_server) as fresh:
        fresh.execute("create table _cdc_t (id int primary key); insert into _cdc_t values (1), (2), (3)")
        yield fresh


def test_each_session_shows_what_is_known_of_it(
    database: FreshDatabase, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = project / "sessions"
    sessions = [write(database, root) for _ in range(5)]
    plain, failed, lost, back, broken = sessions
    now = datetime.now(UTC)
    for session, problem in ((plain, ""), (failed, "it is broken")):
        Drill(moment=now, scratch="a test", problem=problem, unproven=(), tables=()).write(session.path)
    for session in (lost, back):
        Verdict(moment=now, command="a test", destroyed={"public._cdc_t": "dropped"}).write(session.path)
    Restore(tables={"public._cdc_t": datetime.now(UTC)}).write(back.path)
    Verdict(moment=now, command="a test", destroyed=None).write(failed.path)
    (broken.path / "_cdc_t.sql").unlink()
    cdc = CDCBackup(root)
    listed = cdc.list_sessions()
    assert [kept.listed.path.name for kept in listed] == [session.name for session in reversed(sessions)]
    said = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.startswith("backup_")}
    for session in (plain, failed, lost, back):
        assert f" {database.name} " in said[session.name]
        assert " 1 " in said[session.name]
        assert " 3 " in said[session.name]
        assert "0 h 0 min" in said[session.name]
    assert " yes " in said[plain.name]
    assert " failed " in said[failed.name]
    assert "not known" in said[failed.name]
    assert "destroyed public._cdc_t" in said[lost.name]
    assert "restored since" not in said[lost.name]
    assert "restored since" in said[back.name]
    assert "not complete: _cdc_t.sql missing" in said[broken.name]
    assert "it is among the newest 3" in said[lost.name]

    told = {value["session"]: value for value in cdc.result.as_json(0, "")["sessions"]}
    assert [told[s.name]["drilled"] for s in sessions] == [True, False, None, None, None]
    assert [told[s.name]["restored"] for s in sessions] == [False, False, False, True, False]
    assert [told[s.name]["complete"] for s in sessions] == [True, True, True, True, False]
    assert [told[s.name]["rows"] for s in sessions] == [3, 3, 3, 3, 3]
    sizes = [sum(path.stat().st_size for path in s.path.iterdir()) for s in sessions]
    assert [told[s.name]["bytes"] for s in sessions] == sizes


def test_what_is_being_written_or_was_left_is_shown_as_that(
    database: FreshDatabase, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    session = write(database, project)
    left = session.path.rename(session.path.with_name(f".partial-{session.name}"))
    (kept,) = CDCBackup(project).list_sessions()
    assert kept.listed.path == left
    assert "not complete: it is being written, or was left by a killed run" in capsys.readouterr().out


def test_an_empty_folder_lists_nothing_nor_does_one_that_no_backup_made_yet(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    cdc = CDCBackup()
    assert cdc.list_sessions() == ()
    assert capsys.readouterr().out == f"0 sessions in {cdc.settings.path}, which no backup made yet\n"
    cdc.settings.path.mkdir(parents=True)
    assert cdc.list_sessions() == ()
    assert capsys.readouterr().out == f"0 sessions in {cdc.settings.path}\n"


def test_a_folder_that_is_named_and_is_not_there_is_no_empty_one(project: Path) -> None:
    with pytest.raises(UsageError, match=f"There is no folder {project / 'typo'}"):
        CDCBackup(project / "typo").list_sessions()
    assert not (project / "typo").exists()
