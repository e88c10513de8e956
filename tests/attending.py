"""A process of its own that attends a command, so that it has streams, signals and a terminal of its own.

`python -m tests.attending RESULT OPTIONS COMMAND…`: OPTIONS is JSON, the keyword arguments of `attend` and
`grace`, the seconds between SIGTERM and SIGKILL; RESULT gets what `attend` returned, as JSON.
"""

import dataclasses
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from backup import process

ROOT = Path(__file__).parents[1]
PATIENCE = 180
"""Seconds after which a test that hangs fails instead."""

_WATCHED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGWINCH)


def python(code: str) -> tuple[str, ...]:
    """A command line that runs the code."""
    return (sys.executable, "-c", code)


class Leash:
    """A pipe with a name that a process holds open while it lives, and says a byte on when it is ready."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "leash"
        os.mkfifo(self._path)
        self._end = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK)

    @property
    def held(self) -> str:
        """The Python code of a process that holds it."""
        return f"leash = open({str(self._path)!r}, 'wb', buffering=0); leash.write(b'!')\n"

    def read(self) -> bytes:
        """The byte that says ready; later nothing, once nobody who held it lives."""
        ready, _, _ = select.select([self._end], [], [], PATIENCE)
        assert ready, "the process still lives"
        return os.read(self._end, 1)


class Attending:
    """Runs `attend` in a process of its own, and knows what that returned."""

    def __init__(self, folder: Path) -> None:
        self._result = folder / "attended.json"

    def argv(self, code: str, **options: Any) -> tuple[str, ...]:
        """The command line of a process that attends the Python code."""
        told = (str(self._result), json.dumps(options))
        return (sys.executable, "-m", "tests.attending", *told, *python(code))

    @property
    def result(self) -> dict[str, Any]:
        """What `attend` returned, and whether the handlers of the signals were `restored`."""
        read: dict[str, Any] = json.loads(self._result.read_text())
        return read

    def run(self, code: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
        """Attends the code with streams that are no terminal; on stdin there is something to read."""
        return subprocess.run(
            self.argv(code, **options),
            cwd=ROOT,
            input=b"something",
            capture_output=True,
            timeout=PATIENCE,
            check=True,
        )

    @contextmanager
    def started(self, code: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
        """Attends the code without a terminal while the block runs, and to its end."""
        with subprocess.Popen(
            self.argv(code, **options),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        ) as attending:
            try:
                yield attending
                attending.wait(timeout=PATIENCE)
            finally:
                attending.kill()


def _attend(result: str, options: str, *argv: str) -> None:
    keywords = json.loads(options)
    process.GRACE = keywords.pop("grace", process.GRACE)
    before = [signal.getsignal(number) for number in _WATCHED]
    attended = process.attend(argv, environment=os.environ, cwd=Path.cwd(), **keywords)
    restored = [signal.getsignal(number) for number in _WATCHED] == before
    Path(result).write_text(json.dumps(dataclasses.asdict(attended) | {"restored": restored}))


if __name__ == "__main__":
    _attend(*sys.argv[1:])
