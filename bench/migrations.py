"""The cases around a migration: what the guard holds up, and what a rehearsal adds."""

import json
import statistics
import sys
from pathlib import Path

from bench.data import make_many
from bench.ground import Ground
from bench.measure import Way, interleave, run_once
from bench.outcome import Goal, Outcome

_STRUCK = 200


def guard(ground: Ground) -> Outcome:
    """500 guarded tables, of which 200 are struck, each with a delta of 1,000 rows, while a writer writes."""
    outcome = Outcome(title="guard")
    seconds = {}
    for guarded in (False, True):
        make_many(ground, tables=500, rows=50, catalog=500)
        file = ground.folder / f"{guarded}.json"
        strikes = (sys.executable, "-m", "bench.strikes", str(_STRUCK), str(file))
        way = ground.ours("guard", "run-safe", "--yes", "--no-rehearse", "--", *strikes)
        if not guarded:
            way = Way(name="unguarded", argv=strikes, environment=way.environment, cwd=way.cwd)
        here = {**way.environment, "PYTHONPATH": str(Path(__file__).parents[1])}
        run_once(Way(name=way.name, argv=way.argv, environment=here, cwd=way.cwd, exit_codes=(6,) if guarded else (0,)))
        seconds[guarded] = {kind: [1000 * s for s in took] for kind, took in json.loads(file.read_text()).items()}
    for kind, delays in seconds[True].items():
        outcome.notes.append(f"{kind}: {_delays(delays)}; unguarded {_delays(seconds[False][kind])}")
        outcome.goals.append(Goal(what=f"{kind}, 99th percentile", value=_percentile(delays), limit=50, unit="ms"))
    return outcome


def rehearsal(ground: Ground) -> Outcome:
    """A migration of psql's on a schema of 200 tables, five of them CDC tables."""
    make_many(ground, tables=5, rows=1_000, catalog=200)
    script = ground.folder / "migration.sql"
    script.write_text(
        "create table new_table (id int primary key);\nalter table application_00000 add column more text;\n"
    )
    psql = ("psql", "-X", "-f", str(script))
    undo = "drop table if exists new_table; alter table application_00000 drop column if exists more"
    outcome = Outcome(
        title="rehearsal",
        runs=interleave(
            (
                ground.ours("backup and rehearse", "rehearse", "--", *psql, drill=True),
                ground.ours("backup", "backup", drill=True),
                ground.shell("the command", " ".join(psql), before=lambda: ground.execute(undo)),
            ),
            ground.rounds,
        ),
    )
    added = 2 * outcome.seconds("backup and rehearse") - sum(map(outcome.seconds, outcome.runs))
    outcome.goals.append(Goal(what="what a rehearsal adds around the command", value=added, limit=5, unit="s"))
    return outcome


def _delays(values: list[float]) -> str:
    middle, most = statistics.median(values), max(values)
    return f"{len(values):,} times, median {middle:.1f} ms, 99th percentile {_percentile(values):.1f}, most {most:.1f}"


def _percentile(values: list[float]) -> float:
    return statistics.quantiles(values, n=100)[98]
