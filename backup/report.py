"""What a person sees: lines, tables, progress, questions; and the same facts as JSON for a machine."""

import json
import os
import select
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table as Grid

from backup.profile import Step, step
from backup.terminal import plain_terminal

_NO_EDGE = 10_000
_GAP = 2
"""Blanks between the columns of a table."""

_BAR = 40
"""Characters of the bar of a step that took all of a run, at most."""

_PATIENCE = 1.0
"""Seconds after which a step says how far it is."""

_ANSWER = 60.0
"""Seconds for an answer to a question for which a statement waits on the server, and whoever waits for that."""


class _Console(Console):
    """A console whose reader may go away: what is being done matters more than that somebody reads of it."""

    def on_broken_pipe(self) -> None:
        self.quiet = True


class Report:
    """Speaks to a person on the terminal; with `as_json` on stderr, so that stdout is left to `emit`."""

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json
        stream = sys.stderr if as_json else sys.stdout
        # Names of tables and paths are not markup; a file and the log of a CI run have no right edge.
        terminal = stream.isatty()
        # Rich would take FORCE_COLOR, which CI sets, for a terminal, and draw progress into the log.
        self._console = _Console(
            stderr=as_json,
            markup=False,
            highlight=False,
            emoji=False,
            force_terminal=terminal,
            width=None if terminal else _NO_EDGE,
        )

    @property
    def attended(self) -> bool:
        """Whether somebody is there who can see a question and answer it."""
        return sys.stdin is not None and sys.stdin.isatty() and self._console.is_terminal

    def say(self, text: str, style: str = "") -> None:
        """A line, or several; control characters in names are shown, not obeyed."""
        try:
            self._console.print("\n".join(map(visible, text.split("\n"))), style=style or None, soft_wrap=True)
        except OSError:  # the terminal is gone
            self._console.quiet = True

    def warn(self, text: str) -> None:
        """A line that must not be overlooked."""
        self.say(text, "bold yellow")

    def fail(self, text: str) -> None:
        """Why it did not work."""
        self.say(text, "bold red")

    def table(self, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """A table whose columns are text; one of numbers is named by a heading that begins with `#`.

        Nothing of it is cut away: where not even its words stand beside each other, they stand below each other.
        """
        grid = Grid(box=None, pad_edge=False, padding=(0, _GAP, 0, 0))
        for number, heading in enumerate(headings):
            # The first names the thing: cut in two it could not be copied.
            right = heading.startswith("#")
            grid.add_column(
                heading.removeprefix("#"),
                justify="right" if right else "left",
                no_wrap=right or not number,
                overflow="fold",
            )
        names = [heading.removeprefix("#") for heading in headings]
        lines = [tuple(map(visible, row)) for row in rows]
        columns = zip(names, *lines, strict=True)
        least = [_least(cells, breaks=not c.no_wrap) for cells, c in zip(columns, grid.columns, strict=True)]
        if sum(least) + _GAP * (len(least) - 1) > self._console.width:
            self.say("\n".join(chain.from_iterable(_upright(names, line) for line in lines)))
            return
        if lines and all(column.no_wrap for column in grid.columns):
            # A cell a column instead of one a row looks the same where no line is broken, in a fifth of the time.
            lines = [tuple(map("\n".join, zip(*lines, strict=True)))]
        for line in lines:
            grid.add_row(*line)
        self._console.print(grid)

    def profile(self, run: Step) -> None:
        """Where the seconds of a run went: a bar a step, a part below what it is a part of."""
        self.say(f"Where {run.seconds:.2f} s went:")
        steps = [("  " * depth + taken.name, taken.seconds) for depth, taken in run]
        room = self._console.width - max(cell_len(name) for name, _ in steps) - len("seconds") - 2 * _GAP
        bar = max(1, min(_BAR, room))
        self.table(
            ("step", "#seconds", ""),
            [(name, f"{seconds:.2f}", "█" * round(bar * seconds / run.seconds)) for name, seconds in steps],
        )

    def ask(self, question: str, *, default: bool = True) -> bool:
        """A question to which Enter means the default; Ctrl-D means no."""
        from rich.prompt import Confirm

        try:
            return Confirm.ask(question, console=self._console, default=default)
        except EOFError:
            return False

    def ask_meanwhile(self, question: str, over: threading.Event) -> bool:
        """A question while a child has the terminal; no, unless somebody says yes within a minute and before `over`.

        The child may have left the terminal in a mode in which nobody could type an answer.
        """
        with plain_terminal(sys.stdin.fileno()):
            self.say(f"\n{question} [y/n]", "bold yellow")
            deadline = time.monotonic() + _ANSWER
            while time.monotonic() < deadline and not over.is_set():
                if select.select([sys.stdin], [], [], 0.1)[0]:
                    return sys.stdin.readline().strip().lower() in ("y", "yes")
            self.say("No answer: no.")
            return False

    @contextmanager
    def step(self, what: str, total: int | None = None, done: Callable[[], int] | None = None) -> Iterator[None]:
        """Show, once it takes longer than a second, what is being done; `done()` of `total` bytes."""
        over = threading.Event()
        show = self._bar if self._console.is_terminal else self._lines
        watcher = threading.Thread(target=show, args=(what, total, done or (lambda: 0), over), daemon=True)
        watcher.start()
        try:
            with step(what):
                yield
        finally:
            over.set()
            watcher.join()

    def emit(self, value: dict[str, Any]) -> None:
        """The one JSON object on stdout; where its reader went away, the exit code is what is left to say."""
        try:
            if self.as_json:
                sys.stdout.write(json.dumps(value) + "\n")
            sys.stdout.flush()
        except BrokenPipeError:
            # what is left in the buffer would fail once more at the interpreter's end, with an exit code of its own
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def _bar(self, what: str, total: int | None, done: Callable[[], int], over: threading.Event) -> None:
        if over.wait(_PATIENCE):
            return
        # Most runs are over by now, and never need it.
        from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

        columns = [TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()]
        if total:
            columns.insert(2, DownloadColumn())
        with Progress(*columns, console=self._console, transient=True) as progress:
            task: TaskID = progress.add_task(visible(what), total=total or None)
            most = 0
            while not over.wait(0.2):
                most = max(most, done())  # a folder shrinks when what is in it is compressed
                progress.update(task, completed=most)

    def _lines(self, what: str, total: int | None, done: Callable[[], int], over: threading.Event) -> None:
        pause = _PATIENCE
        while not over.wait(pause):
            self.say(f"{what}: {decimal(done())} of about {decimal(total)}" if total else f"{what} …")
            pause = min(pause * 2, 60.0)


def _least(cells: Sequence[str], *, breaks: bool) -> int:
    """The characters that a column needs, between whose words a line may break or not."""
    return max((cell_len(part) for cell in cells for part in (cell.split() if breaks else (cell,))), default=0)


def _upright(names: Sequence[str], line: Sequence[str]) -> Iterator[str]:
    """A line of a table from top to bottom."""
    margin = max(map(len, names[1:]), default=0)
    yield line[0]
    for name, cell in zip(names[1:], line[1:], strict=True):
        if cell:
            yield f"  {name:{margin}}  {cell}"


def size(count: int) -> str:
    """Bytes for people: 1.2 MB."""
    return decimal(count)


def plural(count: int, noun: str) -> str:
    """`1 row`, `1,234 rows`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def visible(text: str) -> str:
    """A text of one line: control characters, a line's end among them, are shown instead of obeyed."""
    return "".join(c if c.isprintable() or c == "\t" else repr(c)[1:-1] for c in text)
