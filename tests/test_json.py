"""What a machine reads with --json: the names, texts and units that the README documents."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from importlib.metadata import version as distribution_version
from pathlib import Path
from typing import Any

import pytest

from backup.errors import ExitCode
from backup.migration.faults import Part
from backup.migration.verdict import Change
from backup.postgres.embedded import Server
from backup.result import State, Status
from tests.chain import CDC_BACKUP, MARK, Project, environment, new_project, psql
from tests.servers import version

README = (Path(__file__).parents[1] / "README.md").read_text()
ALWAYS = {"status", "session", "tables", "skipped", "exit_code", "message"}


@pytest.fixture
def project(embedded_server: Server, tmp_path: Path) -> Iterator[Project]:
    """A project with three CDC tables on the embedded server."""
    with new_project(embedded_server, tmp_path / "project") as made:
        yield made


def documented() -> dict[str, str]:
    """The rows of the README's table of JSON keys: each key, and what is said of its value."""
    table = README.partition("With `--json`")[2].partition("\n\n|")[2].partition("\n\n")[0]
    rows = {}
    for line in table.splitlines():
        keys, _, value = line.strip("| ").partition(" | ")
        rows.update(dict.fromkeys(re.findall(r"`(\w+)`", keys), value))
    return rows


def keys_of(key: str) -> set[str]:
    """The keys of what stands under a key, as documented."""
    return set(re.findall(r"`(\w+)`", re.sub(r"\([^)]*\)", "", documented()[key])))


def texts_of(value: str) -> set[str]:
    """The texts that a documented value is one of."""
    return set(re.findall(r"`([^`]+)`", value))


def in_parentheses(key: str, name: str) -> set[str]:
    """The texts that are documented in parentheses behind a name."""
    found = re.search(rf"`{name}` \(([^)]*)\)", documented()[key])
    assert found
    return texts_of(found[1])


def holds(value: dict[str, Any], *more: str) -> None:
    """The object has the keys that are always there, those of a session and these, all documented, at every depth."""
    assert value.keys() == ALWAYS | set(more) | ({"versions", "unasked"} if value["session"] else set())
    assert value.keys() <= documented().keys()
    for key in value.keys() - {"session", "pruned"}:
        entries = value[key] if isinstance(value[key], list) else [value[key]]
        assert [set(entry) for entry in entries if isinstance(entry, dict)] == [
            keys_of(key) for entry in entries if isinstance(entry, dict)
        ]


def test_the_texts_that_are_documented_are_those_that_there_are() -> None:
    assert texts_of(documented()["status"]) == set(Status)
    assert in_parentheses("verdict", "change") == set(Change)
    assert in_parentheses("machinery", "kind") == set(Part)
    assert in_parentheses("restored", "state") == set(State)
    codes = {int(code) for code in re.findall(r"^\| (\d+) \|", README, re.MULTILINE)}
    assert codes == set(ExitCode)


def test_a_backup_tells_its_session_and_each_table(project: Project) -> None:
    project.configure(drill=True)
    value, ended = project.json("backup")
    holds(value, "drill", "pruned")
    session = Path(value["session"])
    assert session == project.published[0]
    for table in value["tables"]:
        assert table.pop("bytes") == (session / table["file"]).stat().st_size
        assert table.pop("compression") is None
    assert value.pop("unasked") == []
    assert value.pop("versions") == {
        "cdc_backup": distribution_version("cdc-backup"),
        "server": version(project.database.server.binaries / "postgres"),
        "clients": json.loads((session / "manifest.json").read_text())["client_version"],
    }
    assert value == {
        "status": "backed up",
        "session": str(session),
        "tables": [
            {"schema": "public", "name": "_cdc_roles", "rows": 2, "file": "_cdc_roles.sql"},
            {"schema": "public", "name": "_cdc_users", "rows": 3, "file": "_cdc_users.sql"},
        ],
        "skipped": [{"schema": "public", "name": "_cdc_empty", "reason": "empty"}],
        "drill": {
            "scratch": f"the same server (127.0.0.1:{project.database.server.port})",
            "problem": None,
            "delta": False,
            "unproven": [],
        },
        "pruned": [],
        "exit_code": 0,
        "message": "",
    }
    assert all((session / table["file"]).is_file() for table in value["tables"])
    assert "Backed up 5 rows" in ended.stderr


def test_a_migration_tells_command_and_verdict_and_its_own_output_goes_to_stderr(project: Project) -> None:
    script = 'echo {\\"status\\": 1}; echo to stderr >&2'
    value, ended = project.json("run-safe", "--", "sh", "-c", script)
    holds(value, "migration", "guard", "verdict", "machinery", "pruned")
    assert value["status"] == "migrated"
    assert value["migration"] == {"argv": ["sh", "-c", script], "exit_code": 0, "reached": False}
    assert '{"status": 1}\nto stderr\n' in ended.stderr
    assert value["verdict"][-1] == {
        "schema": "public",
        "name": "_cdc_users",
        "change": "untouched",
        "rows_before": 3,
        "rows_after": 3,
        "rows_added": 0,
        "rows_changed": 0,
        "announced": False,
        "by_others": False,
        "detail": "",
    }
    assert value["machinery"] == []


def test_a_loss_a_restore_and_the_list_tell_the_same_story(project: Project) -> None:
    before = datetime.now(UTC)
    value, _ = project.json("run-safe", "--", *psql(project, "drop table _cdc_users"))
    holds(value, "migration", "guard", "verdict", "machinery", "pruned")
    assert (value["status"], value["exit_code"]) == ("destroyed", 6)
    assert value["verdict"][-1]["rows_after"] is None

    looked, _ = project.json("restore", "--dry-run")
    holds(looked, "restored", "not_restored")
    assert looked["status"] == "dry run"
    assert {entry["rows_added"] for entry in looked["restored"]} == {None}

    restored, _ = project.json("restore")
    holds(restored, "restored", "not_restored")
    assert restored["status"] == "restored"
    assert restored["session"] == value["session"]
    assert restored["not_restored"] == []
    assert restored["restored"][-1] == {
        "schema": "public",
        "name": "_cdc_users",
        "state": "gone",
        "rows_before": None,
        "rows_added": 3,
        "rows_kept_different": 0,
        "rows_removed": 0,
        "rows_newer": 0,
        "rows_updated": 0,
    }

    listed, _ = project.json("list")
    holds(listed, "sessions")
    assert listed["status"] == "listed"
    (entry,) = listed["sessions"]
    created = datetime.fromisoformat(entry.pop("created"))
    assert created.utcoffset() == timedelta(0)
    assert before <= created <= datetime.now(UTC)
    path = Path(entry["path"])
    assert entry.pop("bytes") == sum(file.stat().st_size for file in path.iterdir())
    assert entry.pop("destroyed")
    assert entry == {
        "session": path.name,
        "path": value["session"],
        "database": project.database.name,
        "tables": 3,
        "unasked": [],
        "rows": 5,
        "rows_in_delta": 0,
        "compression": None,
        "complete": True,
        "problem": None,
        "drilled": None,
        "machinery": [],
        "restored": True,
        "kept_because": "it is among the newest 3",
    }


def test_drill_and_prune_tell_what_they_did(project: Project) -> None:
    project.configure(keep_last=1)
    first, second = project.json("backup")[0], project.json("backup")[0]
    drilled, _ = project.json("drill")
    holds(drilled, "drill")
    assert (drilled["status"], drilled["session"]) == ("drilled", second["session"])
    old = Path(first["session"], "manifest.json")
    manifest = json.loads(old.read_text())
    old.write_text(json.dumps(manifest | {"created": "2020-01-01T00:00:00"}))
    pruned, _ = project.json("prune")
    holds(pruned, "pruned")
    assert (pruned["status"], pruned["pruned"]) == ("pruned", [first["session"]])


@pytest.mark.parametrize(
    ("arguments", "status", "code", "more"),
    [
        (("backup", "--json", "--nonsense"), "failed", 2, ()),
        (("run-safe", "--json"), "failed", 2, ()),
        (("restore", "--json", "--mode", "sideways"), "failed", 2, ()),
        (("restore", "--json"), "failed", 2, ()),
        (("backup", "--json", "--config", "nowhere.yml"), "failed", 2, ()),
        (("backup", "--json", "--table", "_cdc_gone"), "failed", 2, ()),
        (("run-safe", "--json", "--", "no-such-program"), "failed", 2, ()),
        (
            ("run-safe", "--json", "--", "sh", "-c", "exit 3"),
            "failed",
            5,
            ("migration", "guard", "verdict", "machinery", "pruned"),
        ),
        (("--dry", "run-safe", "--json", "--", "sh"), "dry run", 0, ()),
        (("--dry", "prune", "--json"), "dry run", 0, ()),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_whatever_goes_wrong_stdout_is_one_object(
    project: Project, arguments: tuple[str, ...], status: str, code: int, more: tuple[str, ...]
) -> None:
    ended = project.cdc(*arguments)
    value = json.loads(ended.stdout)
    holds(value, *more)
    assert (ended.code, value["exit_code"], value["status"]) == (code, code, status)
    assert bool(value["message"]) == bool(code)
    assert value["message"] in ended.stderr


def test_a_server_that_is_not_there_is_one_object_too(project: Project) -> None:
    nowhere = environment(project.folder, DATABASE_URL="postgresql://postgres@127.0.0.1:1/shop")
    value, ended = project.json("run-safe", "--", *MARK, environment=nowhere)
    holds(value)
    assert (value["status"], ended.code) == ("failed", 3)


@pytest.mark.parametrize("as_json", [("--json",), ()])
def test_a_reader_that_went_away_changes_no_exit_code(project: Project, as_json: tuple[str, ...]) -> None:
    project.configure()
    reading, writing = os.pipe()
    os.close(reading)
    try:
        ended = subprocess.run(
            (CDC_BACKUP, "run-safe", "--yes", *as_json, "--", *psql(project, "drop table _cdc_users")),
            stdout=writing,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            cwd=project.folder,
            env=project.environment(),
            text=True,
            check=False,
        )
    finally:
        os.close(writing)
    assert ended.returncode == 6, ended.stderr
    assert "Traceback" not in ended.stderr
    assert "Exception" not in ended.stderr


@pytest.mark.parametrize("as_json", [("--json",), ()])
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_stream_that_is_closed_changes_no_exit_code(project: Project, as_json: tuple[str, ...], closed: str) -> None:
    project.configure()
    migration = (CDC_BACKUP, "run-safe", "--yes", *as_json, "--", *psql(project, "drop table _cdc_users"))
    ended = project.run("sh", "-c", f'"$@" {closed}', "sh", *migration)
    assert ended.code == 6, ended.said
    assert "Traceback" not in ended.said


def test_warnings_are_not_on_stdout(project: Project) -> None:
    project.configure(drill=False)
    value, ended = project.json("backup")
    holds(value, "pruned")
    assert "Not drilled" in ended.stderr


def test_tables_are_not_overlooked_because_of_a_schema_name(project: Project) -> None:
    """A schema that is not there, or not named, would leave its tables unprotected without a word."""
    project.configure(schemas=["public", "nowhere"])
    value, _ = project.json("backup")
    assert value["exit_code"] == 2
    assert "nowhere" in value["message"]
    project.database.execute(
        "create schema app; alter table _cdc_users set schema app; drop table _cdc_roles, _cdc_empty"
    )
    project.configure(schemas=["public"])
    value, _ = project.json("backup")
    assert value["exit_code"] == 2
    assert "app._cdc_users" in value["message"]


def test_names_that_are_not_ascii_arrive_whole(project: Project) -> None:
    name = '_cdc_ü "x" \\ \n [red] \x1b[31m'
    project.database.execute("create table {} (id integer)".format('"' + name.replace('"', '""') + '"'))
    value, _ = project.json("backup")
    assert name in [skipped["name"] for skipped in value["skipped"]]
