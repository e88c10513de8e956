"""The migration command: checked before anything is done, then run as it would be without us."""

import dataclasses
import json
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from backup.errors import MigrationError, UsageError
from backup.migration.command import MigrationCommand

TELLS = """
import json, os, sys
json.dump({"argv": sys.argv[1:], "cwd": os.getcwd(), "environment": dict(os.environ)}, open("told.json", "w"))
print("said")
"""


@pytest.fixture(autouse=True)
def _no_terminal_on_stdin() -> Iterator[None]:
    """Also where the tests are started with `-s` by a person at a terminal."""
    before = os.dup(0)
    with Path(os.devnull).open() as nothing:
        os.dup2(nothing.fileno(), 0)
    yield
    os.dup2(before, 0)
    os.close(before)


def command(*argv: str, directory: Path) -> MigrationCommand:
    return MigrationCommand(argv=argv, directory=directory)


def program(path: Path, text: str) -> Path:
    """A program of the given text, its first line included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_the_command_has_its_arguments_folder_and_environment_unchanged(tmp_path: Path) -> None:
    arguments = ("two words", "it's", '"', "$HOME", "a\nb", "", "*", "ü")
    environment = {"PATH": os.environ["PATH"], "DATABASE_URL": "postgresql://a:%40 @h/d", "EMPTY": ""}
    ended = command(sys.executable, "-c", TELLS, *arguments, directory=tmp_path).run(environment)
    told = json.loads((tmp_path / "told.json").read_text())
    # Python adds this one to itself where no locale is set (PEP 538)
    told["environment"].pop("LC_CTYPE", None)
    assert told == {"argv": list(arguments), "cwd": str(tmp_path.resolve()), "environment": environment}
    assert ended.returncode == 0


def test_a_command_that_can_be_started_passes_the_check(tmp_path: Path) -> None:
    program(tmp_path / "bin" / "migrate", "#!/bin/sh\n")
    command("sh", "-c", "exit 1", directory=tmp_path).check()
    command("bin/migrate", directory=tmp_path).check()
    command(str(tmp_path / "bin" / "migrate"), directory=tmp_path).check()


@pytest.mark.parametrize("missing", ["no-such-program", "./migrate", "/no/such/program"])
def test_a_program_that_is_not_there_is_refused_by_name(tmp_path: Path, missing: str) -> None:
    (tmp_path / "migrate").write_text("not executable")
    with pytest.raises(UsageError, match="Nothing was started") as refused:
        command(missing, "up", directory=tmp_path).check()
    assert missing in str(refused.value)


def test_a_folder_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Nothing was started") as refused:
        command("sh", directory=tmp_path / "gone").check()
    assert str(tmp_path / "gone") in str(refused.value)


def test_a_command_that_does_not_start_after_all_did_nothing(tmp_path: Path) -> None:
    program(tmp_path / "migrate", "#!/no/such/interpreter\n")
    broken = command("./migrate", directory=tmp_path)
    broken.check()
    with pytest.raises(MigrationError, match="could not be started"):
        broken.run(os.environ)


def test_only_drizzle_kit_is_listened_to(tmp_path: Path) -> None:
    script = "#!/bin/sh\necho said\n"
    outputs = {
        name: command(str(program(tmp_path / name, script)), directory=tmp_path).run(os.environ).output
        for name in ("drizzle-kit", "alembic")
    }
    assert outputs == {"drizzle-kit": "said\n", "alembic": ""}


SCRIPTS = {
    "db:push": "dotenv -e .env -- drizzle-kit push",
    "both": "drizzle-kit generate --name=x; drizzle-kit migrate&&echo done",
    "deploy": "npm run db:push",
    "release": "npm run deploy",
    "round": "npm run round",
    "migrate": "prisma migrate deploy",
    "open": "drizzle-kit push '",
    "odd": 3,
}


@pytest.mark.parametrize(
    ("line", "drizzle"),
    [
        ("npx drizzle-kit push", "npx drizzle-kit push"),
        ("npm run --silent db:push", "dotenv -e .env -- drizzle-kit push"),
        ("npm --loglevel error run-script db:push -- --force", "dotenv -e .env -- drizzle-kit push --force"),
        ("pnpm run db:push --force", "dotenv -e .env -- drizzle-kit push --force"),
        ("pnpm db:push", "dotenv -e .env -- drizzle-kit push"),
        ("/usr/bin/yarn db:push", "dotenv -e .env -- drizzle-kit push"),
        ("bun --bun db:push", "dotenv -e .env -- drizzle-kit push"),
        ("env A=b npm run both", "drizzle-kit generate --name=x ; drizzle-kit migrate && echo done"),
        ("npm run deploy", "dotenv -e .env -- drizzle-kit push"),
        ("npm run open", "drizzle-kit push '"),
        ("npm run release", ""),
        ("npm run round", ""),
        ("npm run migrate", ""),
        ("npm run odd", ""),
        ("npm run gone", ""),
        ("npm run", ""),
        ("npm db:push", ""),
        ("python db:push", ""),
    ],
)
@pytest.mark.parametrize("below", [".", "src/deeper"])
def test_a_script_that_calls_drizzle_kit_is_drizzle_kit(tmp_path: Path, line: str, drizzle: str, below: str) -> None:
    (tmp_path / "package.json").write_text(json.dumps({"scripts": SCRIPTS}))
    folder = tmp_path / below
    folder.mkdir(parents=True, exist_ok=True)
    assert " ".join(command(*line.split(), directory=folder).drizzle) == drizzle


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"scripts": []}', '{"scripts": null}', "\xff"])
def test_a_package_json_that_says_nothing_has_no_scripts(tmp_path: Path, text: str) -> None:
    (tmp_path / "package.json").write_text(text, encoding="latin-1")
    assert command("npm", "run", "db:push", directory=tmp_path).drizzle == ()


def test_the_time_limit_holds_without_a_terminal(tmp_path: Path) -> None:
    code = "import signal; signal.pause()"
    ended = command(sys.executable, "-c", code, directory=tmp_path).run(os.environ, time_limit=0.5)
    assert ended.expired
    assert ended.returncode == 143


def test_a_command_is_shown_as_a_person_would_type_it(tmp_path: Path) -> None:
    shown = command("psql", "-c", "SELECT 'a b'", directory=tmp_path)
    assert str(shown) == """psql -c 'SELECT '"'"'a b'"'"''"""


def test_a_command_is_a_value(tmp_path: Path) -> None:
    one, same = (command("alembic", "upgrade", "head", directory=tmp_path) for _ in range(2))
    assert one == same
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.argv = ()  # type: ignore[misc]
