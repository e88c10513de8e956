"""A scratch database is there while its run lives, and is never somebody else's."""

import contextlib
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from backup.errors import BackupError
from backup.postgres.embedded import Server
from backup.postgres.scratch import scratch_database
from tests.servers import FreshDatabase, clean_environment, fresh_database
from tests.sessions import database_with, fresh_role, reached

OWNER = """
    import signal, sys
    from backup.postgres.database import Database
    from backup.postgres.scratch import scratch_database
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with scratch_database(Database.from_url(sys.argv[1], "a test"), sys.argv[2]) as scratch:
        print(scratch.database.name, flush=True)
        sys.stdin.readline()
"""


def scratches(server: Server) -> set[str]:
    """The scratch databases that are on the server."""
    with psycopg.connect(server.url()) as connection:
        found = connection.execute("select datname::text from pg_database where starts_with(datname, 'cdc_scratch_')")
        return {name for (name,) in found}


@contextlib.contextmanager
def owner(database: FreshDatabase, where: str = "server") -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Another process with a scratch database of its own, and that one's name."""
    argv = (sys.executable, "-c", textwrap.dedent(OWNER), database.url, where)
    with subprocess.Popen(
        argv,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=clean_environment(),
    ) as process:
        try:
            assert process.stdout
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def _end(process: subprocess.Popen[str], server: Server, name: str) -> None:
    """Kill the process, and wait until the server has noticed."""
    process.kill()
    process.wait()
    with psycopg.connect(server.url(), autocommit=True) as connection:
        while connection.execute("select 1 from pg_stat_activity where datname = %s", [name]).fetchone():
            connection.execute("select pg_sleep(0.01)")


@pytest.mark.parametrize("failure", [None, KeyboardInterrupt, BackupError("no")])
def test_it_is_gone_when_it_is_left(
    database: FreshDatabase, failure: BaseException | type[BaseException] | None
) -> None:
    before = scratches(database.server)
    with contextlib.suppress(KeyboardInterrupt, BackupError), scratch_database(reached(database), "server") as scratch:
        assert scratches(database.server) - before == {scratch.database.name}
        with scratch.database.connect() as connection:
            connection.execute("create table public.t ()")
        if failure:
            raise failure
    assert scratches(database.server) == before


def test_it_is_dropped_from_under_whoever_is_still_connected(database: FreshDatabase) -> None:
    before = scratches(database.server)
    with scratch_database(reached(database), "server") as scratch:
        left = psycopg.connect(database.server.url(scratch.database.name))
    assert scratches(database.server) == before
    left.close()


def test_interrupted_run_leaves_none(embedded_server: Server) -> None:
    with fresh_database(embedded_server) as database, owner(database) as (process, name):
        assert name in scratches(embedded_server)
        process.send_signal(signal.SIGINT)
        process.communicate()
        assert name not in scratches(embedded_server)


def test_that_of_a_killed_run_is_dropped_by_the_next_also_of_another_database(server: Server) -> None:
    with fresh_database(server) as one, fresh_database(server) as other:
        with owner(one) as (process, name):
            _end(process, server, name)
        assert name in scratches(server)
        with scratch_database(reached(other), "server"):
            assert name not in scratches(server)


def test_that_of_a_living_run_is_let_alone_also_by_runs_for_other_databases(server: Server) -> None:
    with fresh_database(server) as one, fresh_database(server) as other, owner(one) as (process, name):
        for database in (one, other):
            with scratch_database(reached(database), "server"):
                assert name in scratches(server)
        process.communicate("\n")
        assert name not in scratches(server)


@pytest.mark.parametrize("name", ["cdc_scratch_old", "cdc_scratch_0123456789ab", "cdc_scratch_0123456789abc"])
def test_databases_of_others_are_let_alone_whatever_their_names(embedded_server: Server, name: str) -> None:
    with fresh_database(embedded_server) as database, psycopg.connect(embedded_server.url(), autocommit=True) as c:
        c.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        try:
            c.execute(sql.SQL("comment on database {} is 'mine'").format(sql.Identifier(name)))
            with scratch_database(reached(database), "server"):
                assert name in scratches(embedded_server)
        finally:
            c.execute(sql.SQL("drop database {}").format(sql.Identifier(name)))


def test_role_that_may_not_create_databases_gets_a_private_server(server: Server) -> None:
    with fresh_role(server) as role, fresh_database(server) as database:
        with scratch_database(reached(database, user=role), "auto") as scratch:
            assert scratch.place == "an embedded server on this machine"
            assert scratch.database.parameters["port"] != str(server.port)
            with scratch.database.connect() as connection:
                connection.execute(sql.SQL("set role {}").format(sql.Identifier(role)))
        with (
            pytest.raises(BackupError, match="CREATEDB") as raised,
            scratch_database(reached(database, user=role), "server"),
        ):
            pytest.fail("it was made")
        assert f"the role {role} may create none" in raised.value.what


def test_role_that_may_create_databases_gets_one_beside_the_original(server: Server) -> None:
    with fresh_role(server, "login createdb") as role, fresh_database(server) as database:
        there = reached(database, user=role)
        with scratch_database(there, "auto") as scratch:
            assert scratch.database.parameters["port"] == str(server.port)
            assert scratch.database.name in scratches(server)
        assert scratch.database.name not in scratches(server)


def test_url_names_another_server(machine_server: Server, embedded_server: Server) -> None:
    with fresh_database(machine_server) as database:
        with scratch_database(reached(database), embedded_server.url()) as scratch:
            assert scratch.database.name in scratches(embedded_server)
            assert embedded_server.password not in scratch.place
        assert scratch.database.name not in scratches(embedded_server)


@pytest.mark.parametrize("options", ["encoding 'LATIN1' lc_collate 'C' lc_ctype 'C'", "encoding 'SQL_ASCII'"])
@pytest.mark.parametrize("where", ["server", "embedded"])
def test_it_has_the_encoding_of_the_original(machine_server: Server, options: str, where: str) -> None:
    query = "show server_encoding"
    with (
        database_with(machine_server, options) as database,
        scratch_database(reached(database), where) as scratch,
        scratch.database.connect() as connection,
        reached(database).connect() as original,
    ):
        assert connection.execute(query).fetchall() == original.execute(query).fetchall()


def test_the_private_servers_are_closed_to_everybody_else(embedded_server: Server) -> None:
    """It holds the rows of production."""
    with fresh_database(embedded_server) as database, scratch_database(reached(database), "embedded") as scratch:
        parameters = {**scratch.database.parameters, "password": ""}
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(**parameters)  # type: ignore[arg-type]
