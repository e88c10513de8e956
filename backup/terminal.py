"""Streams of a child that are shown on ours as they come, and remembered."""

import errno
import fcntl
import os
import select
import termios
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

KEPT = 256 * 1024
LINGER = 1.0
"""Seconds for which the streams of a dead child are read on while a grandchild holds them open."""


class Copy:
    """A stream of a child, copied byte by byte to one of ours.

    Where ours is a terminal the child writes to one of its own, so that it draws and asks as it would on
    ours; else to a pipe. `child_end` is the descriptor to give to the child.
    """

    def __init__(self, target: int) -> None:
        self._target: int | None = target
        self._terminal = target if os.isatty(target) else None
        self._tail = bytearray()
        if self._terminal is None:
            self._readable, self.child_end = os.pipe()
            return
        modes = termios.tcgetattr(self._terminal)
        # what the child writes is translated once, by the terminal that shows it
        modes[1] &= ~termios.OPOST
        self._readable, self.child_end = os.openpty()
        termios.tcsetattr(self.child_end, termios.TCSANOW, modes)
        self.copy_size()

    @property
    def text(self) -> str:
        """The last 256 KiB, escape sequences included."""
        return self._tail.decode(errors="replace")

    def fileno(self) -> int:
        """What `select` finds readable when the child has written."""
        return self._readable

    def copy_size(self) -> bool:
        """Gives the child's terminal the size of ours; False where there is nothing to give."""
        if self._terminal is None:
            return False
        ours = fcntl.ioctl(self._terminal, termios.TIOCGWINSZ, bytes(8))
        if fcntl.ioctl(self._readable, termios.TIOCGWINSZ, bytes(8)) == ours:
            return False
        fcntl.ioctl(self._readable, termios.TIOCSWINSZ, ours)
        return True

    def forward(self) -> bool:
        """Shows and remembers what can be read now; False at the end of the stream."""
        try:
            data = os.read(self._readable, 65536)
        except OSError as error:
            # Linux's way to say that nobody has the terminal open any more; elsewhere no bytes come
            if error.errno != errno.EIO:
                raise
            return False
        self._tail += data
        del self._tail[:-KEPT]
        self._show(data)
        return bool(data)

    def release(self) -> None:
        """Leaves the child's end to the child alone, so that the stream ends with it."""
        if self.child_end >= 0:
            os.close(self.child_end)
            self.child_end = -1

    def close(self) -> None:
        """Ends the copying; who still writes is told by the system."""
        self.release()
        os.close(self._readable)

    def _show(self, data: bytes) -> None:
        while data and self._target is not None:
            try:
                # ours may be non-blocking: Node makes the pipes so that it shares with us
                select.select([], [self._target], [])
                data = data[os.write(self._target, data) :]
            except BlockingIOError:
                continue
            except OSError:
                # a reader of ours that went away must not stop a migration half way: it goes on unseen
                self._target = None


@contextmanager
def plain_terminal(descriptor: int) -> Iterator[None]:
    """A terminal on which a person sees what he types and ends it with Enter; then it is as it was.

    What was typed before is forgotten: it answered something else.
    """
    before = termios.tcgetattr(descriptor)
    plain = termios.tcgetattr(descriptor)
    plain[0] |= termios.ICRNL
    plain[1] |= termios.OPOST
    plain[3] |= termios.ICANON | termios.ECHO | termios.ISIG
    termios.tcsetattr(descriptor, termios.TCSAFLUSH, plain)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSANOW, before)


class Copies:
    """The copies of a child's streams for as long as the block lasts; with no targets there are none.

    Targets that lead to the same place share one copy, so that the order of what is written is kept.
    """

    def __init__(self, targets: Iterable[int]) -> None:
        places = {target: _place(target) for target in targets}
        self._copies = {place: Copy(target) for target, place in places.items()}
        self._by_target = {target: self._copies[place] for target, place in places.items()}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for copy in self._copies.values():
            copy.close()

    @property
    def text(self) -> str:
        """What was written last, a stream after the other."""
        return "".join(copy.text for copy in self._copies.values())

    def child_end(self, target: int) -> int:
        """The descriptor that the child gets for one of ours: ours itself where that is not copied."""
        return self._by_target[target].child_end if target in self._by_target else target

    def copy_sizes(self) -> bool:
        """Gives each terminal the size of ours; False where they had it already."""
        changed = [copy.copy_size() for copy in self._copies.values()]
        return any(changed)

    def run(self, *, alive: Callable[[], bool]) -> None:
        """Copies until the streams end, or the child does and only a grandchild could write more."""
        left = list(self._copies.values())
        for copy in left:
            copy.release()
        end: float | None = None
        while left and (end is None or time.monotonic() < end):
            ready, _, _ = select.select(left, [], [], 0.1)
            left = [copy for copy in left if copy not in ready or copy.forward()]
            if end is None and not alive():
                end = time.monotonic() + LINGER


def _place(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino
