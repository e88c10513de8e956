"""The cases one after the other, each printed when it is done."""

from collections.abc import Callable, Sequence
from pathlib import Path

from backup.errors import UsageError
from backup.report import Report
from bench.backups import big, drilled, growth, many, small, zstd
from bench.ground import Ground, describe_machine, lay_ground
from bench.limits import memory, wide
from bench.migrations import guard, rehearsal
from bench.outcome import Outcome, show
from bench.restores import restore

_ROUNDS = 5
_QUICK = 50

CASES: dict[str, Callable[[Ground], Outcome]] = {
    case.__name__: case for case in (big, drilled, small, many, growth, restore, zstd, wide, memory, guard, rehearsal)
}


def run_cases(names: Sequence[str], *, quick: bool = False, folder: Path | None = None) -> list[Outcome]:
    """Run these cases, all of them where none is named; `quick` tries whether they run and measures nothing.

    Raises:
        UsageError: there is no such case.
    """
    if unknown := [name for name in names if name not in CASES]:
        raise UsageError(f"There is no case {', '.join(unknown)}; there are {', '.join(CASES)}.")
    report, outcomes = Report(), []
    rounds, scale = (1, _QUICK) if quick else (_ROUNDS, 1)
    with lay_ground(rounds=rounds, scale=scale, folder=folder) as ground:
        report.say("\n".join(describe_machine(ground)))
        if quick:
            report.warn(f"QUICK: one round with one row in {_QUICK}. These figures say nothing.")
        for name in names or CASES:
            outcomes.append(CASES[name](ground))
            show(outcomes[-1], report)
    return outcomes
