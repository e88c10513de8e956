"""What becomes of our signals while somebody else's command runs."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from types import FrameType


@contextlib.contextmanager
def handled(actions: Mapping[signal.Signals, Callable[[signal.Signals], None]]) -> Iterator[None]:
    """Calls the action of a signal that arrives during the block; afterwards all is as it was.

    A signal that is ignored stays so (`nohup`): a child inherits that, as it would without us. Outside the
    main thread nothing is handled, because Python allows it there alone.
    """

    def handle(number: int, _: FrameType | None) -> None:
        actions[signal.Signals(number)](signal.Signals(number))

    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {
            number: signal.signal(number, handle)
            for number in actions
            if signal.getsignal(number) not in (signal.SIG_IGN, None)
        }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
