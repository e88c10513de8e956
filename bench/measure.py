"""Whole processes, timed from the command line and one after the other, with their peak memory."""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_LOOK_EVERY = 0.02
_UNIT = 1 if sys.platform == "darwin" else 1024
"""Bytes in which `ru_maxrss` counts (getrusage(2) of macOS and of Linux)."""


class BenchError(Exception):
    """A command of a benchmark failed, so that its time says nothing."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run: its seconds, and the peak memory in bytes of the command and of whatever it started and waited for.

    `peaks` has them one by one, by the program's name and only where that was asked for, the largest of each.
    """

    seconds: float
    peak: int
    peaks: Mapping[str, int]
    output: str


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to do a job: a command, and what is done before each of its runs and not timed."""

    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)
    cwd: Path
    before: Callable[[], None] = lambda: None
    exit_codes: tuple[int, ...] = (0,)


def median(runs: Iterable[Run]) -> float:
    """The median of their seconds."""
    return statistics.median(run.seconds for run in runs)


def interleave(ways: Sequence[Way], rounds: int) -> dict[str, list[Run]]:
    """Run each way once, then each again, so many rounds: what disturbs the machine meanwhile disturbs all."""
    runs: dict[str, list[Run]] = {way.name: [] for way in ways}
    for _ in range(rounds):
        for way in ways:
            runs[way.name].append(run_once(way))
    return runs


def run_once(way: Way, *, watch: bool = False) -> Run:
    """Run the way once; with `watch` the peak memory of every process of it is read from /proc while it runs.

    Raises:
        BenchError: it failed.
    """
    way.cwd.mkdir(parents=True, exist_ok=True)
    way.before()
    if hasattr(os, "sync"):
        os.sync()  # else it would wait for what the one before left to be written
    peaks: dict[str, int] = {}
    with tempfile.TemporaryFile() as said:
        began = time.perf_counter()
        child = subprocess.Popen(
            way.argv, env=way.environment, cwd=way.cwd, stdin=subprocess.DEVNULL, stdout=said, stderr=said
        )
        while watch and os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            _note_peaks(child.pid, peaks)
            time.sleep(_LOOK_EVERY)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - began
        child.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        output = said.read().decode(errors="replace")
    if child.returncode not in way.exit_codes:
        raise BenchError(f"{way.name} ended with exit code {child.returncode}:\n{output[-2000:]}")
    return Run(seconds=seconds, peak=usage.ru_maxrss * _UNIT, peaks=peaks, output=output)


def emptied(folder: Path) -> Callable[[], None]:
    """What makes sure that the folder is there and empty."""

    def empty() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)

    return empty


def _note_peaks(pid: int, peaks: dict[str, int]) -> None:
    """Note the largest memory (VmHWM) that a process and its children had up to now."""
    process = Path("/proc", str(pid))
    try:
        lines = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
        name, peak = lines["Name"].strip(), int(lines["VmHWM"].split()[0]) * 1024
        children = [child for task in (process / "task").iterdir() for child in (task / "children").read_text().split()]
    except (OSError, KeyError):  # it is over
        return
    peaks[name] = max(peak, peaks.get(name, 0))
    for child in children:
        _note_peaks(int(child), peaks)
