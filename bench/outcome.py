"""What a case came to: the ways side by side, and the goals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from backup.report import Report
from bench.measure import Run, median


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What was measured against what it may be at most, in `unit`; a ratio has none."""

    what: str
    value: float
    limit: float
    unit: str = ""

    @property
    def met(self) -> bool:
        """Whether it is not more than it may be."""
        return self.value <= self.limit


@dataclass(kw_only=True)
class Outcome:
    """A case's title, its ways (the ratios are to the first), its goals, and what must be said to read them."""

    title: str
    runs: Mapping[str, Sequence[Run]] = field(default_factory=dict)
    estimates: dict[str, float] = field(default_factory=dict)
    goals: list[Goal] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def seconds(self, way: str) -> float:
        """The median of a way, or what was extrapolated for it."""
        return self.estimates[way] if way in self.estimates else median(self.runs[way])

    def ratio(self, way: str, other: str) -> float:
        """How many times as long a way took as another."""
        return self.seconds(way) / self.seconds(other)

    def goal(self, way: str, other: str, limit: float) -> None:
        """Add that a way may take so many times as long as another."""
        self.goals.append(Goal(what=f"{way} / {other}", value=self.ratio(way, other), limit=limit))


def show(outcome: Outcome, report: Report) -> None:
    """Print a case as tables."""
    report.say(f"\n{outcome.title}", "bold")
    ways = [*outcome.runs, *outcome.estimates]
    if ways:
        report.table(
            ("", "#median", "#from", "#to", "#ratio"),
            [
                (
                    way + (" (extrapolated)" if way in outcome.estimates else ""),
                    f"{outcome.seconds(way):.2f} s",
                    *(
                        ("", "")
                        if way in outcome.estimates
                        else (f"{extreme(run.seconds for run in outcome.runs[way]):.2f}" for extreme in (min, max))
                    ),
                    f"{outcome.ratio(way, ways[0]):.2f}",
                )
                for way in ways
            ],
        )
    for note in outcome.notes:
        report.say(note)
    for goal in outcome.goals:
        unit = f" {goal.unit}" if goal.unit else ""
        verdict = "met" if goal.met else "MISSED"
        report.say(f"goal: {goal.what}: {goal.value:.3g}{unit}, at most {goal.limit:g}{unit}: {verdict}")
