"""A temporary folder that belongs to this process, and what those of dead processes left behind."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from backup.lock import locked

_PREFIX = "cdc-backup-server-"
_MARK = "owner"


@contextmanager
def owned_folder(place: Path, user: str | None, group: str | None) -> Iterator[Path]:
    """A folder in `place` with an empty `data` in it, removed on leaving and marked as ours until then.

    `data` belongs to `user` and `group` (ours where they are None), with access for nobody else. The mark
    comes after the lock, so that a marked folder which can be locked has no owner any more.
    """
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place)).resolve()
    with locked(folder):
        try:
            data = folder / "data"
            data.mkdir(mode=0o700)
            if user is not None:
                folder.chmod(0o711)
                shutil.chown(data, user, group)
            (folder / _MARK).write_text(f"process {os.getpid()}\n", encoding="utf-8")
            yield folder
        finally:
            _remove(folder)


def clear_dead(place: Path, stop: Callable[[Path], None]) -> None:
    """Remove the folders in `place` whose owner is dead, after `stop` has seen to their `data`."""
    for folder in place.glob(f"{_PREFIX}*"):
        # An OSError: its owner lives, or removes it right now.
        with suppress(OSError):
            if folder.lstat().st_uid == os.geteuid():
                with locked(folder, wait=False):
                    if (folder / _MARK).exists():
                        stop(folder / "data")
                        _remove(folder)


def _remove(folder: Path) -> None:
    # The mark goes after the data, so that what cannot be removed now is cleared by the next start.
    with suppress(OSError):
        if (folder / "data").exists():
            shutil.rmtree(folder / "data")
        shutil.rmtree(folder)
