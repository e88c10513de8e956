"""The command lines: `invoke migration.…` in a team's own tasks.py, and `cdc-backup …` without one."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from backup.postgres.embedded import Server
from backup.process import run
from backup.recipes import migration
from tests.chain import CDC_BACKUP, INVOKE, MARK, TASKS, Project, environment, new_project

RECIPES = ("backup", "pre", "push-safe", "full-safe", "run-safe", "restore", "list", "drill", "prune")


@pytest.fixture
def project(embedded_server: Server, tmp_path: Path) -> Iterator[Project]:
    """A project with three CDC tables on the embedded server, and with a `tasks.py` of its own."""
    with new_project(embedded_server, tmp_path / "project") as made:
        (made.folder / "tasks.py").write_text(TASKS)
        yield made


def test_both_programs_list_every_recipe_with_what_it_does(project: Project) -> None:
    invoked, ours = project.run(INVOKE, "--list"), project.cdc("--list")
    assert (invoked.code, ours.code) == (0, 0)
    for name in RECIPES:
        task = migration[name]
        assert f"  migration.{name} " in invoked.stdout
        assert f"  {name} " in ours.stdout
        assert str(task.__doc__).split()[0] in ours.stdout


@pytest.mark.parametrize("recipe", RECIPES)
def test_help_explains_every_flag_and_runs_nothing(project: Project, recipe: str) -> None:
    nowhere = environment(project.folder)
    for ended in (
        project.cdc(recipe, "--help", environment=nowhere),
        project.run(INVOKE, f"migration.{recipe}", "--help", environment=nowhere),
        project.run(INVOKE, "--help", f"migration.{recipe}", environment=nowhere),
    ):
        assert ended.code == 0, ended.said
        assert "--config=STRING   " in ended.stdout
        assert "--json  " in ended.stdout
        assert "none" not in ended.stdout
    assert not project.backups.exists()


def test_no_flag_has_a_short_form_that_a_new_flag_could_take_from_it() -> None:
    for name in RECIPES:
        flags = [flag for argument in migration[name].get_arguments() for flag in argument.names]
        assert [flag for flag in flags if len(flag) == 1] == []


def test_what_a_recipe_imports_is_compiled_once_unless_python_is_told_not_to(project: Project, tmp_path: Path) -> None:
    def compiled(name: str, **more: str) -> set[str]:
        cache = tmp_path / name
        ended = project.cdc("list", environment=project.environment(PYTHONPYCACHEPREFIX=str(cache), **more))
        assert ended.code == 0, ended.said
        return {path.name.split(".")[0] for path in cache.rglob("*.pyc")}

    assert {"recipes", "cdc_backup", "settings"} <= compiled("as usual")
    assert compiled("told not to", PYTHONDONTWRITEBYTECODE="1") == set()


@pytest.mark.parametrize(
    "arguments",
    [
        ("backpu",),
        ("backup", "--pth", "x"),
        ("backup", "--path"),
        ("backup", "one", "two"),
        ("list", "something"),
        ("--json", "backup"),
        ("run-safe", "sh", "-c", "true"),
        ("backup", "--json=maybe", "--nonsense"),
    ],
    ids=" ".join,
)
def test_a_command_line_that_cannot_be_understood_is_wrong_usage(project: Project, arguments: tuple[str, ...]) -> None:
    ended = project.cdc(*arguments)
    assert ended.code == 2, ended.said
    assert "Nothing was done." in ended.said
    assert "--help" in ended.said
    assert "Traceback" not in ended.said
    assert not project.backups.exists()


@pytest.mark.parametrize("flag", ["--config", "-f"])
def test_a_configuration_that_is_named_before_the_recipe_is_refused_and_not_passed_over(
    project: Project, flag: str
) -> None:
    """There it would be Invoke's own, and the backup would go where another configuration says."""
    other = project.folder / "other.yml"
    other.write_text("backup: {path: elsewhere}\n")
    ended = project.cdc(flag, str(other), "backup")
    assert ended.code == 2
    assert "behind it" in ended.said
    assert not project.backups.exists()


def test_run_safe_without_a_command_is_wrong_usage(project: Project) -> None:
    for ended in (project.cdc("run-safe"), project.cdc("run-safe", "--"), project.run(INVOKE, "migration.run-safe")):
        assert ended.code == 2, ended.said
        assert "run-safe -- " in ended.said
    assert not project.backups.exists()


@pytest.mark.parametrize(
    ("arguments", "tables"),
    [
        (("{}",), ["_cdc_roles", "_cdc_users"]),
        (("--json", "{}"), ["_cdc_roles", "_cdc_users"]),
        (("{}", "--json"), ["_cdc_roles", "_cdc_users"]),
        (("--table", "_cdc_users", "{}"), ["_cdc_users"]),
        (("{}", "--table", "_cdc_users"), ["_cdc_users"]),
        (("--table=_cdc_users", "{}", "--table", "public._cdc_roles"), ["_cdc_roles", "_cdc_users"]),
        (("--config", "config/backup.yml", "{}"), ["_cdc_roles", "_cdc_users"]),
        (("--path", "{}"), ["_cdc_roles", "_cdc_users"]),
        (("--path={}",), ["_cdc_roles", "_cdc_users"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_a_path_may_stand_anywhere_behind_backup(
    project: Project, tmp_path: Path, arguments: tuple[str, ...], tables: list[str]
) -> None:
    path = tmp_path / "my backups" / "cdc"
    ended = project.cdc("backup", *(argument.format(path) for argument in arguments))
    assert ended.code == 0, ended.said
    (session,) = path.iterdir()
    assert sorted(file.stem for file in session.glob("_cdc_*.sql")) == tables
    assert not project.backups.exists()


def test_a_relative_path_starts_where_one_is(project: Project) -> None:
    below = project.folder / "src"
    below.mkdir()
    ended = project.cdc("backup", "my backups/cdc", cwd=below)
    assert ended.code == 0, ended.said
    assert len(list((below / "my backups" / "cdc").iterdir())) == 1


def test_an_empty_path_is_refused(project: Project) -> None:
    ended = project.cdc("backup", "")
    assert ended.code == 2, ended.said
    assert project.sessions == []


def test_a_table_that_is_named_and_not_there_is_skipped_and_named(project: Project) -> None:
    value, ended = project.json("backup", "--table", "_cdc_users", "--table", "_cdc_gone")
    assert ended.code == 0, ended.said
    assert [table["name"] for table in value["tables"]] == ["_cdc_users"]
    assert [(table["schema"], table["name"]) for table in value["skipped"]] == [(None, "_cdc_gone")]
    assert "_cdc_gone" in ended.stderr


def test_the_recipes_work_from_a_folder_below_the_tasks(project: Project) -> None:
    below = project.folder / "src" / "deep"
    below.mkdir(parents=True)
    ended = project.run(INVOKE, "migration.backup", cwd=below)
    assert ended.code == 0, ended.said
    assert len(project.published) == 1


def test_the_recipes_live_beside_a_teams_own_and_under_a_name_of_its_own(project: Project) -> None:
    (project.folder / "tasks.py").write_text(
        "from invoke import Collection, task\n"
        "from backup.recipes import migration\n"
        "@task\n"
        "def build(c): print('built')\n"
        "ns = Collection(build)\n"
        "ns.add_collection(migration, 'db')\n"
    )
    ended = project.run(INVOKE, "build", "db.backup", "--json")
    assert ended.code == 0, ended.said
    built, value = ended.stdout.splitlines()
    assert built == "built"
    assert json.loads(value)["status"] == "backed up"


def test_a_recipe_that_stands_twice_in_one_call_is_not_a_step_that_is_left_out(project: Project) -> None:
    """Invoke removes what it takes for a repetition: nothing of the chain may depend on a task before it."""
    ended = project.run(INVOKE, "migration.backup", "migration.run-safe", "--", *MARK)
    assert ended.code == 0, ended.said
    assert project.migrated
    assert len(project.published) == 2


@pytest.mark.parametrize("way", ["--config", "CDC_BACKUP_CONFIG"])
def test_the_configuration_that_is_named_is_the_one_that_counts(project: Project, tmp_path: Path, way: str) -> None:
    other = tmp_path / "other.yml"
    other.write_text("backup: {drill: off, path: here}\n")
    named = ["--config", str(other)] if way == "--config" else []
    given = project.environment(**({} if named else {way: str(other)}))
    ended = project.cdc("backup", *named, environment=given)
    assert ended.code == 0, ended.said
    assert len(list((tmp_path / "here").iterdir())) == 1
    other.unlink()
    missing = project.cdc("backup", *named, environment=given)
    assert missing.code == 2
    assert str(other) in missing.said
    assert not project.backups.exists()


def test_a_configuration_that_cannot_be_followed_is_refused_by_name_before_anything_is_done(project: Project) -> None:
    file = project.configure(retention_days=0, prefx="_cdc_")
    ended = project.cdc("run-safe", "--", *MARK)
    assert ended.code == 2
    for named in (str(file), "backup.retention_days", "backup.prefx"):
        assert named in ended.said
    assert not project.migrated
    assert not project.backups.exists()


@pytest.mark.parametrize("program", ["cdc-backup", "invoke"])
def test_a_bug_of_ours_keeps_its_traceback(project: Project, program: str) -> None:
    """An object that no database gives stands for the bug: the first that looks at it stumbles."""
    (project.folder / "tasks.py").write_text(f"import backup.cdc_backup\nbackup.cdc_backup.take_snapshot = 7\n{TASKS}")
    if program == "invoke":
        argv: tuple[str, ...] = (INVOKE, "migration.run-safe", "--", *MARK)
    else:
        code = "import tasks, sys; from backup.recipes import main; sys.argv[0] = 'cdc-backup'; main()"
        argv = (str(Path(CDC_BACKUP).with_name("python")), "-c", code, "run-safe", "--", *MARK)
    ended = project.run(*argv)
    assert ended.code == 1
    assert "Traceback (most recent call last)" in ended.stderr
    assert "TypeError: 'int' object is not callable" in ended.stderr
    assert not project.migrated


def test_a_plain_backup_does_not_wait_for_what_other_recipes_need() -> None:
    code = "import backup.cdc_backup, sys; print(*sys.modules)"
    loaded = run((sys.executable, "-c", code), environment=os.environ).stdout.split()
    others = ("backup.migration", "backup.doctor", "backup.bring_back", "backup.postgres.container", "docker")
    assert "backup.session.write" in loaded
    assert [name for name in loaded if name.startswith(others)] == []
