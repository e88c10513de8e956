"""The cases that have no peer: wide rows, and memory."""

from collections.abc import Callable
from functools import partial

from bench.data import BIG, make_big, make_many, make_wide
from bench.ground import Ground
from bench.measure import Way, run_once
from bench.outcome import Goal, Outcome

_PSQL = 100.0
_OURS = 150.0
_MB = 1e6


def wide(ground: Ground) -> Outcome:
    """400 rows of 1 MiB, and one row of 16 MB: backed up, proven, restored; psql's peak."""
    outcome = Outcome(title="wide")
    for what, rows, size, limited in (
        ("400 rows of 1 MiB", 400, 1 << 20, True),
        ("one row of 16 MB", 1, 16_000_000, False),
    ):
        make_wide(ground, "_cdc_wide", ground.rows(rows), size)
        backup = ground.ours(what, "backup", drill=True)
        run_once(backup)
        ground.execute("drop table _cdc_wide")
        run = run_once(
            Way(name=what, argv=(backup.argv[0], "restore"), environment=backup.environment, cwd=backup.cwd), watch=True
        )
        with ground.connect() as connection:
            found = connection.execute("select count(*), min(length(content)) from _cdc_wide").fetchone()
        back = found == (ground.rows(rows), size)
        outcome.notes.append(
            f"{what}: {'restored' if back else 'NOT RESTORED'}; psql's peak {run.peaks['psql'] / _MB:.0f} MB,"
            f" ours {run.peaks['cdc-backup'] / _MB:.0f} MB"
        )
        outcome.goals.append(Goal(what=f"{what}: rows that are not back", value=float(not back), limit=0))
        if limited:
            outcome.goals.append(
                Goal(what=f"{what}: psql's peak", value=run.peaks["psql"] / _MB, limit=_PSQL, unit="MB")
            )
    return outcome


def memory(ground: Ground) -> Outcome:
    """Our process' peak in a drilled backup: big, a tenth of it, one row of 16 MB, 5,000 tables."""
    outcome, peaks = Outcome(title="memory"), dict[str, float]()
    grounds: dict[str, Callable[[], object]] = {
        "big": partial(make_big, ground),
        "a tenth of big": partial(make_big, ground, {name: rows // 10 for name, rows in BIG.items()}),
        "one row of 16 MB": partial(make_wide, ground, "_cdc_wide", 1, 16_000_000),
        "5,000 tables": partial(make_many, ground, tables=ground.rows(5_000), rows=10, catalog=0),
    }
    for what, make in grounds.items():
        make()
        run = run_once(ground.ours(what, "backup", drill=True), watch=True)
        children = ", ".join(f"{name} {peak / _MB:.0f}" for name, peak in run.peaks.items() if name != "cdc-backup")
        outcome.notes.append(
            f"{what}: largest of its children, in MB: {children}; of all together {run.peak / _MB:.0f}"
        )
        peaks[what] = run.peaks["cdc-backup"] / _MB
        outcome.goals.append(Goal(what=what, value=peaks[what], limit=_OURS, unit="MB"))
    outcome.goals.append(Goal(what="big / a tenth of it", value=peaks["big"] / peaks["a tenth of big"], limit=1.1))
    return outcome
