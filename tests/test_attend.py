"""Children that a person attends: they have our streams and signals as if we were not there."""

import os
import shlex
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pexpect
import pytest

from backup.terminal import KEPT
from tests.attending import PATIENCE, ROOT, Attending, Leash, python

READY = "import signal, sys, os, time\nprint('ready', os.getpid(), flush=True)\n"
WAIT = "while True: time.sleep(0.05)\n"
"""Not signal.pause(): a signal that comes right before it is waited for forever."""

both_ways = pytest.mark.parametrize("listen", [False, True], ids=["untouched", "listened-to"])


@pytest.fixture
def attending(tmp_path: Path) -> Attending:
    return Attending(tmp_path)


# without a terminal


@both_ways
@pytest.mark.parametrize(("ends", "code"), [("pass", 0), ("sys.exit(3)", 3), ("os.kill(os.getpid(), 15)", 143)])
def test_the_exit_code_is_kept(attending: Attending, ends: str, code: int, listen: bool) -> None:
    attending.run(f"import os, sys\n{ends}", listen=listen)
    assert attending.result["returncode"] == code
    assert not attending.result["expired"]
    assert attending.result["restored"]


def test_a_pipe_is_read_as_without_us(attending: Attending) -> None:
    ended = attending.run("import sys; print(repr(sys.stdin.read()))")
    assert ended.stdout == b"'something'\n"


def test_who_is_listened_to_has_nothing_to_read_without_a_terminal(attending: Attending) -> None:
    ended = attending.run("import sys; print(repr(sys.stdin.read()))", listen=True)
    assert ended.stdout == b"''\n"


@both_ways
def test_the_streams_stay_apart_and_unchanged(attending: Attending, listen: bool) -> None:
    code = "import os; os.write(1, b'\\x1b[31mout\\xff\\r\\n'); os.write(2, b'err\\n')"
    ended = attending.run(code, listen=listen)
    assert (ended.stdout, ended.stderr) == (b"\x1b[31mout\xff\r\n", b"err\n")
    assert attending.result["output"] == ("\x1b[31mout�\r\nerr\n" if listen else "")


@both_ways
def test_for_a_machine_our_stdout_stays_empty(attending: Attending, listen: bool) -> None:
    code = "import os\nfor i in range(50): os.write(1, b'out '); os.write(2, b'err ')"
    ended = attending.run(code, listen=listen, stdout_to_stderr=True)
    assert (ended.stdout, ended.stderr) == (b"", b"out err " * 50)


def test_a_flood_is_shown_whole_and_its_end_remembered(attending: Attending) -> None:
    ended = attending.run("print('x' * 3_000_000); print('the end')", listen=True)
    assert len(ended.stdout) == 3_000_009
    assert len(attending.result["output"]) == KEPT
    assert attending.result["output"].endswith("x\nthe end\n")


def test_a_reader_that_went_away_does_not_stop_the_command(attending: Attending, tmp_path: Path) -> None:
    done = tmp_path / "done"
    code = f"import sys\nfor i in range(9): print('x' * 65536, flush=True)\nopen({str(done)!r}, 'w').close()"
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as deaf:
        subprocess.run(
            attending.argv(code, listen=True),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=deaf,
            timeout=PATIENCE,
            check=True,
        )
    assert done.exists()
    assert attending.result["returncode"] == 0


def test_a_grandchild_that_keeps_the_streams_does_not_keep_us(attending: Attending) -> None:
    code = f"import subprocess, sys\nprint(subprocess.Popen({python('import signal; signal.pause()')!r}).pid)"
    ended = attending.run(code, listen=True)
    grandchild = int(ended.stdout)
    try:
        assert attending.result["returncode"] == 0
    finally:
        # which fails when it is dead, and could not have kept us
        os.kill(grandchild, signal.SIGKILL)


@both_ways
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_our_signals_are_the_commands_to_answer(attending: Attending, number: signal.Signals, listen: bool) -> None:
    code = f"import signal, sys; signal.signal({int(number)}, lambda *_: sys.exit(7))\n{READY}{WAIT}"
    with attending.started(code, listen=listen) as process:
        assert process.stdout
        assert process.stdout.readline().startswith("ready")
        process.send_signal(number)
    assert process.returncode == 0
    assert attending.result["returncode"] == 7
    assert attending.result["restored"]


def test_a_signal_that_we_ignore_is_ignored_by_the_command(attending: Attending) -> None:
    code = "import signal; print(signal.getsignal(signal.SIGHUP) is signal.SIG_IGN)"
    ended = subprocess.run(
        ("nohup", *attending.argv(code)), cwd=ROOT, capture_output=True, timeout=PATIENCE, check=True
    )
    assert ended.stdout == b"True\n"


@both_ways
def test_the_time_limit_ends_the_command_and_what_it_started(
    attending: Attending, tmp_path: Path, listen: bool
) -> None:
    leash = Leash(tmp_path)
    stubborn = "import signal, subprocess; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    grandchild = python(f"{stubborn}{leash.held}while True: signal.pause()")
    attending.run(f"{stubborn}subprocess.run({grandchild!r})", listen=listen, time_limit=2, grace=0.2)
    assert attending.result["expired"]
    assert attending.result["returncode"] == 137
    assert leash.read() == b"!", "the limit came before there was anything to end"
    assert leash.read() == b""


def test_a_command_that_heeds_the_time_limit_ends_in_its_own_way(attending: Attending) -> None:
    code = f"import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(9))\n{WAIT}"
    attending.run(code, time_limit=2)
    assert attending.result["expired"]
    assert attending.result["returncode"] == 9


def test_a_command_within_the_time_limit_has_not_expired(attending: Attending) -> None:
    attending.run("pass", time_limit=PATIENCE)
    assert not attending.result["expired"]
    assert attending.result["returncode"] == 0


# on a terminal


@contextmanager
def terminal(argv: tuple[str, ...]) -> "Iterator[pexpect.spawn[bytes]]":
    """A program on a terminal of 33 lines and 111 columns."""
    with pexpect.spawn(argv[0], [*argv[1:]], cwd=str(ROOT), timeout=PATIENCE, dimensions=(33, 111)) as shown:
        yield shown


def rest(shown: "pexpect.spawn[bytes]") -> bytes:
    """What a terminal still shows until its program has ended."""
    shown.expect(pexpect.EOF)
    shown.wait()
    assert isinstance(shown.before, bytes)
    return shown.before


SHOWN = """
import os, sys
print([os.isatty(n) for n in (0, 1, 2)], os.get_terminal_size(1), os.get_terminal_size(2), flush=True)
print("one", file=sys.stderr, flush=True)
sys.stdout.write("\\x1b[31mred\\x1b[0m \\x1b[2K\\x1b[1Gdrawn again ❯\\ttab\\r\\nlast")
"""


@both_ways
def test_the_terminal_shows_byte_for_byte_what_it_shows_without_us(attending: Attending, listen: bool) -> None:
    with terminal(python(SHOWN)) as shown:
        without_us = rest(shown)
    with terminal(attending.argv(SHOWN, listen=listen)) as shown:
        with_us = rest(shown)
    assert with_us == without_us
    assert b"[True, True, True] os.terminal_size(columns=111, lines=33)" in with_us
    assert ("drawn again" in attending.result["output"]) == listen


@both_ways
def test_a_new_size_of_the_terminal_reaches_the_command(attending: Attending, listen: bool) -> None:
    code = f"""
import os, signal
def tell(*_):
    if os.get_terminal_size(1) == (90, 22) == os.get_terminal_size(2):
        print("resized", flush=True)
        os._exit(0)
signal.signal(signal.SIGWINCH, tell)
{READY}
while True:
    signal.pause()
"""
    with terminal(attending.argv(code, listen=listen)) as shown:
        shown.expect("ready")
        shown.setwinsize(22, 90)
        assert b"resized" in rest(shown)


@both_ways
def test_a_key_reaches_a_command_that_reads_the_raw_terminal(attending: Attending, listen: bool) -> None:
    """As a prompt does it: Ctrl-C is a key like others, and the prompt decides what it means."""
    code = f"import tty; tty.setraw(0)\n{READY}print(repr(os.read(0, 1)), flush=True)"
    with terminal(attending.argv(code, listen=listen)) as shown:
        shown.expect("ready")
        shown.send("\x03")
        assert b"b'\\x03'" in rest(shown)
    assert attending.result["returncode"] == 0


@both_ways
@pytest.mark.parametrize(
    ("answers", "code"),
    [("signal.signal(signal.SIGINT, lambda *_: sys.exit(9))", 9), ("", 130)],
    ids=["its-own-way", "dies-of-it"],
)
def test_what_ctrl_c_does_is_the_commands_decision(attending: Attending, answers: str, code: int, listen: bool) -> None:
    waits = f"import signal, sys; {answers}\n{READY}{WAIT}"
    with terminal(attending.argv(waits, listen=listen)) as shown:
        shown.expect("ready")
        shown.sendintr()
        rest(shown)
    assert shown.exitstatus == 0, "we ended with the command instead of outliving it"
    assert attending.result["returncode"] == code
    assert attending.result["restored"]


def test_on_a_terminal_sigterm_is_passed_on(attending: Attending) -> None:
    code = f"import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n{READY}{WAIT}"
    with terminal(attending.argv(code)) as shown:
        shown.expect("ready")
        shown.kill(signal.SIGTERM)
        rest(shown)
    assert attending.result["returncode"] == 7


def test_on_a_terminal_there_is_no_time_limit(attending: Attending) -> None:
    code = f"{READY}input(); print('answered')"
    with terminal(attending.argv(code, time_limit=0)) as shown:
        shown.expect("ready")
        shown.sendline("")
        assert b"answered" in rest(shown)
    assert not attending.result["expired"]


def test_for_a_machine_the_command_has_the_terminal_of_our_stderr(attending: Attending, tmp_path: Path) -> None:
    code = "import os; print([os.isatty(n) for n in (0, 1, 2)])"
    machine = tmp_path / "stdout"
    argv = attending.argv(code, stdout_to_stderr=True, listen=True)
    with terminal(("sh", "-c", f"exec {shlex.join(argv)} >{shlex.quote(str(machine))}")) as shown:
        assert b"[True, True, True]" in rest(shown)
    assert machine.read_bytes() == b""


def test_without_a_terminal_on_stdin_the_command_cannot_ask_on_another(attending: Attending) -> None:
    code = "import os\ntry: os.open('/dev/tty', os.O_RDWR)\nexcept OSError as error: print(error.strerror)"
    with terminal(("sh", "-c", f"exec {shlex.join(attending.argv(code))} </dev/null")) as shown:
        assert b"No such device or address" in rest(shown)
