"""PostgreSQL in a container: found, reached, and its own programs used, with nothing left behind."""

import io
import os
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import quote

import docker
import psycopg
import pytest

from backup.errors import BackupError, UsageError
from backup.postgres import find_clients
from backup.postgres.container import _reachable as reachable
from backup.postgres.container import contained, find_container, find_service
from backup.postgres.container_clients import container_clients
from backup.postgres.embedded import Server
from backup.postgres.tables import Connection
from backup.reach import Reach
from backup.settings import load_settings
from tests.chain import CDC_BACKUP, Ended, Project, environment
from tests.engine import IMAGE, PASSWORD, running, started_engine, swept
from tests.servers import FreshDatabase, fresh_database
from tests.versions import RELEASES

ME = f"cdc{os.getpid()}"
"""Containers and services of this process are called by it."""

TABLES = """
create table users (id int primary key);
create table _cdc_users (id serial primary key, name text, at timestamptz default now());
create table _cdc_loose (f float8);
create table _cdc_empty (id int);
insert into _cdc_users (name) select 'name ' || g from generate_series(1, 1000) g;
insert into _cdc_loose values ('-0'), (1);
"""


@pytest.fixture(scope="module")
def engine() -> Iterator[docker.DockerClient]:
    """A Docker engine."""
    with started_engine() as (client, address), pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", address)
        yield client


@pytest.fixture(scope="module")
def shop(engine: docker.DockerClient) -> Iterator[str]:
    """A container with a published port, as compose makes it."""
    with running(
        engine, f"{ME}-postgres", ports={"5432/tcp": ("127.0.0.1", None)}, labels=labels("shop", f"{ME}-db")
    ) as name:
        yield name


def labels(project: str, service: str) -> dict[str, str]:
    """What compose calls a container."""
    return {"com.docker.compose.project": project, "com.docker.compose.service": service}


def url_of(container: str) -> str:
    """The URL of the database in it."""
    port = contained(find_container(container), {}).parameters["port"]
    return f"postgresql://postgres:{quote(PASSWORD)}@127.0.0.1:{port}/postgres"


def server_in(container: str) -> Connection:
    """A connection to the server in it."""
    return psycopg.connect(url_of(container), autocommit=True)


@pytest.fixture
def database(shop: str) -> Iterator[Connection]:
    """A connection to its database, filled anew."""
    with server_in(shop) as connection:
        connection.execute("drop schema public cascade; create schema public")
        connection.execute(TABLES)
        yield connection


def cdc(folder: Path, *arguments: str, **variables: str) -> Ended:
    """Run `cdc-backup` in the folder with no URL, and see that nobody says the password."""
    done = subprocess.run(
        (CDC_BACKUP, *arguments),
        cwd=folder,
        env=environment(folder, DOCKER_HOST=os.environ["DOCKER_HOST"], **variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert PASSWORD not in done.stdout + done.stderr
    return Ended(code=done.returncode, stdout=done.stdout, stderr=done.stderr)


def configure(folder: Path, **keys: object) -> None:
    Project(folder=folder, database=None).configure(**keys)  # type: ignore[arg-type]


def put_program(container: Any, name: str, text: str) -> None:
    """Put a script into the container."""
    archive, member = io.BytesIO(), tarfile.TarInfo(name)
    member.size, member.mode = len(text), 0o755
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.addfile(member, io.BytesIO(text.encode()))
    assert container.put_archive("/", archive.getvalue())


def left_inside(engine: docker.DockerClient, name: str) -> list[str]:
    """What is in /tmp of the container, apart from the server's own socket."""
    said = engine.containers.get(name).exec_run(["ls", "-1A", "/tmp"]).output
    assert isinstance(said, bytes)
    return [one for one in said.decode().split() if not one.startswith(".s.PGSQL")]


def test_back_up_drill_lose_and_restore_with_the_containers_own_programs(
    engine: docker.DockerClient, shop: str, database: Connection, tmp_path: Path
) -> None:
    configure(tmp_path, clients="container", drill=True, container=shop)
    done = cdc(tmp_path, "backup")
    assert done.code == 0, done.said
    (summary,) = tmp_path.glob("local/backups/drizzle/cdc/backup_*/backup-summary.txt")
    assert f"with pg_dump {RELEASES[17][:-2]}" in summary.read_text()
    before = database.execute("select * from _cdc_users order by id").fetchall()
    database.execute("drop table _cdc_users, _cdc_loose, _cdc_empty")
    configure(tmp_path, clients="container", compose_service=f"{ME}-db")
    done = cdc(tmp_path, "restore", "--yes", COMPOSE_PROJECT_NAME="shop")
    assert done.code == 0, done.said
    assert database.execute("select * from _cdc_users order by id").fetchall() == before
    assert database.execute("select f::text from _cdc_loose order by f").fetchall() == [("-0",), ("1",)]
    assert left_inside(engine, shop) == []
    assert PASSWORD.encode() not in engine.containers.get(shop).logs()


def test_a_drill_elsewhere_takes_the_programs_of_this_machine(shop: str, database: Connection, tmp_path: Path) -> None:
    configure(tmp_path, clients="container", container=shop, drill=True, scratch="embedded")
    assert database.execute("select count(*) from _cdc_users").fetchone() == (1000,)
    done = cdc(tmp_path, "backup")
    assert done.code == 0, done.said
    assert "Proven: restored on an embedded server" in done.stdout


def test_what_older_set_ups_say_is_understood_where_nothing_else_is_given(
    shop: str, database: Connection, tmp_path: Path
) -> None:
    assert database.execute("select count(*) from _cdc_users").fetchone() == (1000,)
    configure(tmp_path)
    done = cdc(tmp_path, "backup", APP_NAME=ME, POSTGRES_USER="postgres", POSTGRES_DB="postgres")
    assert done.code == 0, done.said
    (tmp_path / ".env").write_text(f"APP_NAME={ME}\nPOSTGRES_DB=nowhere\n")
    done = cdc(tmp_path, "backup")
    assert done.code == 3
    assert 'database "nowhere" does not exist' in done.said
    done = cdc(tmp_path, "doctor", POSTGRES_DB="postgres")
    assert f"named by the container {shop}" in done.stdout, done.said
    done = cdc(tmp_path, "backup", APP_NAME="other")
    assert done.code == 2
    assert "DATABASE_URL is set neither in the environment nor in" in done.said
    assert "By APP_NAME: There is no container other-postgres; the engine knows " in done.said
    done = cdc(tmp_path, "backup", APP_NAME="other", DATABASE_URL=url_of(shop))
    assert done.code == 0, done.said


def test_a_url_that_leads_to_another_server_than_the_container_is_refused(
    shop: str, inner: str, embedded: FreshDatabase, tmp_path: Path
) -> None:
    configure(tmp_path, clients="container", container=inner)
    for url, said in (
        (url_of(shop), f"is not the server in the container {inner}."),
        (embedded.url, f"The server in the container {inner} does not let in who reaches {embedded.name} on "),
    ):
        done = cdc(tmp_path, "backup", DATABASE_URL=url)
        assert done.code == 3
        assert said in done.said
        assert "passfile" not in done.said


def test_a_migration_is_rehearsed_guarded_and_judged_with_the_containers_programs(
    engine: docker.DockerClient, shop: str, database: Connection, tmp_path: Path
) -> None:
    url = url_of(shop)
    configure(tmp_path, clients="container", container=shop, drill=True, rehearse="on")
    script = (
        "import os, psycopg\nwith psycopg.connect(os.environ['DATABASE_URL']) as c: c.execute('drop table _cdc_users')"
    )
    done = cdc(tmp_path, "run-safe", "--yes", "--", sys.executable, "-c", script, DATABASE_URL=url)
    assert done.code == 0, done.said
    assert "Gone as announced: public._cdc_users (dropped)" in done.stdout
    done = cdc(tmp_path, "restore", "--yes", DATABASE_URL=url)
    assert done.code == 0, done.said
    assert database.execute("select count(*) from _cdc_users").fetchone() == (1000,)
    assert left_inside(engine, shop) == []


def test_interrupted_nothing_goes_on_inside_and_nothing_is_left(
    engine: docker.DockerClient, shop: str, database: Connection, tmp_path: Path
) -> None:
    with held_up(shop, database, tmp_path) as started:
        started.send_signal(signal.SIGINT)
        started.communicate(timeout=60)
        assert started.returncode == 130
        assert at_work(shop) == []
        assert left_inside(engine, shop) == []
    assert list(tmp_path.glob("local/backups/drizzle/cdc/backup_*")) == []


def test_the_password_is_in_no_environment_and_in_no_arguments(
    engine: docker.DockerClient, shop: str, database: Connection, tmp_path: Path
) -> None:
    with held_up(shop, database, tmp_path) as started:
        known = "/bin/cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ"
        said = engine.containers.get(shop).exec_run(["/bin/sh", "-c", known], environment={"POSTGRES_PASSWORD": ""})
        assert isinstance(said.output, bytes)
        assert b"PGAPPNAME=cdc-backup-" in said.output
        # The container was started with it; that is what the server's own processes show.
        ours = [one for one in said.output.split(b"\0") if PASSWORD.encode() in one]
        assert {one.partition(b"=")[0] for one in ours} <= {b"POSTGRES_PASSWORD"}
        started.send_signal(signal.SIGINT)


def test_what_a_killed_run_left_inside_the_next_one_clears_and_what_a_living_one_has_it_keeps(
    engine: docker.DockerClient, shop: str, database: Connection, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    configure(other, clients="container", container=shop)
    with held_up(shop, database, tmp_path) as started:
        (folder,) = set(left_inside(engine, shop))
        assert folder.startswith("cdc-backup-")
        cdc(other, "doctor")
        assert left_inside(engine, shop) == [folder]
        started.kill()
        started.communicate(timeout=60)
        assert at_work(shop) == [folder]
        cdc(other, "doctor")
        assert left_inside(engine, shop) == []
        assert at_work(shop) == []


def test_an_engine_that_is_lost_ends_the_backup_and_what_ran_inside(
    shop: str, database: Connection, tmp_path: Path
) -> None:
    with (
        passage_to(os.environ["DOCKER_HOST"].removeprefix("unix://")) as (address, cut),
        held_up(shop, database, tmp_path, engine_at=address) as started,
    ):
        cut()
        said, _ = started.communicate(timeout=60)
        assert started.returncode == 3
        assert b"We were cut off from what ran in the container" in said
        assert at_work(shop) == []
    assert list(tmp_path.glob("local/backups/drizzle/cdc/backup_*")) == []


def test_a_container_that_stands_still_or_is_stopped_meanwhile_is_not_waited_for_and_named(
    engine: docker.DockerClient, tmp_path: Path
) -> None:
    ports = {"5432/tcp": ("127.0.0.1", None)}
    with running(engine, f"{ME}-short", ports=ports) as name, server_in(name) as database:
        database.execute(TABLES)
        container = engine.containers.get(name)
        with held_up(name, database, tmp_path) as started:
            container.pause()
            try:
                started.send_signal(signal.SIGINT)
                started.communicate(timeout=60)
                assert started.returncode == 130
            finally:
                container.unpause()
        told = list[tuple[int, str]]()
        # The connection that held it up goes too, and its error must not hide what is asserted.
        with suppress(psycopg.OperationalError), held_up(name, database, tmp_path) as started:
            container.stop(timeout=1)
            said, _ = started.communicate(timeout=60)
            told.append((started.returncode, said.decode()))
        ((code, words),) = told
        assert code == 3
        assert f"{name} has ended. docker start {name}, then run this again." in words
        assert list(tmp_path.glob("local/backups/drizzle/cdc/backup_*")) == []


@contextmanager
def held_up(shop: str, database: Connection, folder: Path, engine_at: str = "") -> Iterator["subprocess.Popen[bytes]"]:
    """A backup whose pg_dump waits inside, as long as the block lasts."""
    configure(folder, clients="container", container=shop)
    database.execute("begin; lock table pg_catalog.pg_description in access exclusive mode")
    with subprocess.Popen(
        (CDC_BACKUP, "backup"),
        cwd=folder,
        env=environment(folder, DOCKER_HOST=engine_at or os.environ["DOCKER_HOST"]),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as started:
        try:
            while not at_work(shop):
                assert started.poll() is None, started.stdout and started.stdout.read()
            yield started
        finally:
            database.execute("rollback")


def at_work(container: str) -> list[str]:
    """The names under which programs in the container wait on the server."""
    query = (
        "select distinct application_name from pg_stat_activity"
        " where application_name ~ '^cdc-backup-' and wait_event_type = 'Lock'"
    )
    with server_in(container) as connection:
        return [name for (name,) in connection.execute(query)]


@contextmanager
def passage_to(socket_path: str) -> Iterator[tuple[str, Callable[[], None]]]:
    """A way to the engine that can be cut: its address, and what cuts it."""
    with tempfile.TemporaryDirectory(prefix="way-") as folder, socket.socket(socket.AF_UNIX) as door:
        door.bind(f"{folder}/docker.sock")
        door.listen()
        ends: list[socket.socket] = []

        def carry(source: socket.socket, target: socket.socket) -> None:
            with suppress(OSError):
                while piece := source.recv(65536):
                    target.sendall(piece)
                target.shutdown(socket.SHUT_WR)

        def accept() -> None:
            with suppress(OSError):
                while True:
                    here, there = door.accept()[0], socket.socket(socket.AF_UNIX)
                    ends.extend((here, there))
                    there.connect(socket_path)
                    for pair in ((here, there), (there, here)):
                        Thread(target=carry, args=pair, daemon=True).start()

        def cut() -> None:
            for end in (door, *ends):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

        accepting = Thread(target=accept, daemon=True)
        accepting.start()
        try:
            yield f"unix://{folder}/docker.sock", cut
        finally:
            cut()
            accepting.join()
            for end in ends:
                end.close()


@pytest.fixture(scope="module")
def inner(engine: docker.DockerClient) -> Iterator[str]:
    """A container without a published port."""
    with running(engine, f"{ME}-inner", labels=labels("p", "db")) as name:
        yield name


def test_without_a_published_port_the_lines_for_the_compose_file_are_said(inner: str) -> None:
    with pytest.raises(UsageError) as caught:
        contained(find_container(inner), {})
    assert 'services:\n  db:\n    ports: ["127.0.0.1:5432:5432"]' in str(caught.value)


def test_another_port_is_found_and_a_place_that_the_engine_cannot_reach_is_refused(
    engine: docker.DockerClient, tmp_path: Path
) -> None:
    ports = {"5433/tcp": ("127.0.0.1", None)}
    with running(engine, f"{ME}-odd", port="5433", ports=ports, tmpfs={"/tmp": ""}) as name:
        found = find_container(name)
        assert found.port == "5433"
        with pytest.raises(BackupError, match="there is no room for a folder of ours") as caught:
            container_clients(found, contained(found, {}))
        assert "/tmp: the engine does not reach it: Could not find the file" in str(caught.value)
        assert left_inside(engine, name) == []


def test_a_container_without_the_programs_is_refused(engine: docker.DockerClient) -> None:
    ports = {"5432/tcp": ("127.0.0.1", None)}
    with running(engine, f"{ME}-bare", ports=ports, environment={"PATH": "/bin"}) as name:
        found = find_container(name)
        with pytest.raises(BackupError, match=f"pg_dump does not run in the container {name}: .*not found"):
            container_clients(found, contained(found, {}))


def test_a_container_that_is_stopped_or_unknown_is_said(engine: docker.DockerClient, inner: str) -> None:
    with pytest.raises(UsageError, match="There is no container nobody") as caught:
        find_container("nobody")
    assert inner in str(caught.value)
    container = engine.containers.get(inner)
    container.pause()
    try:
        with pytest.raises(UsageError, match=rf"The container {inner} is paused\.") as caught:
            find_container(inner)
        assert "docker compose unpause db" in str(caught.value)
    finally:
        container.unpause()
    container.stop(timeout=5)
    with pytest.raises(UsageError, match=rf"The container {inner} has ended\.") as caught:
        find_container(inner)
    assert "docker compose start db" in str(caught.value)
    container.start()


def test_a_service_is_that_of_this_projects_compose_file_and_of_no_other(
    engine: docker.DockerClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(name: str, project: str, **more: str) -> str:
        stack.callback(
            engine.containers.create(IMAGE, name=f"{ME}-{name}", labels=labels(project, "cache") | more).remove
        )
        return f"{ME}-{name}"

    def asked(directory: str) -> str:
        with pytest.raises(UsageError) as caught:
            find_service("cache", tmp_path / directory)
        return str(caught.value)

    with ExitStack() as stack:
        assert "There is no container of a compose service cache" in asked("shop")
        one = make("one", "shop")
        make("run", "shop", **{"com.docker.compose.oneoff": "True"})
        other = make("other", "bar", **{"com.docker.compose.project.working_dir": str(tmp_path / "b")})
        assert f"The container {one} was created and never started." in asked("Shop!")
        assert f"The container {other} was created and never started." in asked("b/web")
        said = asked("elsewhere")
        assert "The compose service cache is of bar, shop, and this project is elsewhere." in said
        assert "COMPOSE_PROJECT_NAME" in said
        monkeypatch.setenv("COMPOSE_PROJECT_NAME", "bar")
        assert f"The container {other} was created and never started." in asked("shop")
        two = make("two", "bar")
        assert f"has more than one container: {two}, {other}." in asked("shop")


def test_no_engine_and_no_right_to_ask_it_are_a_sentence_each(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(prefix="way-") as folder, socket.socket(socket.AF_UNIX) as closed:
        Path(folder).chmod(0o711)
        closed.bind(f"{folder}/docker.sock")
        closed.listen()
        Path(folder, "docker.sock").chmod(0)
        monkeypatch.setenv("DOCKER_HOST", f"unix://{folder}/docker.sock")
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)
        try:
            with swept(), pytest.raises(UsageError, match="permission on its socket is denied"):
                find_container("x")
        finally:
            os.seteuid(user)
    for address, said, remedy in (
        (f"unix://{folder}/none.sock", ".", "Start Docker"),
        ("tcp://127.0.0.1:1", ".", "Start Docker"),
        ("tcp://nowhere.invalid:1", ": the name is not known here.", "Correct DOCKER_HOST."),
        ("npipe:////./pipe/docker_engine", ": that is a pipe of Windows.", "Unset DOCKER_HOST"),
        (
            "ssh://me@127.0.0.1",
            ": to reach one by ssh takes the package paramiko.",
            "ssh -N -L /tmp/docker.sock:/var/run",
        ),
        ("nonsense", ": Invalid bind address format: port is required: nonsense.", "set DOCKER_HOST to where"),
    ):
        monkeypatch.setenv("DOCKER_HOST", address)
        with swept(), pytest.raises(UsageError) as caught:
            find_container("x")
        assert caught.value.what == f"No Docker engine answers at {address}{said}"
        assert remedy in caught.value.remedy


def test_where_no_program_of_this_machine_serves_those_in_the_container_do(
    shop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    # What this machine has installed is not the question.
    monkeypatch.setattr(find_clients, "USUAL_FOLDERS", ())
    monkeypatch.setattr(find_clients, "_embedded", lambda: None)
    monkeypatch.setenv("DATABASE_URL", url_of(shop))
    configure(tmp_path, container=shop)
    found = Reach(load_settings(cwd=tmp_path)).clients()
    assert (found.place, found.version) == (f"the container {shop}", RELEASES[17][:-2])
    configure(tmp_path, container="nobody")
    with pytest.raises(BackupError, match="no pg_dump, pg_restore and psql that can serve it were found") as caught:
        Reach(load_settings(cwd=tmp_path)).clients()
    assert "\nNor do those in its container: There is no container nobody;" in str(caught.value)


@pytest.mark.parametrize(
    ("engine_at", "bound", "reached"),
    [
        ("unix:///run/docker.sock", "0.0.0.0", "127.0.0.1"),
        ("unix:///run/docker.sock", "::", "::1"),
        ("unix:///run/docker.sock", "192.0.2.7", "192.0.2.7"),
        ("tcp://localhost:2375", "127.0.0.1", "127.0.0.1"),
        ("tcp://192.0.2.1:2375", "0.0.0.0", "192.0.2.1"),
        ("ssh://me@192.0.2.1", "127.0.0.1", None),
    ],
)
def test_a_port_is_reached_where_the_engine_is(
    monkeypatch: pytest.MonkeyPatch, engine_at: str, bound: str, reached: str | None
) -> None:
    monkeypatch.setenv("DOCKER_HOST", engine_at)
    assert reachable(bound) == reached


def test_the_doctor_says_which_container_it_is_and_whether_its_programs_serve(
    shop: str, database: Connection, tmp_path: Path
) -> None:
    assert database.execute("select 1").fetchone() == (1,)
    configure(tmp_path, container=shop)
    done = cdc(tmp_path, "doctor")
    port = contained(find_container(shop), {}).parameters["port"]
    assert f"{shop}, of the image {IMAGE}; its port 5432 is published at 127.0.0.1:{port}" in done.stdout
    assert f"its pg_dump, pg_restore and psql {RELEASES[17][:-2]} can serve" in done.stdout
    configure(tmp_path, container="nobody")
    done = cdc(tmp_path, "doctor", DATABASE_URL=url_of(shop))
    assert done.code == 0, done.said
    assert "warning  container      There is no container nobody;" in done.stdout
    done = cdc(tmp_path, "doctor")
    assert done.code == 2
    assert "missing  database       There is no container nobody;" in done.stdout


def test_the_doctor_looks_at_the_room_inside_where_the_containers_programs_are_taken(
    engine: docker.DockerClient, shop: str, database: Connection, tmp_path: Path
) -> None:
    assert database.execute("select 1").fetchone() == (1,)
    configure(tmp_path, clients="container", container=shop)
    done = cdc(tmp_path, "doctor")
    assert done.code == 0, done.said
    assert "warning  space inside   not looked at, for there is no df in the container" in done.stdout
    container = engine.containers.get(shop)
    try:
        for free, code, said in (
            (10**6, 0, "ok       space inside   1"),
            (1, 3, "missing  space inside   1.0 kB free"),
        ):
            put_program(container, "bin/df", f"#!/bin/sh\necho Filesystem\necho disk 9 9 {free} 99% /tmp\n")
            done = cdc(tmp_path, "doctor")
            assert (done.code, said in done.stdout) == (code, True), done.said
        assert left_inside(engine, shop) == []
    finally:
        container.exec_run(["/bin/rm", "-f", "/bin/df"], user="0")


@pytest.fixture
def embedded(embedded_server: Server) -> Iterator[FreshDatabase]:
    """A database that is in no container."""
    with fresh_database(embedded_server) as made:
        yield made
