"""The benchmarks measure what they say; what they find out is no test."""

import sys
from pathlib import Path

import pytest

from backup.errors import UsageError
from bench.backups import exponent
from bench.measure import BenchError, Way, interleave, median, run_once
from bench.run import CASES, run_cases
from tests.lacking import lacking


def way(folder: Path, name: str, program: str, **more: object) -> Way:
    """A way that is a line of Python; it may write into its folder."""
    return Way(name=name, argv=(sys.executable, "-c", program), environment={}, cwd=folder, **more)  # type: ignore[arg-type]


def test_the_smallest_case_measures_every_way_and_its_goal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (outcome,) = run_cases(["small"], quick=True)
    assert [len(runs) for runs in outcome.runs.values()] == [2] * 5
    assert all(run.seconds > 0 and run.peak > 0 for runs in outcome.runs.values() for run in runs)
    said = capfd.readouterr().out
    assert "QUICK" in said
    assert f"goal: {outcome.goals[0].what}" in said
    assert all(name in said for name in outcome.runs)


def test_ways_take_turns_and_each_is_prepared_anew(tmp_path: Path) -> None:
    log = tmp_path / "log"

    def written(name: str) -> Way:
        def before() -> None:
            with log.open("a") as file:
                file.write(f"before {name}\n")

        return way(tmp_path, name, f"open('log', 'a').write('{name}\\n')", before=before)

    runs = interleave((written("a"), written("b")), 2)
    assert log.read_text().split("\n") == ["before a", "a", "before b", "b"] * 2 + [""]
    assert {name: len(taken) for name, taken in runs.items()} == {"a": 2, "b": 2}
    assert median(runs["a"]) <= max(run.seconds for run in runs["a"])


def test_a_way_that_fails_is_no_measurement(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="broken ended with exit code 3:\nwhy"):
        run_once(way(tmp_path, "broken", "import sys; print('why'); sys.exit(3)"))


def test_the_peak_of_a_process_is_told_from_that_of_its_child(tmp_path: Path) -> None:
    if sys.platform != "linux":
        lacking("the peak memory of one process among others (there is no /proc)")
    child = "x = bytearray(100_000_000); import time; time.sleep(0.5)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    run = run_once(
        Way(name="a", argv=("sh", "-c", '"$0" -c "$1"; exit', sys.executable, parent), environment={}, cwd=tmp_path),
        watch=True,
    )
    assert run.peaks["sh"] < 20_000_000 < 100_000_000 <= run.peak
    assert max(run.peaks.values()) >= 100_000_000


def test_what_is_fixed_does_not_flatter_the_exponent() -> None:
    counts = (50, 500, 5_000)
    assert exponent(counts, [7 + 2 * n for n in counts]) == pytest.approx(1)
    assert exponent(counts, [7 + 2 * n**2 for n in counts]) == pytest.approx(2)


def test_a_case_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(UsageError, match=f"no case huge; there are {', '.join(CASES)}"):
        run_cases(["huge"])
