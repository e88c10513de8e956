"""With --profile a run says where its seconds went, whatever became of it."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backup.postgres.embedded import Server
from backup.recipes import migration
from tests.chain import Project, new_project, pretend_clients, psql


@pytest.fixture
def project(embedded_server: Server, tmp_path: Path) -> Iterator[Project]:
    """A project with three CDC tables on the embedded server."""
    with new_project(embedded_server, tmp_path / "project") as made:
        yield made


def steps_of(entries: list[dict[str, Any]], within: str | None = None) -> list[str]:
    return [entry["step"] for entry in entries if entry["within"] == within]


def refuse_more_than_the_whole(entries: list[dict[str, Any]]) -> None:
    """No step may have taken less than its parts together; a millisecond each is lost in the figures."""
    seconds = {entry["step"]: entry["seconds"] for entry in entries}
    assert all(value >= 0 for value in seconds.values())
    for whole in {entry["within"] for entry in entries} - {None}:
        parts = steps_of(entries, whole)
        assert sum(seconds[part] for part in parts) <= seconds[whole] + 0.001 * (len(parts) + 1)


def shown(said: str) -> list[str]:
    """The steps as people see them, in their order."""
    (table,) = re.findall(r"^Where [\d.]+ s went:\nstep .*\n((?:.*  +\d+\.\d\d .*\n)+)", said, re.MULTILINE)
    return [re.split(r"  +\d+\.\d\d", line)[0].strip() for line in table.splitlines()]


def test_every_step_of_a_backup_is_named_with_its_parts(project: Project) -> None:
    project.configure(drill=True)
    value, ended = project.json("backup", "--profile")
    entries = value["profile"]
    assert steps_of(entries) == [
        "Starting",
        "Connecting, finding clients",
        "Counting rows",
        "Backing up",
        "Drilling: restoring on a scratch database",
        "Pruning",
        "All else",
    ]
    assert "pg_dump" in steps_of(entries, "Backing up")
    assert "fingerprints" in steps_of(entries, "Drilling: restoring on a scratch database")
    refuse_more_than_the_whole(entries)
    assert shown(ended.stderr) == [entry["step"] for entry in entries]


def test_a_migration_and_a_restore_are_told_too(project: Project) -> None:
    ended = project.cdc("run-safe", "--yes", "--profile", "--", *psql(project, "drop table _cdc_users"))
    assert ended.code == 6
    assert {"Backing up", "Judging", "All else"} < set(shown(ended.stdout))
    assert any(step.startswith("Running ") for step in shown(ended.stdout))
    value, _ = project.json("restore", "--profile")
    assert "psql" in steps_of(value["profile"], "Restoring")


def test_a_failed_run_tells_where_its_seconds_went(project: Project, tmp_path: Path) -> None:
    clients = pretend_clients(tmp_path / "clients", pg_dump="exit 1")
    ended = project.cdc("backup", "--profile", "--json", environment=project.environment(PATH=clients))
    assert ended.code == 3
    value = json.loads(ended.stdout)
    assert steps_of(value["profile"])[-2:] == ["Backing up", "All else"]
    refuse_more_than_the_whole(value["profile"])
    assert shown(ended.stderr) == [entry["step"] for entry in value["profile"]]


def test_without_the_flag_nothing_is_said_of_seconds(project: Project) -> None:
    value, ended = project.json("backup")
    assert "profile" not in value
    assert "Where " not in ended.said


@pytest.mark.parametrize("recipe", migration.task_names)
def test_every_recipe_can_be_profiled(project: Project, recipe: str) -> None:
    assert "--profile" in project.cdc(recipe, "--help").stdout
