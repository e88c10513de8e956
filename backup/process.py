"""Child processes: those that are captured and those that a person attends; the only `import subprocess`."""

import contextlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from backup.errors import ProcessError, UsageError
from backup.signals import handled
from backup.terminal import Copies

STDERR_KEPT = 64 * 1024
TRIED_KEPT = 256 * 1024
_LOOK_EVERY = 0.05
"""Seconds."""
BY_A_SIGNAL = 128
"""The exit code of what signal n ended is this and n."""
GRACE = 5.0
"""Seconds that a child has between SIGTERM and SIGKILL."""


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A captured child that ended with exit code 0.

    `stdout` is whole; bytes of it that are not UTF-8 stand as surrogates (PEP 383), so that encoding it with
    `surrogateescape` gives back every byte. `stderr` is its last 64 KiB, for people.
    """

    argv: tuple[str, ...]
    returncode: int
    stdout: str
    stderr: str


@dataclass(frozen=True, kw_only=True)
class Attended:
    """A child that had our streams, and ended.

    `returncode` is 128 + n when signal n ended it. `output` is what it wrote where that was listened to, at
    most 256 KiB a stream, escape sequences included; else it is empty. `expired`: the time limit ended it.
    """

    argv: tuple[str, ...]
    returncode: int
    output: str
    expired: bool


def find_program(name: str) -> Path:
    """The program that PATH gives for `name`; UsageError when there is none."""
    found = shutil.which(name)
    if found is None:
        raise UsageError(
            f"The program {name} was not found on PATH.",
            untouched="Nothing was started and nothing was changed.",
            remedy=f"Install {name}, or add the folder that holds it to PATH.",
        )
    return Path(found)


def run(
    argv: tuple[str, ...],
    *,
    environment: Mapping[str, str],
    cwd: Path | None = None,
    stdin: str | None = None,
    user: str | None = None,
    group: str | None = None,
    start_new_session: bool = False,
) -> Finished:
    """What a program says, once it has ended well.

    It reads `stdin`, or nothing. Whatever interrupts the wait, the child has ended when the exception goes
    on. A program that leaves a daemon behind must give that another stdout and stderr (`pg_ctl -l`): the
    end of both streams is waited for.

    Raises:
        ProcessError: it could not be started, or ended with another exit code than 0.
    """
    with _started(
        argv,
        environment=environment,
        cwd=cwd,
        stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        user=user,
        group=group,
        start_new_session=start_new_session,
    ) as child:
        stdout, stderr = child.communicate(None if stdin is None else stdin.encode())
    said = stderr[-STDERR_KEPT:].decode(errors="replace")
    if child.returncode != 0:
        raise ProcessError(argv, _exit_code(child), said)
    return Finished(argv=argv, returncode=0, stdout=stdout.decode(errors="surrogateescape"), stderr=said)


@dataclass(frozen=True, kw_only=True)
class Tried:
    """A child that nobody attended, and that ended.

    `returncode` as in `Attended`; `output` is the last 256 KiB of what it wrote, both streams as they came.
    `expired`: the time limit ended it. `stopped`: the event did.
    """

    argv: tuple[str, ...]
    returncode: int
    output: str
    expired: bool
    stopped: bool


def try_out(
    argv: tuple[str, ...], *, environment: Mapping[str, str], cwd: Path, time_limit: float, stop: threading.Event
) -> Tried:
    """What becomes of a program that can ask nobody, within `time_limit` seconds and until `stop` is set.

    It reads nothing, has a session of its own, and nothing of that session outlives this call.

    Raises:
        ProcessError: it could not be started.
    """
    # a file, because a daemon that it leaves would hold a pipe open, and a full pipe would hold it up
    with tempfile.TemporaryFile() as written:
        with _started(
            argv,
            environment=environment,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=written.fileno(),
            stderr=written.fileno(),
            start_new_session=True,
        ) as child:
            deadline = time.monotonic() + time_limit
            while child.poll() is None and not stop.is_set() and time.monotonic() < deadline:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(timeout=_LOOK_EVERY)
            cut_off = child.poll() is None
            if cut_off:
                _end(child, whole_session=True)
            else:
                _send(child, signal.SIGKILL, whole_session=True)
        written.seek(max(0, written.seek(0, os.SEEK_END) - TRIED_KEPT))
        output = written.read().decode(errors="replace")
    return Tried(
        argv=argv,
        returncode=_exit_code(child),
        output=output,
        expired=cut_off and not stop.is_set(),
        stopped=stop.is_set(),
    )


def attend(
    argv: tuple[str, ...],
    *,
    environment: Mapping[str, str],
    cwd: Path,
    stdout_to_stderr: bool = False,
    listen: bool = False,
    time_limit: float | None = None,
) -> Attended:
    """Waits for a program that talks to the person at our terminal as it would without us.

    With a terminal on stdin it shares our session: Ctrl-C reaches it from the terminal, and what follows is
    its decision. Without one it reads the file or the pipe that our stdin is, else nothing; it has a session of
    its own so that it cannot ask through /dev/tty either, gets each of our signals, and is ended after
    `time_limit` seconds with all it started.
    `stdout_to_stderr` gives it our stderr for its stdout; `listen` copies what it writes instead of leaving
    our streams to it.

    Raises:
        ProcessError: it could not be started.
    """
    alone = not os.isatty(0)
    stdout, stderr = 2 if stdout_to_stderr else 1, 2
    child: subprocess.Popen[bytes] | None = None
    early: list[signal.Signals] = []
    expired = False

    def deliver(number: signal.Signals) -> None:
        if child is None:
            early.append(number)
        else:
            _send(child, number, whole_session=alone)

    def resize(number: signal.Signals) -> None:
        # the child may have asked for the size, at the same signal, before its terminal had the new one
        if copies.copy_sizes():
            deliver(number) if alone else os.killpg(os.getpgrp(), number)

    def expire() -> None:
        nonlocal expired
        if started.poll() is None:
            expired = True
            _end(started, whole_session=True)

    actions = {
        signal.SIGINT: deliver if alone else lambda _: None,
        signal.SIGTERM: deliver,
        signal.SIGHUP: deliver,
        signal.SIGWINCH: resize,
    }
    # what we said before stands before what the child says
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(BrokenPipeError):  # nobody reads it any more; the child will see for itself
            stream.flush()
    with (
        Copies((stdout, stderr) if listen else ()) as copies,
        handled(actions),
        _started(
            argv,
            environment=environment,
            cwd=cwd,
            # who is listened to asks questions, and must not wait for an answer in a pipe that nobody writes to
            stdin=subprocess.DEVNULL if alone and (listen or not _is_file_or_pipe(0)) else None,
            stdout=copies.child_end(stdout),
            stderr=copies.child_end(stderr),
            start_new_session=alone,
        ) as started,
    ):
        child = started
        for number in early:
            deliver(number)
        with _timer(time_limit if alone else None, expire):
            copies.run(alive=lambda: started.poll() is None)
            started.wait()
    return Attended(argv=argv, returncode=_exit_code(started), output=copies.text, expired=expired)


def _is_file_or_pipe(descriptor: int) -> bool:
    try:
        mode = os.fstat(descriptor).st_mode
    except OSError:  # closed
        return False
    return stat.S_ISREG(mode) or stat.S_ISFIFO(mode)


@contextlib.contextmanager
def _timer(seconds: float | None, action: Callable[[], None]) -> Iterator[None]:
    """Does something once in the background, when the block lasts longer."""
    if seconds is None:
        yield
        return
    timer = threading.Timer(seconds, action)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


@contextlib.contextmanager
def _started(
    argv: tuple[str, ...],
    *,
    environment: Mapping[str, str],
    cwd: Path | None,
    stdin: int | None,
    stdout: int,
    stderr: int,
    user: str | None = None,
    group: str | None = None,
    start_new_session: bool = False,
) -> Iterator[subprocess.Popen[bytes]]:
    """A running child that does not outlive the block.

    A signal while it is being started waits until there is a child to be ended.
    """
    early: list[signal.Signals] = []
    with contextlib.ExitStack() as deferring:
        deferring.enter_context(handled(dict.fromkeys((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), early.append)))
        try:
            child = subprocess.Popen(
                argv,
                env=environment,
                cwd=cwd,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                user=user,
                group=group,
                # else a server that runs as another user would keep root's supplementary groups
                extra_groups=() if user is not None else None,
                start_new_session=start_new_session,
            )
        except OSError as error:
            # the exit codes of a shell that cannot start a program (POSIX, Shell Command Language, 2.8.2)
            raise ProcessError(argv, 127 if isinstance(error, FileNotFoundError) else 126, str(error)) from error
        with child:
            try:
                # not a moment earlier: a signal that is raised outside of this block leaves a child behind
                deferring.close()
                for number in early:
                    signal.raise_signal(number)
                yield child
            except BaseException:
                _end(child, whole_session=start_new_session)
                raise


def _end(child: subprocess.Popen[bytes], *, whole_session: bool) -> None:
    """Ends a child, gently first; also when the wait for that is interrupted."""
    _send(child, signal.SIGTERM, whole_session=whole_session)
    with contextlib.suppress(subprocess.TimeoutExpired):
        try:
            child.wait(timeout=GRACE)
        finally:
            _send(child, signal.SIGKILL, whole_session=whole_session)
            child.wait()


def _send(child: subprocess.Popen[bytes], number: signal.Signals, *, whole_session: bool) -> None:
    """Sends a signal to a child, or to all that is left of the session that it leads."""
    if not whole_session:
        child.send_signal(number)
        return
    # nobody is left; macOS says so by EPERM while the dead are not yet waited for
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, number)


def _exit_code(child: subprocess.Popen[bytes]) -> int:
    """The exit code as a shell counts it."""
    return BY_A_SIGNAL - child.returncode if child.returncode < 0 else child.returncode
