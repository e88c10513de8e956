"""The demo: the README's first command keeps its word."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run_demo(path: str) -> str:
    argv = (sys.executable, "-m", "invoke", "demo")
    ended = subprocess.run(
        argv, cwd=ROOT, env={**os.environ, "PATH": path}, capture_output=True, encoding="utf-8", check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def check(said: str) -> None:
    assert "Proven: restored on" in said
    assert re.search(r"public\._cdc_users +dropped +10 +-", said)
    assert "public._cdc_users: is back, with 10 rows" in said
    assert "5. Row by row the same as before, and the application's triggers write again." in said
    folder = Path(said.rstrip().rsplit("Have a look: ", 1)[1])
    assert [path.name for path in folder.glob("backup_*/_cdc_users.sql")] == ["_cdc_users.sql"]


def test_demo_without_node_migrates_with_psql_and_says_so(tmp_path: Path) -> None:
    said = run_demo(str(tmp_path))
    assert "There is no Node on PATH, so psql migrates instead of drizzle-kit." in said
    check(said)


@pytest.mark.usefixtures("node")
def test_demo_with_node_runs_the_real_drizzle_kit() -> None:
    said = run_demo(os.environ["PATH"])
    assert "[✓] Changes applied" in said
    check(said)
