"""What a Python program imports: the same orchestration, with values and exceptions in place of exit codes."""

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import backup
from backup.cdc_backup import CDCBackup
from backup.errors import BackupError, CDCBackupError, DestroyedError, ExitCode, UsageError
from backup.migration.command import MigrationCommand
from backup.postgres.embedded import Server
from backup.session import summary
from tests.chain import MARK, Project, new_project, psql
from tests.sessions import rows


@pytest.fixture
def project(embedded_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """A project that this very process works in."""
    with new_project(embedded_server, tmp_path / "project") as made:
        monkeypatch.chdir(made.folder)
        monkeypatch.setenv("DATABASE_URL", made.database.url)
        yield made


def test_a_backup_returns_the_files_that_bring_the_tables_back(project: Project, tmp_path: Path) -> None:
    custom = tmp_path / "custom" / "path"
    files = CDCBackup(str(custom)).run_backup(interactive=False)
    assert [file.name for file in files] == ["_cdc_roles.sql", "_cdc_users.sql"]
    assert {file.parent.parent for file in files} == {custom}
    project.database.execute("drop table _cdc_users, _cdc_roles")
    for file in files:
        assert project.database.psql(f"--file={file}").returncode == 0
    assert rows(project.database, "_cdc_roles") == ["(1,admin)", "(2,editor)"]
    assert len(rows(project.database, "_cdc_users")) == 3


def test_a_table_that_is_gone_since_the_newest_session_is_named_once(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    newest = CDCBackup().run_backup()[0].parent.name
    project.database.execute("drop table _cdc_users; alter table _cdc_empty rename to _cdc_other")
    capsys.readouterr()
    CDCBackup().run_backup()
    told = f"The newest session, {newest}, holds public._cdc_empty, public._cdc_users: no CDC table of today."
    assert told in " ".join(capsys.readouterr().out.split())
    CDCBackup().run_backup()
    assert "no CDC table of today" not in capsys.readouterr().out
    project.database.execute("drop table _cdc_roles, _cdc_other")
    assert CDCBackup().run_backup() == []
    assert "holds public._cdc_other, public._cdc_roles: no CDC" in " ".join(capsys.readouterr().out.split())


def test_an_advice_leads_to_the_same_configuration_also_where_a_variable_names_it(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = (project.folder / "config" / "backup.yml").rename(project.folder / "elsewhere.yml")
    monkeypatch.setenv("CDC_BACKUP_CONFIG", str(file))
    newest = CDCBackup().run_backup()[0].parent.name
    project.database.execute("drop table _cdc_users")
    capsys.readouterr()
    CDCBackup().run_backup()
    advice = f"cdc-backup restore --session {newest} --config {file} brings back what is gone."
    assert advice in " ".join(capsys.readouterr().out.split())


def test_a_session_of_some_tables_says_so_and_what_it_lacks_is_told_with_where_it_is(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = CDCBackup().run_backup()[0].parent.name
    some = CDCBackup().run_backup(["_cdc_users"])[0].parent
    assert "Not named, so not in the session: public._cdc_empty, public._cdc_roles." in capsys.readouterr().out
    summary = (some / "backup-summary.txt").read_text()
    assert "NOT in this backup, because others were named:\n\n  public._cdc_empty\n  public._cdc_roles\n" in summary
    CDCBackup().list_sessions()
    assert " 1 of 3 " in capsys.readouterr().out
    value, _ = project.json("list")
    unasked = ["public._cdc_empty", "public._cdc_roles"]
    assert [entry["unasked"] for entry in value["sessions"]] == [unasked, []]
    project.database.execute("drop table _cdc_users, _cdc_roles")
    CDCBackup().restore()
    told = " ".join(capsys.readouterr().out.split())
    assert told.endswith(
        f"{some.name} is of some tables alone, and lacks public._cdc_empty, public._cdc_roles:"
        f" cdc-backup restore --session {whole} brings back what of that is gone."
    )
    # What the newest one of all tables holds is missed, though a newer one of some is there.
    CDCBackup().run_backup()
    assert f"The newest session, {whole}, holds public._cdc_roles: no CDC" in " ".join(capsys.readouterr().out.split())
    CDCBackup().restore(whole)
    assert "of some tables alone" not in capsys.readouterr().out
    shutil.rmtree(some.parent)
    CDCBackup().run_backup(["_cdc_users"])
    CDCBackup().restore()
    assert "no session holds public._cdc_empty, public._cdc_roles." in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(("form", "said"), [("sql", True), ("copy", False)])
def test_a_backup_of_many_rows_as_inserts_says_how_they_would_come_back_sooner(
    project: Project,
    form: str,
    said: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    project.configure(format=form)
    monkeypatch.setattr(summary, "LARGE", 100)  # bytes; with 256 MB this would take a minute
    CDCBackup().run_backup()
    assert ("in about half the time with backup.format: copy" in capsys.readouterr().out) == said


def test_a_path_may_be_a_path_and_a_relative_one_starts_at_the_current_folder(project: Project) -> None:
    (users,) = CDCBackup(Path("here")).run_backup(["_cdc_users"])
    assert users.is_relative_to(project.folder.resolve() / "here")


def test_without_a_path_the_configuration_says_where(project: Project) -> None:
    files = CDCBackup().run_backup()
    assert {file.parent for file in files} == set(project.published)


def test_nothing_to_back_up_is_an_empty_list(project: Project) -> None:
    project.database.execute("drop table _cdc_users, _cdc_roles, _cdc_empty")
    assert CDCBackup().run_backup() == []
    assert project.sessions == []


def test_switched_off_is_an_empty_list(project: Project) -> None:
    project.configure(enabled=False)
    assert CDCBackup().run_backup() == []
    assert project.sessions == []


def test_what_goes_wrong_is_an_exception_that_knows_its_exit_code(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError) as refused:
        CDCBackup().run_backup(["_cdc_gone"])
    assert refused.value.exit_code is ExitCode.USAGE
    monkeypatch.setenv("DATABASE_URL", "postgresql://postgres@127.0.0.1:1/shop")
    with pytest.raises(BackupError) as failed:
        CDCBackup().run_backup()
    assert failed.value.exit_code is ExitCode.BACKUP
    assert isinstance(failed.value, CDCBackupError)
    assert failed.value.what in str(failed.value)
    assert project.sessions == []


def test_a_migration_around_which_a_program_puts_the_chain_raises_what_it_destroyed(project: Project) -> None:
    cdc = CDCBackup("elsewhere")
    drop = MigrationCommand(argv=psql(project, "truncate _cdc_users"), directory=project.folder)
    mark = MigrationCommand(argv=MARK, directory=project.folder)
    with pytest.raises(DestroyedError) as destroyed:
        cdc.run_safe([drop, mark], ask=False)
    assert project.migrated
    assert "public._cdc_users (emptied)" in str(destroyed.value)
    (advised,) = (line for line in str(destroyed.value).splitlines() if line.startswith("  cdc-backup restore"))
    assert project.run(*advised.split()).code == 0
    assert len(rows(project.database, "_cdc_users")) == 3


def test_a_backup_runs_in_a_thread_too(project: Project) -> None:
    done: list[Path] = []
    thread = threading.Thread(target=lambda: done.extend(CDCBackup().run_backup()))
    thread.start()
    thread.join()
    assert len(done) == 2
    assert {file.parent for file in done} == set(project.published)


def test_the_package_offers_the_class_and_the_errors_and_its_types() -> None:
    assert backup.CDCBackup is CDCBackup
    for name in backup.__all__:
        assert getattr(backup, name)
    assert {"CDCBackup", "CDCBackupError", "ExitCode"} <= set(backup.__all__)
    assert Path(str(backup.__file__)).with_name("py.typed").exists()
