"""The cases of a backup: big, drilled, compressed, small, of many tables, and how its time grows."""

import math
from collections.abc import Sequence
from pathlib import Path

from bench.data import BIG, make_big, make_many
from bench.ground import Ground
from bench.measure import Run, interleave, median
from bench.outcome import Goal, Outcome
from bench.peers import copy_out, naive, one_dump

OURS = "cdc-backup backup"
ONE = "one pg_dump -Fd -j2"
NAIVE = "naive: psql count, pg_dump -t"
COPY = "COPY by psql, two at a time"


def big(ground: Ground) -> Outcome:
    """Three tables of 1.2 million rows, about 700 MB of INSERT text, without a drill."""
    make_big(ground)
    ways = (
        ground.ours(OURS, "backup"),
        ground.shell(NAIVE, naive(BIG)),
        ground.shell(ONE, one_dump()),
        ground.shell(COPY, copy_out(BIG)),
    )
    outcome = Outcome(title="big", runs=interleave(ways, ground.rounds))
    outcome.notes.append(f"a session is {_bytes(ways[0].cwd / 'sessions') / 1e6:,.0f} MB")
    outcome.goal(OURS, NAIVE, 0.60)
    outcome.goal(OURS, ONE, 1.15)
    return outcome


def drilled(ground: Ground) -> Outcome:
    """The same with the drill, as INSERT statements and as COPY blocks."""
    make_big(ground)
    plain, proven = f"{OURS}, sql", f"{OURS}, sql, drilled"
    copied, copied_proven = f"{OURS}, copy", f"{OURS}, copy, drilled"
    ways = (
        ground.ours(plain, "backup"),
        ground.ours(proven, "backup", drill=True),
        ground.ours(copied, "backup", format="copy"),
        ground.ours(copied_proven, "backup", format="copy", drill=True),
    )
    outcome = Outcome(title="big, drilled", runs=interleave(ways, ground.rounds))
    outcome.goal(proven, plain, 4.0)
    outcome.goal(copied_proven, copied, 2.2)
    return outcome


def small(ground: Ground) -> Outcome:
    """Three tables of 100 rows in a catalog of 100 tables."""
    tables = make_many(ground, tables=3, rows=100, catalog=100)
    ways = (
        ground.ours(OURS, "backup"),
        ground.shell(NAIVE, naive(tables)),
        ground.shell(ONE, one_dump()),
        ground.shell(COPY, copy_out(tables)),
        ground.ours("cdc-backup --list", "--list"),
    )
    outcome = Outcome(title="small", runs=interleave(ways, 2 * ground.rounds))
    more = outcome.seconds(OURS) - outcome.seconds(ONE)
    outcome.goals.append(Goal(what=f"{OURS} - {ONE}", value=more, limit=0.9, unit="s"))
    return outcome


def many(ground: Ground) -> Outcome:
    """500 tables of 50 rows in a catalog of 2,000 tables, and of 20,000."""
    outcome = Outcome(title="many: 500 tables of 50 rows")
    runs: dict[str, list[Run]] = {}
    for catalog, sample in ((2_000, 25), (20_000, 5)):
        tables = make_many(ground, tables=500, rows=50, catalog=max(500, ground.rows(catalog)))
        ours, one, slow = (f"{way}, catalog of {catalog:,}" for way in (OURS, ONE, NAIVE))
        part = f"naive, {sample} tables, catalog of {catalog:,}"
        ways = (
            ground.ours(ours, "backup"),
            ground.shell(one, one_dump()),
            ground.shell(part, naive(tables[:sample])),
        )
        measured = interleave(ways, ground.rounds)
        runs |= measured
        outcome.runs = runs
        outcome.estimates[slow] = median(measured[part]) * len(tables) / sample
        outcome.goal(ours, slow, 0.03)
        outcome.goal(ours, one, 2.5)
    few, more = (
        (outcome.seconds(f"{OURS}, catalog of {n:,}"), outcome.seconds(f"{ONE}, catalog of {n:,}"))
        for n in (2_000, 20_000)
    )
    added = Goal(what="what the catalog adds to ours / to one", value=(more[0] - few[0]) / (more[1] - few[1]), limit=2)
    outcome.goals.append(added)
    outcome.notes.append("naive was measured with the first tables alone: each costs the same, a process of its own")
    return outcome


def growth(ground: Ground) -> Outcome:
    """50, 500, 5,000 tables of 50 rows; then rows up to 2.4 million in one table."""
    runs: dict[str, list[Run]] = {}
    tables, rows = (50, 500, 5_000), (150_000, 600_000, 2_400_000)
    for count in tables:
        make_many(ground, tables=ground.rows(count), rows=50, catalog=ground.rows(count))
        runs |= interleave([ground.ours(f"{count:,} tables", "backup")], ground.rounds)
    for count in rows:
        make_big(ground, {"_cdc_users": count})
        runs |= interleave([ground.ours(f"{count:,} rows", "backup")], ground.rounds)
    outcome = Outcome(title="growth", runs=runs)
    for what, counts in (("tables", tables), ("rows", rows)):
        seconds = [outcome.seconds(f"{count:,} {what}") for count in counts]
        outcome.goals.append(Goal(what=f"exponent of {what}", value=exponent(counts, seconds), limit=1.05))
    each = (outcome.seconds(f"{rows[2]:,} rows") - outcome.seconds(f"{rows[1]:,} rows")) / (rows[2] - rows[1])
    for millions in (1, 10, 100):
        more = outcome.seconds(f"{rows[2]:,} rows") + each * (millions * 1e6 - rows[2])
        outcome.notes.append(f"{millions} million rows, by the last two points: {more:,.0f} s")
    return outcome


def zstd(ground: Ground) -> Outcome:
    """Big, compressed."""
    make_big(ground)
    packed = f"{OURS}, zstd"
    ways = (ground.ours(OURS, "backup"), ground.ours(packed, "backup", compress="zstd"))
    outcome = Outcome(title="zstd", runs=interleave(ways, ground.rounds))
    outcome.goal(packed, OURS, 1.35)
    part = _bytes(ways[1].cwd / "sessions") / _bytes(ways[0].cwd / "sessions")
    outcome.goals.append(Goal(what="its bytes / those of the plain session", value=part, limit=1 / 8))
    return outcome


def exponent(counts: Sequence[int], seconds: Sequence[float]) -> float:
    """The k of `a + b * n ** k` through three points whose counts have one ratio; what is fixed does not flatter it."""
    (one, two, three), ratio = seconds, counts[1] / counts[0]
    if not one < two < three:  # noise, with so few rows
        return math.nan
    return math.log((three - two) / (two - one)) / math.log(ratio)


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.sql*"))
