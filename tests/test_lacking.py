"""What a machine cannot test is never passed over in silence."""

import subprocess
import sys
from pathlib import Path

import pytest

TEST = """
from tests.lacking import lacking

def test_one():
    lacking("the dark side of the moon")

def test_another():
    lacking("the dark side of the moon")
"""


@pytest.mark.parametrize("processes", [0, 2])
def test_what_is_lacking_is_skipped_and_told_once_at_the_end(tmp_path: Path, processes: int) -> None:
    (tmp_path / "test_moon.py").write_text(TEST)
    ended = subprocess.run(
        (sys.executable, "-m", "pytest", "-p", "tests.conftest", f"--numprocesses={processes}", str(tmp_path)),
        cwd=Path(__file__).parents[1],
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "2 skipped" in ended.stdout
    assert ended.stdout.count("NOT TESTED HERE: the dark side of the moon\n") == 1
