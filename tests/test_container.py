"""PostgreSQL in a container: found, reached, and its own programs used, with nothing left behind."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import docker
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from backup.errors import BackupError, UsageError
from backup.postgres import container_clients as module
from backup.postgres.container import contained, find_container
from backup.postgres.embedded import Server
from backup.postgres.tables import Connection
from tests.chain import CDC_BACKUP, Ended, Project, environment
from tests.engine import PASSWORD, running, started_engine, swept
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


def server_in(container: str) -> Connection:
    """A connection to the server in it."""
    return psycopg.connect(make_conninfo(**contained(find_container(name=container)).parameters), autocommit=True)


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


def left_inside(engine: docker.DockerClient, name: str) -> list[str]:
    """What is in /tmp of the container, apart from the server's own socket."""
    said = engine.containers.get(name).exec_run(["ls", "-1A", "/tmp"]).output
    assert isinstance(said, bytes)
    return [one for one in said.decode().split() if not one.startswith(".s.PGSQL")]


@pytest.mark.parametrize("how", ["container", "compose_service"])
def test_back_up_drill_lose_and_restore_with_the_containers_own_programs(
    engine: docker.DockerClient, shop: str, database: Connection, tmp_path: Path, how: str
) -> None:
    named = {"container": shop} if how == "container" else {"compose_service": f"{ME}-db"}
    configure(tmp_path, clients="container", drill=True, **named)
    done = cdc(tmp_path, "backup")
    assert done.code == 0, done.said
    (summary,) = tmp_path.glob("local/backups/drizzle/cdc/backup_*/backup-summary.txt")
    assert f"with pg_dump {RELEASES[17][:-2]}" in summary.read_text()
    before = database.execute("select * from _cdc_users order by id").fetchall()
    database.execute("drop table _cdc_users, _cdc_loose, _cdc_empty")
    done = cdc(tmp_path, "restore", "--yes")
    assert done.code == 0, done.said
    assert database.execute("select * from _cdc_users order by id").fetchall() == before
    assert database.execute("select f::text from _cdc_loose order by f").fetchall() == [("-0",), ("1",)]
    assert left_inside(engine, shop) == []
    assert PASSWORD.encode() not in engine.containers.get(shop).logs()  # type: ignore[operator]


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
    done = cdc(tmp_path, "backup", APP_NAME=ME, POSTGRES_DB="nowhere")
    assert done.code == 3
    assert 'database "nowhere" does not exist' in done.said
    done = cdc(tmp_path, "doctor", APP_NAME=ME)
    assert f"named by the container {shop}" in done.stdout, done.said


def test_a_url_that_leads_to_another_server_than_the_container_is_refused(
    shop: str, embedded: FreshDatabase, tmp_path: Path
) -> None:
    configure(tmp_path, clients="container", container=shop)
    done = cdc(tmp_path, "backup", DATABASE_URL=embedded.url)
    assert done.code == 3
    assert f"is not the server in the container {shop}" in done.said


def test_a_migration_is_rehearsed_guarded_and_judged_with_the_containers_programs(
    engine: docker.DockerClient, shop: str, database: Connection, tmp_path: Path
) -> None:
    port = contained(find_container(name=shop)).parameters["port"]
    url = f"postgresql://postgres:{quote(PASSWORD)}@127.0.0.1:{port}/postgres"
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
    configure(tmp_path, clients="container", container=shop, lock_timeout="60s")
    # pg_dump waits for what it needs besides the tables
    database.execute("create type mood as enum ('a'); alter table _cdc_empty add m mood")
    database.execute("begin; lock table pg_catalog.pg_description in access exclusive mode")
    variables = environment(tmp_path, DOCKER_HOST=os.environ["DOCKER_HOST"])
    with (
        subprocess.Popen((CDC_BACKUP, "backup"), cwd=tmp_path, env=variables, stdout=subprocess.PIPE) as started,
        server_in(shop) as seen,
    ):
        waiting = (
            "select count(*) from pg_stat_activity where application_name ~ '^cdc-backup-' and wait_event_type = 'Lock'"
        )
        while seen.execute(waiting).fetchone() == (0,):
            assert started.poll() is None
        started.send_signal(signal.SIGINT)
        started.communicate(timeout=60)
        assert started.returncode == 130
        assert seen.execute(waiting).fetchone() == (0,)
    database.execute("rollback")
    assert left_inside(engine, shop) == []
    assert list(tmp_path.glob("local/backups/drizzle/cdc/backup_*")) == []


def test_what_a_killed_run_left_inside_the_next_one_clears(
    engine: docker.DockerClient, shop: str, database: Connection, tmp_path: Path
) -> None:
    assert database.execute("select count(*) from _cdc_users").fetchone() == (1000,)
    nobody = subprocess_that_ended()
    others = f"cdc-backup-other-{nobody}-abcd"
    container = engine.containers.get(shop)
    container.exec_run(["mkdir", f"/tmp/cdc-backup-{module._machine()}-{nobody}-abcd", f"/tmp/{others}"])
    configure(tmp_path, clients="container", container=shop)
    assert cdc(tmp_path, "backup").code == 0
    assert left_inside(engine, shop) == [others]
    container.exec_run(["rm", "-rf", f"/tmp/{others}"])


def subprocess_that_ended() -> int:
    """The number of a process that is over."""
    with subprocess.Popen(("true",)) as process:
        process.wait()
    return process.pid


def test_without_a_published_port_the_lines_for_the_compose_file_are_said(engine: docker.DockerClient) -> None:
    with running(engine, f"{ME}-inner", labels=labels("p", "db")) as name:
        found = find_container(name=name)
    with pytest.raises(UsageError) as caught:
        contained(found)
    assert 'services:\n  db:\n    ports: ["127.0.0.1:5432:5432"]' in str(caught.value)


def test_a_container_that_is_stopped_or_unknown_or_not_the_only_one_is_said(
    engine: docker.DockerClient, shop: str
) -> None:
    with pytest.raises(UsageError, match="There is no container nobody") as caught:
        find_container(name="nobody")
    assert shop in str(caught.value)
    with pytest.raises(UsageError, match="There is no container of the compose service cache") as caught:
        find_container(service="cache")
    assert f"{ME}-db" in str(caught.value)
    service = f"{ME}-db"
    with running(engine, f"{ME}-bar", labels=labels("bar", service)) as other:
        assert find_container(service=service, project="shop").name == shop
        assert find_container(service=service, project="bar").name == other
        with pytest.raises(UsageError, match=service):
            find_container(service=service, project="elsewhere")
        engine.containers.get(other).stop(timeout=5)
        with pytest.raises(UsageError, match=rf"The container {other} is exited\.") as caught:
            find_container(name=other)
        assert f"docker compose start {service}" in str(caught.value)


def test_no_engine_and_no_right_to_ask_it_are_a_sentence_each(
    engine: docker.DockerClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert engine.ping()
    socket = os.environ["DOCKER_HOST"].removeprefix("unix://")
    folder = Path(socket).parent
    folder.chmod(0o711)
    os.seteuid(65534)
    try:
        with swept(), pytest.raises(UsageError, match="permission on its socket is denied"):
            find_container(name="x")
    finally:
        os.seteuid(0)
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    with swept(), pytest.raises(UsageError, match=r"No Docker engine answers at unix://"):
        find_container(name="x")


def test_a_container_without_the_programs_is_refused(shop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    container = find_container(name=shop)
    monkeypatch.setattr(module, "execute", lambda *_: (127, b"", b"no such file"))
    with pytest.raises(BackupError, match=f"pg_dump does not run in the container {shop}"):
        module.container_clients(container, contained(container))


@pytest.fixture
def embedded(embedded_server: Server) -> Iterator[FreshDatabase]:
    """A database that is in no container."""
    with fresh_database(embedded_server) as made:
        yield made
