"""What PostgreSQL's programs must be told in secret: in a file that nobody else can read."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path

from backup.lock import locked

_PREFIX = "cdc-backup-private-"

_kept = ExitStack()
atexit.register(_kept.close)


@cache
def private_file(text: str) -> Path:
    """A file of mode 0600 with this text, removed when the process ends; one for each text.

    What a process left that was killed is removed by the next one that needs such a file.
    """
    descriptor, name = tempfile.mkstemp(dir=_folder())
    with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
        file.write(text)
    return Path(name)


@cache
def _folder() -> Path:
    place = Path(tempfile.gettempdir())
    for left in place.glob(f"{_PREFIX}*"):
        # An OSError: its owner lives, or is another user. An empty one may not be locked yet.
        with suppress(OSError), locked(left, wait=False):
            if any(left.iterdir()):
                shutil.rmtree(left)
    return _kept.enter_context(_owned(place))


@contextmanager
def _owned(place: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
    try:
        with locked(folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
