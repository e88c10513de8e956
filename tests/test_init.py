"""`migration.init` in real folders and repositories: what it shows, asks for, writes, and leaves alone."""

import difflib
import json
import shutil
import stat
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pexpect
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup.package_json import add_scripts
from backup.settings import load_settings
from tests.chain import CDC_BACKUP, PATIENCE, Ended, end, environment
from tests.lacking import lacking

SHIPPED = Path(__file__).parents[1] / "config" / "backup.yml"
IGNORED = "/local/backups/drizzle/cdc/"

SCRIPTS = {
    "migration:backup": "cdc-backup backup",
    "migration:pre": "cdc-backup pre",
    "migration:push-safe": "cdc-backup push-safe",
    "migration:full-safe": "cdc-backup full-safe",
    "migration:restore": "cdc-backup restore",
}

PACKAGE = """\
{
  "name": "shop",
  "files": ["src", "drizzle"],
  "scripts": {
    "test": "vitest"
  },
  "dependencies": { "pg": "^8.16.0" }
}
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A Node project under git."""
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "package.json").write_text(PACKAGE)
    (folder / ".gitignore").write_text("node_modules/\n")
    git(folder, "init", "--quiet")
    return folder


def git(folder: Path, *arguments: str) -> int:
    """Run git, which asks nobody; its exit code."""
    if shutil.which("git") is None:
        lacking("whether git ignores the sessions (git is not on PATH)")
    return subprocess.run(("git", *arguments), cwd=folder, env=environment(folder), check=False).returncode


def init(folder: Path, *arguments: str) -> Ended:
    """Run the recipe without a terminal."""
    done = subprocess.run(
        (CDC_BACKUP, "init", *arguments),
        cwd=folder,
        env=environment(folder),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=PATIENCE,
        check=False,
    )
    return Ended(code=done.returncode, stdout=done.stdout, stderr=done.stderr)


def answered(folder: Path, *answers: str, meanwhile: Mapping[Path, str] | None = None) -> tuple[int, str]:
    """Run it on a terminal and answer its questions; files may change while the last is asked."""
    with pexpect.spawn(
        CDC_BACKUP,
        ["init"],
        cwd=str(folder),
        env=environment(folder),
        encoding="utf-8",
        timeout=PATIENCE,
        dimensions=(60, 160),
    ) as shown:
        said = ""
        for number, answer in enumerate(answers, start=1):
            shown.expect_exact("Make this change?")
            said += str(shown.before)
            for file, text in (meanwhile or {}).items() if number == len(answers) else ():
                file.write_text(text)
            shown.send(f"{answer}\r")
        code, rest = end(shown)
    return code, said + rest


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file of the project, what is in it, and when it was written."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file() and ".git" not in path.parts
    }


def test_a_project_is_set_up_and_a_second_time_nothing_changes(shop: Path) -> None:
    first = init(shop, "--yes")
    assert first.code == 0, first.said
    assert (shop / "config" / "backup.yml").read_text() == SHIPPED.read_text()
    assert json.loads((shop / "package.json").read_text())["scripts"] == {"test": "vitest", **SCRIPTS}
    assert (shop / ".gitignore").read_text() == f"node_modules/\n{IGNORED}\n"
    assert load_settings(cwd=shop).path == shop / "local" / "backups" / "drizzle" / "cdc"
    assert git(shop, "check-ignore", "--quiet", f"{load_settings(cwd=shop).path}/backup_x/_cdc_users.sql") == 0
    before = contents(shop)
    second = init(shop, "--yes")
    assert (second.code, contents(shop)) == (0, before)
    assert " + " not in second.said
    assert "left alone" not in second.said
    assert f"{shop}/package.json: the scripts are there" in second.said
    assert "All was set up already; nothing was changed." in second.said


@pytest.mark.parametrize("text", ['{"name":"x"}', "{}", PACKAGE.replace("  ", "\t"), PACKAGE.replace("\n", "\r\n")])
def test_a_package_that_it_wrote_itself_is_understood(shop: Path, text: str) -> None:
    (shop / "package.json").write_bytes(text.encode())
    assert init(shop, "--yes").code == 0
    before = contents(shop)
    second = init(shop, "--yes")
    assert (second.code, contents(shop)) == (0, before)
    assert "the scripts are there" in second.said


def test_without_a_terminal_and_without_yes_it_only_shows(shop: Path) -> None:
    before = contents(shop)
    ended = init(shop)
    assert (ended.code, contents(shop)) == (4, before)
    assert f"{shop}/config/backup.yml: a new file" in ended.stdout
    assert '  + "migration:push-safe": "cdc-backup push-safe"' in ended.stdout
    assert f"  + {IGNORED}" in ended.stdout
    assert "Nobody is here to be asked." in ended.said
    assert "Say --yes" in ended.said


def test_dry_only_shows_and_is_content(shop: Path) -> None:
    before = contents(shop)
    done = subprocess.run(
        (CDC_BACKUP, "--dry", "init", "--yes"), cwd=shop, env=environment(shop), capture_output=True, check=False
    )
    assert (done.returncode, contents(shop)) == (0, before)
    assert b"migration:push-safe" in done.stdout


def test_each_change_is_shown_and_enter_makes_it(shop: Path) -> None:
    code, said = answered(shop, "", "", "")
    assert code == 0
    assert '+   path: "../local' in said.partition("package.json")[0]
    assert said.index("backup.yml: a new file") < said.index("package.json: add") < said.index(".gitignore: add")
    assert set(contents(shop)) == {"config/backup.yml", "package.json", ".gitignore"}
    assert IGNORED in (shop / ".gitignore").read_text()


def test_what_is_declined_is_left_and_the_rest_is_done(shop: Path) -> None:
    code, said = answered(shop, "", "n", "")
    assert code == 4
    assert f"Not changed: {shop}/package.json." in said
    assert (shop / "package.json").read_text() == PACKAGE
    assert (shop / "config" / "backup.yml").exists()
    assert IGNORED in (shop / ".gitignore").read_text()


def test_a_file_that_changes_while_it_is_asked_for_is_left_as_it_is_now(shop: Path) -> None:
    theirs = '{"name": "edited meanwhile"}'
    code, said = answered(shop, "", "", meanwhile={shop / "package.json": theirs})
    assert code == 2
    assert f"{shop}/package.json was changed by somebody else in the meantime." in said
    assert (shop / "package.json").read_text() == theirs


def test_json_tells_what_became_of_each_file(shop: Path) -> None:
    (shop / "package.json").write_text("{")
    (shop / ".gitignore").write_text("local/\n")
    value = json.loads(init(shop, "--yes", "--json").stdout)
    assert (value["status"], value["exit_code"]) == ("failed", 2)
    told = {Path(one["file"]).name: one for one in value["init"]}
    assert {name: one["state"] for name, one in told.items()} == {
        "backup.yml": "made",
        "package.json": "not understood",
        ".gitignore": "there",
    }
    assert all(set(one) == {"file", "state", "detail"} for one in told.values())
    value = json.loads(init(shop, "--json").stdout)
    assert [one["state"] for one in value["init"]] == ["there", "not understood", "there"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it is no JSON at line 1, column 1"),
        ("{", "it is no JSON at line 1, column 2"),
        ("{} // x", "it is no JSON at line 1, column 4"),
        ("\ufeff{}", "it begins with a byte order mark"),
        ("[]", "it is no object"),
        ('"scripts"', "it is no object"),
        ('{"scripts": []}', "its scripts are no object"),
        ('{"scripts": null}', "its scripts are no object"),
        ('{"a": 1, "a": 2}', "it gives a key twice"),
    ],
)
def test_a_package_that_is_not_understood_is_left_alone_and_the_end_is_not_well(
    shop: Path, text: str, why: str
) -> None:
    (shop / "package.json").write_text(text)
    ended = init(shop, "--yes")
    assert ended.code == 2
    assert (shop / "package.json").read_text() == text
    assert f"{shop}/package.json: not understood, and left alone: {why}\n" in ended.said
    assert "All is set up" not in ended.said
    assert '"migration:push-safe": "cdc-backup push-safe"' in ended.said
    assert (shop / "config" / "backup.yml").exists()


def test_a_script_with_another_text_is_never_overwritten(shop: Path) -> None:
    package = json.loads(PACKAGE)
    package["scripts"] |= {"migration:pre": "make sure", "migration:backup": "cdc-backup backup"}
    (shop / "package.json").write_text(json.dumps(package, indent=2))
    ended = init(shop, "--yes")
    assert "left alone, they say something else than ours: migration:pre" in ended.said
    scripts = json.loads((shop / "package.json").read_text())["scripts"]
    assert scripts == {**SCRIPTS, "test": "vitest", "migration:pre": "make sure"}
    again = init(shop, "--yes")
    assert again.code == 0
    assert "left alone, they say something else than ours: migration:pre" in again.said
    assert "All is set up, but for what was left alone." in again.said


def test_a_file_keeps_its_mode_and_a_link_its_target(shop: Path) -> None:
    (shop / "real.json").write_text(PACKAGE)
    (shop / "real.json").chmod(0o640)
    (shop / "package.json").unlink()
    (shop / "package.json").symlink_to("real.json")
    assert init(shop, "--yes").code == 0
    assert (shop / "package.json").is_symlink()
    assert stat.S_IMODE((shop / "real.json").stat().st_mode) == 0o640
    assert "migration:pre" in (shop / "real.json").read_text()


@pytest.mark.parametrize(
    "text",
    [
        PACKAGE,
        PACKAGE.replace("  ", "\t"),
        PACKAGE.replace("  ", "    "),
        PACKAGE.replace("\n", "\r\n"),
        PACKAGE.rstrip("\n"),
        PACKAGE.replace('{\n    "test": "vitest"\n  }', "{}"),
        PACKAGE.replace('{\n    "test": "vitest"\n  }', '{ "test": "a \\"scripts\\": {} b" }'),
        PACKAGE.replace('  "scripts": {\n    "test": "vitest"\n  },\n', ""),
        PACKAGE.replace('"name": "shop"', '"inner": {\n    "scripts": {\n      "x": "y"\n    }\n  }'),
        PACKAGE.replace("shop", "Läden 🏪 \\u00e4"),
        '{"name":"x","scripts":{"a":"b"}}',
        "{}",
    ],
    ids=[
        *("as npm writes it", "tabs", "four blanks", "CRLF", "no newline at the end", "no script", "one line of them"),
        *("no scripts", "scripts inside", "other letters", "one line", "empty"),
    ],
)
def test_scripts_are_added_and_the_rest_keeps_every_character(text: str) -> None:
    after = add_scripts(text, SCRIPTS)
    package = json.loads(text)
    assert json.dumps(json.loads(after)) == json.dumps(
        {**package, "scripts": {**package.get("scripts", {}), **SCRIPTS}}
    )
    changes = difflib.SequenceMatcher(None, text, after, autojunk=False).get_opcodes()
    assert {kind for kind, *_ in changes} <= {"equal", "insert"}
    if "\n" in text:
        newline = "\r\n" if "\r\n" in text else "\n"
        assert after.count("\n") == after.count(newline)
        indents = {line[: len(line) - len(line.lstrip())] for line in text.splitlines()}
        assert {line[: len(line) - len(line.lstrip())] for line in after.splitlines()} <= {*indents, "    ", "\t\t"}


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8) | st.just("scripts"), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(
    package=st.dictionaries(st.text(max_size=8), _VALUES, max_size=4),
    scripts=st.none() | st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=3),
    indent=st.sampled_from([None, 1, 2, 4, "\t"]),
)
def test_scripts_are_added_to_any_package(
    package: dict[str, Any], scripts: dict[str, str] | None, indent: int | str | None
) -> None:
    package.pop("scripts", None)
    if scripts is not None:
        package = {"first": {"scripts": {}}, "scripts": scripts, **package}
    after = add_scripts(json.dumps(package, indent=indent), SCRIPTS)
    assert json.dumps(json.loads(after)) == json.dumps({**package, "scripts": {**(scripts or {}), **SCRIPTS}})


def test_sessions_that_git_ignores_already_need_no_line(shop: Path) -> None:
    (shop / ".gitignore").write_text("local/\n")
    assert init(shop, "--yes").code == 0
    assert (shop / ".gitignore").read_text() == "local/\n"


def test_without_a_repository_the_line_is_added_once(shop: Path) -> None:
    shutil.rmtree(shop / ".git")
    (shop / ".gitignore").write_text("node_modules/")
    assert init(shop, "--yes").code == 0
    assert init(shop, "--yes").code == 0
    assert (shop / ".gitignore").read_text() == f"node_modules/\n{IGNORED}\n"


def test_in_a_monorepo_the_gitignore_of_the_repository_gets_the_line(shop: Path) -> None:
    inner = shop / "packages" / "the [db]"
    inner.mkdir(parents=True)
    assert init(inner, "--yes").code == 0
    assert not (inner / ".gitignore").exists()
    assert git(shop, "check-ignore", "--quiet", f"{inner}/local/backups/drizzle/cdc/x") == 0
    assert (shop / "package.json").read_text() == PACKAGE


def test_a_repository_without_a_gitignore_is_warned(shop: Path) -> None:
    (shop / ".gitignore").unlink()
    ended = init(shop, "--yes")
    assert ended.code == 0
    assert "do not commit the rows of CDC tables" in ended.said
    assert not (shop / ".gitignore").exists()


def test_sessions_outside_of_the_repository_need_no_line(shop: Path, tmp_path: Path) -> None:
    (shop / "config").mkdir()
    (shop / "config" / "backup.yml").write_text(f"backup: {{path: {tmp_path / 'elsewhere'}}}")
    ended = init(shop, "--yes")
    assert ended.code == 0
    assert (shop / ".gitignore").read_text() == "node_modules/\n"
    assert f"{shop}/config/backup.yml: the configuration is there" in ended.said


def test_beside_the_first_systems_files_the_configuration_stands_where_it_stood(shop: Path) -> None:
    (shop / "drizzle" / "config").mkdir(parents=True)
    (shop / "drizzle" / "config" / "audit-tables.yml").write_text("audit: {config: {prefix: _audit_}}")
    assert init(shop, "--yes").code == 0
    settings = load_settings(cwd=shop)
    assert settings.source == shop / "drizzle" / "config" / "backup.yml"
    assert settings.path == shop / "local" / "backups" / "drizzle" / "cdc"
    assert settings.prefix == "_audit_"
    assert settings.directory == shop


def test_a_file_that_cannot_be_written_is_a_sentence(shop: Path) -> None:
    (shop / "config").write_text("no folder")
    before = contents(shop)
    ended = init(shop, "--yes")
    assert (ended.code, contents(shop)) == (2, before)
    assert f"{shop}/config/backup.yml cannot be written: " in ended.said
    assert "Traceback" not in ended.said
