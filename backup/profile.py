"""Where a run's seconds went: its steps, each with those that are parts of it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

_START = "Starting"
_REST = "All else"


@dataclass(kw_only=True)
class Step:
    """A step that was taken, in seconds, with its parts in their order; one that comes again is added up."""

    name: str
    seconds: float = 0.0
    parts: dict[str, "Step"] = field(default_factory=dict)

    def __iter__(self) -> Iterator[tuple[int, "Step"]]:
        """Each step in it, after what it is a part of, with its depth."""
        for part in self.parts.values():
            yield 0, part
            yield from ((depth + 1, inner) for depth, inner in part)


_within: ContextVar[Step | None] = ContextVar("_within", default=None)
"""The step that the run is in; none in a thread, whose seconds are not those of the run."""


@contextmanager
def step(name: str) -> Iterator[None]:
    """Add the block's seconds to the profile, where one is kept; also when it fails."""
    whole = _within.get()
    if whole is None:
        yield
        return
    taken = whole.parts.setdefault(name, Step(name=name))
    token, began = _within.set(taken), time.monotonic()
    try:
        yield
    finally:
        taken.seconds += time.monotonic() - began
        _within.reset(token)


class Profile:
    """The profile of this process, from its start on."""

    def __init__(self) -> None:
        # What it took of the processor is nearly all that it took: it read modules that are in memory.
        start = time.process_time()
        self._began = time.monotonic() - start
        self._run = Step(name="", parts={_START: Step(name=_START, seconds=start)})
        _within.set(self._run)

    def end(self) -> Step:
        """The whole run, with what is in none of its steps as the last one."""
        _within.set(None)
        run = self._run
        run.seconds = time.monotonic() - self._began
        run.parts[_REST] = Step(name=_REST, seconds=max(0.0, run.seconds - sum(p.seconds for p in run.parts.values())))
        return run
