"""docker-compose.yml, `invoke up` and `invoke down`: what people with Docker get for development."""

import os
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.chain import INVOKE

ROOT = Path(__file__).parents[1]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
MAJORS = ("14", "15", "16", "17", "18")


def test_there_is_one_service_for_each_supported_major_version() -> None:
    assert {name: service["image"] for name, service in COMPOSE["services"].items()} == {
        f"postgres-{major}": f"postgres:{major}" for major in MAJORS
    }


def test_every_service_is_chosen_by_profile_and_says_when_it_is_ready() -> None:
    for name, service in COMPOSE["services"].items():
        assert service["profiles"] == [name.removeprefix("postgres-"), "all"]
        # Of the socket it would say so while the image makes the database.
        assert service["healthcheck"]["test"][:3] == ["CMD", "pg_isready", "--host=127.0.0.1"]


def test_no_service_listens_beyond_this_machine_and_no_two_on_one_port() -> None:
    ports = [port for service in COMPOSE["services"].values() for port in service["ports"]]
    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert len({port.split(":")[1] for port in ports}) == len(MAJORS)


def _invoke(folder: Path, *arguments: str, **programs: str) -> tuple[int, str, list[str]]:
    """How a recipe ends where only these programs are on PATH, what it says, and how it called them."""
    for name, text in programs.items():
        (folder / name).write_text(f'#!/bin/sh\necho "$0 $*" >>{folder}/calls\n{text}\n')
        (folder / name).chmod(0o755)
    done = subprocess.run(
        (INVOKE, *arguments),
        cwd=ROOT,
        env={**os.environ, "PATH": str(folder)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    calls = folder / "calls"
    said = calls.read_text().replace(f"{folder}/", "").splitlines() if calls.exists() else []
    return done.returncode, done.stdout + done.stderr, said


def test_up_waits_for_the_version_that_is_asked_for_and_prints_its_url(tmp_path: Path) -> None:
    code, said, calls = _invoke(tmp_path, "up", "--major", "17", docker="exit 0")
    assert code == 0, said
    assert calls == ["docker compose version", "docker compose --profile 17 up --detach --wait"]
    assert said == "DATABASE_URL=postgresql://postgres:postgres@127.0.0.1:5417/app\n"


def test_up_takes_the_newest_or_all_and_names_what_there_is(tmp_path: Path) -> None:
    assert "127.0.0.1:5418/app" in _invoke(tmp_path, "up", docker="exit 0")[1]
    assert _invoke(tmp_path, "up", "--major=all", docker="exit 0")[1].count("DATABASE_URL=") == len(MAJORS)
    code, said, _ = _invoke(tmp_path, "up", "--major=13", docker="exit 0")
    assert code == 2
    assert "there are 14, 15, 16, 17, 18, and all." in said


def test_down_ends_every_version(tmp_path: Path) -> None:
    code, _, calls = _invoke(tmp_path, "down", docker='[ "$1" != compose ]', **{"docker-compose": "exit 0"})
    assert code == 0
    assert calls == ["docker compose version", "docker-compose --profile all down --volumes"]


def test_a_failing_compose_is_a_failing_recipe(tmp_path: Path) -> None:
    code, said, _ = _invoke(tmp_path, "up", docker='[ "$2" = version ] || exit 17')
    assert code == 17
    assert "DATABASE_URL" not in said


@pytest.mark.parametrize("programs", [{}, {"docker": "exit 1"}], ids=["no docker", "no plugin"])
def test_without_a_compose_program_that_is_said(tmp_path: Path, programs: dict[str, str]) -> None:
    code, said, _ = _invoke(tmp_path, "up", **programs)
    assert code == 2
    assert "neither docker compose nor docker-compose runs here." in said
    assert "Nothing was started." in said
