"""Connection strings as libpq reads them, one database for psycopg and programs alike, secrets kept."""

import os
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import hypothesis.strategies as st
import psycopg
import pytest
from hypothesis import given
from psycopg import sql

from backup.errors import BackupError, CDCBackupError, DatabaseError, UsageError
from backup.postgres.database import Database
from backup.postgres.embedded import Server
from tests.servers import FreshDatabase, find_binaries, fresh_database
from tests.sessions import clients_for, pretending, reached, write

PASSWORD = "p%40s @'\"\\:/?#&=ü w"
ROLE = "guarded"


def _url(server: Server, password: str, dbname: str = "postgres") -> str:
    return f"postgresql://{ROLE}:{quote(password, safe='')}@{server.host}:{server.port}/{dbname}"


@pytest.fixture(scope="module")
def guarded_server(embedded_server: Server) -> Iterator[Server]:
    """A server with a role whose password holds all that may have to be quoted."""
    role = sql.Identifier(ROLE)
    with psycopg.connect(embedded_server.url(), autocommit=True) as connection:
        connection.execute(sql.SQL("create role {} superuser login password {}").format(role, PASSWORD))
        yield embedded_server
        connection.execute(sql.SQL("drop role {}").format(role))


@pytest.fixture
def guarded(guarded_server: Server) -> Iterator[FreshDatabase]:
    """A database with a CDC table on that server."""
    with fresh_database(guarded_server) as database:
        database.execute("create table _cdc_t (id int primary key); insert into _cdc_t values (1), (2)")
        yield database


def _where(database: Database) -> tuple[object, ...]:
    """Where psycopg arrives, and where a program arrives in the environment made for it; they must agree."""
    with database.connect() as connection:
        row = connection.execute("select current_database(), current_user::text, inet_server_port()").fetchone()
        version = connection.info.server_version
    assert row is not None
    binaries = find_binaries("embedded") or find_binaries("machine")
    assert binaries is not None
    said = subprocess.run(
        (
            str(binaries / "psql"),
            "--no-psqlrc",
            "--no-password",
            "-Atc",
            "select current_database(), current_user, inet_server_port()",
            *database.arguments(),
        ),
        env=database.environment(),
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert said.stderr == ""
    assert said.stdout.strip() == "|".join(map(str, row)), version
    return row


@pytest.mark.parametrize(
    "form",
    [
        "postgresql://{user}:{password}@{host}:{port}/{name}",
        "postgres://{user}:{password}@{host}:{port}/{name}",
        "  postgresql://{user}:{password}@{host}:{port}/{name}\n",
        "postgresql+psycopg://{user}:{password}@{host}:{port}/{name}",
        "postgresql+psycopg2://{user}:{password}@{host}:{port}/{name}",
        "postgresql+asyncpg://{user}:{password}@{host}:{port}/{name}",
        "postgresql://{user}:{password}@{host}:{port}/{name}?schema=public",
        "postgresql://{user}:{password}@{host}:{port}/{name}?schema=public&connection_limit=5&pgbouncer=true",
        "postgresql://{user}:{password}@{host}:{port}/{name}?connect_timeout=5&schema=public&sslmode=prefer",
        "postgresql://{user}:{password}@{host}:{port}/{name}?sslmode=prefer&pool_timeout=0",
        "postgresql://{user}:{password}@{host}:{port}/{name}?options=-c%20search_path%3Dpublic",
        "postgresql://{user}:{password}@{host}/{name}?port={port}",
        "postgresql:///{name}?host={host}&port={port}&user={user}&password={password}",
        "host={host} port={port} user={user} password={password} dbname={name}",
        "host = '{host}' port={port} user={user} password={password} dbname='{name}' application_name=other",
        "postgresql://{user}:{password}@127.0.0.1:1,{host}:{port}/{name}",
        "postgresql://{user}:{password}@{host}:{port}/{name}?target_session_attrs=read-write&keepalives=1",
    ],
)
def test_every_way_to_write_it_leads_to_the_same_database(database: FreshDatabase, form: str) -> None:
    server = database.server
    url = form.format(
        user=server.superuser, password=server.password, host=server.host, port=server.port, name=database.name
    )
    assert _where(Database.from_url(url, "x")) == (database.name, server.superuser, server.port)


def test_a_url_wins_over_every_variable(database: FreshDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "PGHOST": "nowhere.invalid",
        "PGHOSTADDR": "",
        "PGPORT": "1",
        "PGDATABASE": "other",
        "PGUSER": "other",
        "PGPASSWORD": "other",
        "PGAPPNAME": "other",
    }.items():
        monkeypatch.setenv(name, value)
    assert _where(reached(database)) == (database.name, database.server.superuser, database.server.port)


def test_what_a_url_leaves_out_comes_from_variables(database: FreshDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    server = database.server
    monkeypatch.setenv("PGPORT", str(server.port))
    monkeypatch.setenv("PGUSER", server.superuser)
    monkeypatch.setenv("PGPASSWORD", server.password)
    found = Database.from_url(f"postgresql://{server.host}/{database.name}", "x")
    assert str(found) == f"{database.name} on {server.host}:{server.port} as {server.superuser}"
    assert _where(found) == (database.name, server.superuser, server.port)


def test_variables_alone_name_a_database(database: FreshDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Database.from_environment() is None
    monkeypatch.setenv("PGUSER", database.server.superuser)
    monkeypatch.setenv("PGPASSWORD", database.server.password)
    monkeypatch.setenv("PGPORT", str(database.server.port))
    assert Database.from_environment() is None
    monkeypatch.setenv("PGHOST", database.server.host)
    monkeypatch.setenv("PGDATABASE", database.name)
    found = Database.from_environment()
    assert found is not None
    assert _where(found) == (database.name, database.server.superuser, database.server.port)
    assert found.source == "the PG* variables"


def test_a_service_file_names_a_database(
    database: FreshDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = database.server
    (tmp_path / "services").write_text(
        f"[mine]\nhost={server.host}\nport={server.port}\nuser={server.superuser}\npassword={server.password}\n"
        f"dbname={database.name}\n"
    )
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    expected = (database.name, server.superuser, server.port)
    assert _where(Database.from_url("service=mine", "x")) == expected
    monkeypatch.setenv("PGSERVICE", "mine")
    found = Database.from_environment()
    assert found is not None
    assert _where(found) == expected


def test_another_database_of_the_server_is_reached_the_same_way(guarded: FreshDatabase) -> None:
    there = Database.from_url(_url(guarded.server, PASSWORD, guarded.name), "x")
    assert _where(there) == (guarded.name, ROLE, guarded.server.port)
    assert _where(there.named("postgres")) == ("postgres", ROLE, guarded.server.port)
    odd = 'it\'s a "name" %41 = x'
    with psycopg.connect(guarded.server.url(), autocommit=True) as connection:
        connection.execute(sql.SQL("create database {}").format(sql.Identifier(odd)))
        assert _where(there.named(odd)) == (odd, ROLE, guarded.server.port)
        assert _where(Database.from_url(_url(guarded.server, PASSWORD, quote(odd, safe="")), "x"))[0] == odd
        connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(odd)))


def test_a_password_may_stand_in_a_passfile_or_a_variable(
    guarded: FreshDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"postgresql://{ROLE}@127.0.0.1:{guarded.server.port}/{guarded.name}"
    expected = (guarded.name, ROLE, guarded.server.port)
    passfile = tmp_path / "pgpass"
    passfile.write_text(f"*:*:*:{ROLE}:{PASSWORD.replace(chr(92), chr(92) * 2).replace(':', chr(92) + ':')}\n")
    passfile.chmod(0o600)
    assert _where(Database.from_url(f"{url}?passfile={quote(str(passfile))}", "x")) == expected
    monkeypatch.setenv("PGPASSFILE", str(passfile))
    assert _where(Database.from_url(url, "x")) == expected
    monkeypatch.delenv("PGPASSFILE")
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    assert _where(Database.from_url(url, "x")) == expected


def test_programs_see_no_variable_of_libpq_that_does_not_belong_to_the_database(
    database: FreshDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOMETHING_ELSE", "stays")
    there = reached(database)
    with there.connect(), monkeypatch.context() as late:
        late.setenv("PGSERVICE", "late")
        late.setenv("PGOPTIONS", "-c search_path=late")
        environment = there.environment()
    assert "PGSERVICE" not in environment
    assert "PGOPTIONS" not in environment
    assert environment["SOMETHING_ELSE"] == "stays"
    assert environment["PGDATABASE"] == database.name


def _everything_said(error: CDCBackupError) -> str:
    return "".join(traceback.format_exception(error)) + repr(error) + str(error) + repr(error.args)


def _spellings(password: str) -> set[str]:
    """How the password would look if it slipped out."""
    return {password, quote(password, safe=""), quote(password), repr(password)[1:-1], password.replace("'", "''")}


def test_a_password_appears_nowhere(guarded: FreshDatabase, tmp_path: Path) -> None:
    database = Database.from_url(_url(guarded.server, PASSWORD, guarded.name), "DATABASE_URL")
    log = tmp_path / "argv"
    clients = pretending(tmp_path / "bin", clients_for(guarded), f'printf "%s\\n" "$@" >> "{log}"\nreal "$@"')
    session = write(database, tmp_path / "root", clients=clients)
    argv = log.read_text()
    assert f"--snapshot={session.manifest.snapshot}" in argv
    texts = {"argv": argv, "repr": repr(database), "str": str(database), "session": repr(session)}
    texts |= {path.name: path.read_text() for path in session.path.iterdir()}
    texts["arguments"] = repr(database.arguments())
    for where, text in texts.items():
        for spelling in _spellings(PASSWORD):
            assert spelling not in text, where


def test_a_password_is_in_no_error_of_a_failed_backup(guarded: FreshDatabase, tmp_path: Path) -> None:
    database = Database.from_url(_url(guarded.server, PASSWORD, guarded.name), "DATABASE_URL")
    clients = pretending(tmp_path / "bin", clients_for(guarded), 'real "$@" --no-such-option')
    with pytest.raises(BackupError) as caught:
        write(database, tmp_path / "root", clients=clients)
    said = _everything_said(caught.value)
    assert "no-such-option" in said
    assert not any(spelling in said for spelling in _spellings(PASSWORD))


def test_a_wrong_password_is_an_error_that_names_all_but_the_password(guarded: FreshDatabase, tmp_path: Path) -> None:
    wrong = f"{PASSWORD} wrong"
    with pytest.raises(DatabaseError) as caught:
        write(Database.from_url(_url(guarded.server, wrong, guarded.name), "DATABASE_URL in .env"), tmp_path)
    message = str(caught.value)
    for part in (
        f"127.0.0.1:{guarded.server.port}",
        guarded.name,
        f"as {ROLE}",
        "DATABASE_URL in .env",
        "password authentication failed",
        "Nothing was read or changed.",
    ):
        assert part in message
    assert not any(spelling in _everything_said(caught.value) for spelling in _spellings(wrong))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("url", "cause"),
    [
        ("postgresql://u:s3cret@127.0.0.1:1/shop", "refused"),
        ("postgresql://u:s3cret@no-such-host.invalid:5432/shop", "no-such-host.invalid"),
        ("postgresql://u:s3cret@/shop?host=/no/such/folder&port=5432", "/no/such/folder"),
    ],
)
def test_a_server_that_is_not_there_is_an_error_that_names_it_and_the_cause(url: str, cause: str) -> None:
    database = Database.from_url(url, "DATABASE_URL")
    with pytest.raises(DatabaseError) as caught, database.connect():
        pass
    message = str(caught.value)
    assert f"No connection to {database} (from DATABASE_URL): " in message
    assert cause in message
    assert "s3cret" not in _everything_said(caught.value)


def test_a_database_that_is_not_there_is_an_error_that_names_it(server: Server) -> None:
    with (
        pytest.raises(DatabaseError, match=r'No connection to nowhere on .*database "nowhere" does not exist'),
        Database.from_url(server.url("nowhere"), "x").connect(),
    ):
        pass


def test_a_lost_connection_is_an_error_that_names_the_database(database: FreshDatabase) -> None:
    with pytest.raises(DatabaseError) as caught, reached(database).connect() as connection:  # noqa: PT012
        database.execute(f"select pg_terminate_backend({connection.info.backend_pid}, 10000)")
        connection.execute("select 1")
    assert f"{reached(database)} refused or was lost: " in str(caught.value)


@pytest.mark.parametrize(
    ("url", "cause"),
    [
        ("postgresql://u:s3cret%zz@h/d", "a % in it is not followed by two hexadecimal digits"),
        ("postgresql://u:s3cret%@h/d", "a % in it is not followed by two hexadecimal digits"),
        ("postgresql://u:s3cret@h/d?nonsense=s3cret", "libpq has no parameter 'nonsense'"),
        ("mysql://u:s3cret@h/d", "it does not start with postgresql://"),
        ("https://u:s3cret@h/d", "it does not start with postgresql://"),
        ("s3cret", "it is neither a URL nor keyword=value pairs"),
        ("password=s3cret nonsense", "it is neither a URL nor keyword=value pairs"),
        ("postgresql://u:s3cret@[h/d", "it is neither a URL nor keyword=value pairs"),
    ],
)
def test_a_string_that_cannot_be_read_is_refused_without_quoting_it(url: str, cause: str) -> None:
    with pytest.raises(UsageError) as caught:
        Database.from_url(url, "DATABASE_URL in /app/.env")
    assert str(caught.value).startswith("DATABASE_URL in /app/.env holds no connection string that libpq understands: ")
    assert cause in str(caught.value)
    assert "s3cret" not in _everything_said(caught.value)


@given(password=st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=4, max_size=30))
def test_any_password_is_read_as_it_was_quoted_and_shown_nowhere(password: str) -> None:
    database = Database.from_url(f"postgresql://u:{quote(password, safe='')}@h:5432/d", "x")
    assert database.parameters["password"] == password
    assert str(database) == "d on h:5432 as u"
    assert "password" not in repr(database)


@given(password=st.text(st.characters(codec="utf-8", exclude_characters="\x00\n\r"), min_size=1, max_size=30))
def test_any_password_reaches_programs_as_it_is(guarded_server: Server, password: str) -> None:
    with _role_with(guarded_server, password):
        assert _where(Database.from_url(_url(guarded_server, password), "x"))[1] == ROLE


@pytest.mark.parametrize("password", ["s3cret\nlines", "s3cret\n", "s3cret\r"])
def test_a_password_that_no_passfile_can_hold_is_refused_rather_than_cut_off(
    guarded_server: Server, password: str
) -> None:
    with _role_with(guarded_server, password), pytest.raises(UsageError) as caught:
        Database.from_url(_url(guarded_server, password), "x").environment()
    assert "line break" in str(caught.value)
    assert "s3cret" not in _everything_said(caught.value)


@contextmanager
def _role_with(server: Server, password: str) -> Iterator[None]:
    change = sql.SQL("alter role {} password {}")
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(change.format(sql.Identifier(ROLE), sql.Literal(password)))
        try:
            yield
        finally:
            connection.execute(change.format(sql.Identifier(ROLE), sql.Literal(PASSWORD)))


@given(url=st.text(max_size=40).map("postgresql://u:s3cret%@".__add__))
def test_no_refusal_quotes_a_password(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        Database.from_url(url, "x")
    assert "s3cret" not in _everything_said(caught.value)


def test_of_a_lost_connection_no_library_writes_on_stderr(guarded: FreshDatabase) -> None:
    code = """if True:
        import os, sys
        from backup.errors import DatabaseError
        from backup.postgres.database import Database
        try:
            with Database.from_url(os.environ["WHERE"], "a test").connect() as connection:
                connection.execute("begin")
                with connection.transaction():
                    connection.execute("select pg_terminate_backend(pg_backend_pid())")
        except DatabaseError:
            sys.exit(77)
    """
    environment = {**os.environ, "WHERE": guarded.url}
    done = subprocess.run((sys.executable, "-c", code), env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (77, "")
