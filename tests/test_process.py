"""Children that are captured: what comes of them, and that none is left behind."""

import grp
import os
import pwd
import signal
import subprocess
from pathlib import Path

import pytest

from backup.errors import ProcessError, UsageError
from backup.process import STDERR_KEPT, find_program, run
from tests.attending import PATIENCE, ROOT, Leash, python
from tests.lacking import lacking


def run_here(*argv: str, stdin: str | None = None) -> str:
    return run(argv, environment=os.environ, stdin=stdin).stdout


def test_what_a_program_writes_is_returned_as_it_was_written() -> None:
    said = run(
        python("import sys; sys.stdout.buffer.write(b'a\\r\\n\\xff\\xc3\\xa9\\n'); print('why', file=sys.stderr)"),
        environment=os.environ,
    )
    assert said.stdout.encode(errors="surrogateescape") == b"a\r\n\xff\xc3\xa9\n"
    assert (said.returncode, said.stderr) == (0, "why\n")


def test_a_program_reads_what_it_is_given_and_else_nothing() -> None:
    reads = python("import sys; sys.stdout.write(sys.stdin.read())")
    text = "Søren\n" * 100_000
    assert run_here(*reads, stdin=text) == text
    assert run_here(*reads) == ""


def test_a_program_gets_no_other_environment_than_the_given() -> None:
    assert run((str(find_program("env")), "-0"), environment={"ONE": "1 1"}).stdout == "ONE=1 1\0"


def test_a_failed_program_raises_what_it_was_and_said() -> None:
    argv = python("import sys; sys.exit('the disk is full')")
    with pytest.raises(ProcessError, match="the disk is full") as raised:
        run(argv, environment=os.environ)
    assert raised.value.argv == argv
    assert raised.value.returncode == 1
    assert raised.value.stderr == "the disk is full\n"


def test_a_program_ended_by_a_signal_counts_as_in_a_shell() -> None:
    with pytest.raises(ProcessError) as raised:
        run(python("import os; os.kill(os.getpid(), 9)"), environment=os.environ)
    assert raised.value.returncode == 137


def test_of_a_flood_of_errors_the_end_is_kept() -> None:
    code = "import sys; sys.stderr.write('x' * 3_000_000 + '\\xe9 the end'); sys.stdout.write('y' * 3_000_000)"
    said = run(python(code), environment=os.environ)
    assert len(said.stdout) == 3_000_000
    assert len(said.stderr.encode()) == STDERR_KEPT
    assert said.stderr.endswith("xé the end")


@pytest.mark.parametrize(("program", "code"), [("no-such-program", 127), ("/", 126)])
def test_a_program_that_cannot_be_started_is_a_failed_one(program: str, code: int) -> None:
    with pytest.raises(ProcessError, match=program) as raised:
        run((program,), environment=os.environ)
    assert raised.value.returncode == code


def test_a_program_that_is_not_there_is_named() -> None:
    assert find_program("env").is_absolute()
    with pytest.raises(UsageError, match="no-such-program"):
        find_program("no-such-program")


def test_another_user_has_none_of_our_groups() -> None:
    if os.geteuid() != 0:
        lacking("children of another user (needs root)")
    nobody = pwd.getpwnam("nobody")
    group = grp.getgrgid(nobody.pw_gid).gr_name
    starts = f"""
from pathlib import Path
from backup.process import run
options = {{"environment": {{}}, "cwd": Path("/"), "user": "nobody", "group": {group!r}}}
print(run(("/bin/sh", "-c", "id -u; id -G"), **options).stdout)
"""
    said = subprocess.run(python(starts), cwd=ROOT, extra_groups=[1, 2], stdout=subprocess.PIPE, check=True)
    assert said.stdout.decode().split() == [str(nobody.pw_uid), str(nobody.pw_gid)]


@pytest.mark.parametrize("stubborn", [False, True], ids=["willing", "stubborn"])
def test_an_interrupted_wait_leaves_no_child(stubborn: bool, tmp_path: Path) -> None:
    """Its own session keeps the terminal's Ctrl-C away, so that only our ending it can end it."""
    leash = Leash(tmp_path)
    child = f"""
import signal
signal.signal(signal.SIGTERM, signal.{"SIG_IGN" if stubborn else "SIG_DFL"})
{leash.held}
while True:
    signal.pause()
"""
    waits = f"""
import os
from backup import process
process.GRACE = 0.2 if {stubborn} else process.GRACE
process.run({python(child)!r}, environment=os.environ, start_new_session=True)
"""
    with subprocess.Popen(python(waits), cwd=ROOT, stderr=subprocess.PIPE, text=True) as waiting:
        assert leash.read() == b"!"
        waiting.send_signal(signal.SIGINT)
        _, said = waiting.communicate(timeout=PATIENCE)
    assert "KeyboardInterrupt" in said
    assert leash.read() == b""
