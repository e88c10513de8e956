"""Servers as they stand in the world: behind TLS, poolers and sockets, standbys, full or not yet up."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
from psycopg import sql

from backup.errors import BackupError, DatabaseError, RestoreError, UsageError
from backup.postgres import pooler
from backup.postgres.account import find_account
from backup.postgres.database import Database
from backup.postgres.embedded import DISPOSABLE, Server, start_server
from backup.postgres.find_clients import find_clients
from backup.postgres.owned_folder import owned_folder
from backup.postgres.scratch import scratch_database
from backup.session.drill import drill_session
from tests.certificates import Authority, make_authority
from tests.chain import new_project
from tests.lacking import lacking
from tests.poolers import hammering, pgbouncer, proxy, through
from tests.restoring import bring_back
from tests.servers import FreshDatabase, clean_environment, find_binaries, fresh_database
from tests.sessions import clients_for, fresh_role, reached, snapshot, write
from tests.standbys import catch_up, standby, starting_server

ROWS = "create table _cdc_t (id int primary key); insert into _cdc_t select generate_series(1, 50)"


def psql(database: Database, query: str) -> str:
    """What the machine's psql says in the environment that is made for programs."""
    binaries = find_binaries("machine") or find_binaries("embedded")
    assert binaries is not None
    done = subprocess.run(
        (str(binaries / "psql"), "--no-psqlrc", "--no-password", "-Atc", query, *database.arguments()),
        env=database.environment(),
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


def arrives(database: Database, query: str) -> str:
    """What both psycopg and psql say; they must agree."""
    with database.connect() as connection:
        row = connection.execute(sql.SQL("select ({})::text").format(sql.SQL(query))).fetchone()
    assert row is not None
    assert psql(database, f"select ({query})::text") == row[0]
    return str(row[0])


def refusal(url: str) -> str:
    """What is said of a database that cannot be reached; it holds no password and has its three parts."""
    database = Database.from_url(url, "DATABASE_URL")
    with pytest.raises(DatabaseError) as caught, database.connect():
        pass
    message = str(caught.value)
    first, untouched, remedy = message.splitlines()
    assert untouched == "Nothing was read or changed."
    assert remedy
    assert str(database) in first
    secret = database.parameters.get("password")
    assert secret is None or secret not in message
    return message


# --- poolers


@pytest.fixture
def shop(machine_server: Server) -> Iterator[FreshDatabase]:
    """A database with a CDC table of fifty rows."""
    with fresh_database(machine_server) as database:
        database.execute(ROWS)
        yield database


def test_a_pooler_in_session_mode_is_as_good_as_the_server(shop: FreshDatabase, tmp_path: Path) -> None:
    with pgbouncer(shop.server, "session") as port:
        database = Database.from_url(through(shop.url, shop.server, port), "DATABASE_URL")
        assert arrives(database, "select current_database()") == shop.name
        session = write(database, tmp_path)
        with scratch_database(database, "server") as scratch:
            drill = drill_session(session, scratch=scratch, clients=clients_for(shop), jobs=2)
        assert [(table.name, table.rows) for table in drill.tables] == [("_cdc_t", 50)]
        # pgbouncer would hold the database open
        shop.execute("select 1")


@pytest.mark.parametrize(
    ("mode", "settings"),
    [
        ("transaction", ()),
        ("transaction", ("default_pool_size = 1",)),
        ("transaction", ("default_pool_size = 3", "server_round_robin = 1", "min_pool_size = 3")),
        ("statement", ()),
        ("statement", ("default_pool_size = 1",)),
    ],
)
def test_a_pooler_that_shares_its_sessions_is_refused_and_finds_nothing_changed_in_them(
    shop: FreshDatabase, mode: str, settings: tuple[str, ...]
) -> None:
    query = "select name, setting from pg_settings where source = 'session' and name <> 'application_name'"
    with pgbouncer(shop.server, mode, *settings) as port:
        url = through(shop.url, shop.server, port)
        with psycopg.connect(url, autocommit=True) as application:
            before = application.execute(query).fetchall()
            message = refusal(url)
            assert "behind a connection pooler, and the session there is not ours alone" in message
            assert "session mode" in message
            for _ in range(5):
                assert application.execute(query).fetchall() == before


@pytest.mark.parametrize("settings", [(), ("server_round_robin = 1",), ("default_pool_size = 3",)])
def test_a_shared_pool_is_found_out_while_an_application_is_busy_in_it(
    shop: FreshDatabase, settings: tuple[str, ...]
) -> None:
    with pgbouncer(shop.server, "transaction", *settings) as port:
        url = through(shop.url, shop.server, port)
        with hammering(url, clients=5):
            for _ in range(5):
                assert "gives its server connections to others" in refusal(url)


def test_a_pool_that_is_too_small_is_refused_with_what_the_pooler_said(shop: FreshDatabase) -> None:
    with pgbouncer(shop.server, "session", "default_pool_size = 1", "query_wait_timeout = 1") as port:
        message = refusal(through(shop.url, shop.server, port))
    assert "it answered 'FATAL: query_wait_timeout'" in message
    assert "with connections to spare" in message


def test_a_pooler_that_keeps_us_waiting_is_not_waited_for(shop: FreshDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pooler, "_PATIENCE", 0.2)
    with pgbouncer(shop.server, "session", "default_pool_size = 2") as port:
        message = refusal(through(shop.url, shop.server, port))
    assert "it had no further server connection for us within 0.2 s" in message


def test_a_proxy_that_only_passes_bytes_on_is_no_pooler(shop: FreshDatabase, tmp_path: Path) -> None:
    with proxy(shop.server) as port:
        session = write(Database.from_url(through(shop.url, shop.server, port), "x"), tmp_path)
    assert session.rows == 50


def test_options_that_a_pooler_does_not_take_are_named(shop: FreshDatabase) -> None:
    with pgbouncer(shop.server, "session") as port:
        message = refusal(f"{through(shop.url, shop.server, port)}?options=-c%20geqo%3Doff")
    assert "unsupported startup parameter: options" in message
    assert "leave it out" in message


# --- one server of several


@pytest.fixture(scope="module")
def replica(machine_server: Server) -> Iterator[Server]:
    """A hot standby of the machine's server."""
    with standby(machine_server) as copy:
        yield copy


@pytest.mark.parametrize("standby_first", [True, False])
def test_of_several_hosts_the_one_that_is_asked_for_is_reached_by_all(
    machine_server: Server, replica: Server, standby_first: bool
) -> None:
    ports = [replica.port, machine_server.port][:: 1 if standby_first else -1]
    hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
    url = machine_server.url().replace(f"127.0.0.1:{machine_server.port}", hosts)
    for asked, port in {
        "any": ports[0],
        "read-write": machine_server.port,
        "primary": machine_server.port,
        "read-only": replica.port,
        "standby": replica.port,
        "prefer-standby": replica.port,
    }.items():
        database = Database.from_url(f"{url}?target_session_attrs={asked}", "DATABASE_URL")
        assert arrives(database, "select inet_server_port()") == str(port), asked
        assert arrives(database.named("template1"), "select inet_server_port()") == str(port), asked


def test_a_server_that_is_not_what_was_asked_for_is_told_so(replica: Server) -> None:
    message = refusal(f"{replica.url()}?target_session_attrs=read-write")
    assert "No server of DATABASE_URL is what its target_session_attrs asks for." in message


def test_all_connections_and_programs_stay_with_the_server_that_was_reached_first(shop: FreshDatabase) -> None:
    with proxy(shop.server) as port:
        hosts = f"@127.0.0.1:{port},127.0.0.1:{shop.server.port}/"
        database = Database.from_url(shop.url.replace(f"@127.0.0.1:{shop.server.port}/", hosts), "DATABASE_URL")
        assert arrives(database, "select 1") == "1"
        assert database.environment()["PGPORT"] == str(port)
        assert database.environment()["PGHOSTADDR"] == "127.0.0.1"
    with pytest.raises(DatabaseError, match="Connection refused"), database.connect():
        pass


# --- a standby


def test_a_standby_is_backed_up_and_proven_on_an_embedded_server(
    shop: FreshDatabase, replica: Server, tmp_path: Path
) -> None:
    catch_up(replica, shop.server)
    database = Database.from_url(replica.url(shop.name), "DATABASE_URL")
    session = write(database, tmp_path)
    assert session.rows == 50
    with scratch_database(database, "auto") as scratch:
        assert scratch.place == "an embedded server on this machine"
        clients = find_clients(scratch.database)
        assert drill_session(session, scratch=scratch, clients=clients, jobs=2).problem == ""


def test_a_restore_onto_a_standby_is_refused_by_a_sentence_before_anything(
    shop: FreshDatabase, replica: Server, tmp_path: Path
) -> None:
    catch_up(replica, shop.server)
    session = write(shop, tmp_path)
    there = Database.from_url(replica.url(shop.name), "DATABASE_URL")
    with pytest.raises(RestoreError) as caught:
        bring_back(there, session)
    assert caught.value.what == f"{there} is a standby, where nothing can be written."
    assert "target_session_attrs=read-write" in caught.value.remedy
    assert bring_back(there, session, plan_only=True).plan


def test_a_snapshot_knows_whether_it_is_a_standbys(shop: FreshDatabase, replica: Server) -> None:
    catch_up(replica, shop.server)
    with snapshot(Database.from_url(replica.url(shop.name), "DATABASE_URL")) as there, snapshot(shop) as here:
        assert (there.standby, here.standby) == (True, False)
        assert there.wal
        assert there.counts == here.counts


def test_an_unlogged_table_is_refused_by_name_on_a_standby_alone(
    shop: FreshDatabase, replica: Server, tmp_path: Path
) -> None:
    shop.execute("create unlogged table _cdc_fast (id int); insert into _cdc_fast values (1)")
    catch_up(replica, shop.server)
    with pytest.raises(BackupError) as caught:
        write(Database.from_url(replica.url(shop.name), "DATABASE_URL"), tmp_path / "standby")
    assert "public._cdc_fast: is unlogged, and this server is a standby" in str(caught.value)
    assert "use the primary" in str(caught.value)
    assert write(shop, tmp_path / "primary").rows == 51


# --- TLS


@pytest.fixture(scope="module")
def authority() -> Iterator[Authority]:
    """A certificate authority in a folder that servers can read."""
    account = find_account()
    with owned_folder(account.place(), account.user, account.group) as folder:
        yield make_authority(folder / "data", "authority")


@pytest.fixture(scope="module")
def tls_server(authority: Authority) -> Iterator[Server]:
    """A server with a certificate for localhost, and roles that TLS is demanded of, refused, and a certificate."""
    binaries = find_binaries("machine")
    if binaries is None:
        lacking("TLS (this machine has no PostgreSQL of its own; the embedded one is built without)")
    certificate, key = authority.issue("server", names="DNS:localhost")
    account = find_account()
    if account.user is not None:
        for file in (certificate, key, authority.certificate):
            shutil.chown(file, account.user, account.group)
    files = {"ssl_cert_file": str(certificate), "ssl_key_file": str(key), "ssl_ca_file": str(authority.certificate)}
    with start_server(binaries, settings={**DISPOSABLE, "ssl": "on", **files}) as server:
        rules = server.data / "pg_hba.conf"
        before = rules.read_text()
        with psycopg.connect(server.url(), autocommit=True) as connection:
            for role in ("demanded", "refused", "certified"):
                connection.execute(
                    sql.SQL("create role {} login password {}").format(sql.Identifier(role), server.password)
                )
            rules.write_text(
                "hostnossl all demanded all reject\nhostssl all refused all reject\n"
                f"hostssl all certified all cert\n{before}"
            )
            connection.execute("select pg_reload_conf()")
        loaded = False
        while not loaded:  # the postmaster reads the file when it comes to it
            try:
                psycopg.connect(_as(server, "demanded", "sslmode=disable")).close()
            except psycopg.OperationalError:
                loaded = True
        yield server


def _as(server: Server, role: str, query: str, host: str = "localhost") -> str:
    url = f"postgresql://{role}:{server.password}@{host}:{server.port}/postgres?{query}"
    return url + "&hostaddr=127.0.0.1" if host == "localhost" else url


ENCRYPTED = "select ssl from pg_stat_ssl where pid = pg_backend_pid()"


@pytest.mark.parametrize("sslmode", ["require", "verify-ca", "verify-full"])
def test_tls_is_verified_as_the_url_asks_by_psycopg_and_by_programs(
    tls_server: Server, authority: Authority, sslmode: str
) -> None:
    trusted = f"sslrootcert={quote(str(authority.certificate))}"
    database = Database.from_url(_as(tls_server, "demanded", f"sslmode={sslmode}&{trusted}"), "DATABASE_URL")
    assert arrives(database, ENCRYPTED) == "true"
    assert database.environment()["PGSSLMODE"] == sslmode


def test_a_backup_goes_over_verified_tls(tls_server: Server, authority: Authority, tmp_path: Path) -> None:
    with fresh_database(tls_server) as database:
        database.execute(ROWS)
        query = f"sslmode=verify-full&sslrootcert={quote(str(authority.certificate))}"
        url = _as(tls_server, tls_server.superuser, query).replace("/postgres?", f"/{database.name}?")
        assert write(Database.from_url(url, "DATABASE_URL"), tmp_path).rows == 50


def test_where_the_server_alone_chose_tls_the_embedded_clients_are_not_taken_and_a_backup_is_proven(
    tls_server: Server, tmp_path: Path
) -> None:
    with new_project(tls_server, tmp_path / "project") as project:
        project.configure(drill=True)
        project.database.execute("grant select on all tables in schema public to demanded")
        url = _as(tls_server, "demanded", "").replace("/postgres?&", f"/{project.database.name}?")
        environment = project.environment(DATABASE_URL=url)
        value, ended = project.json("doctor", environment=environment)
        assert ended.code == 0, ended.said
        (clients,) = (one["detail"] for one in value["doctor"] if one["check"] == "clients")
        assert "pixeltable" not in clients
        done = project.cdc("backup", environment=environment)
        assert done.code == 0, done.said
        assert "Proven: restored on an embedded server on this machine" in done.stdout


def test_tls_comes_from_variables_alike(
    tls_server: Server, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "PGHOST": "localhost",
        "PGHOSTADDR": "127.0.0.1",
        "PGPORT": str(tls_server.port),
        "PGUSER": "demanded",
        "PGPASSWORD": tls_server.password,
        "PGDATABASE": "postgres",
        "PGSSLMODE": "verify-full",
        "PGSSLROOTCERT": str(authority.certificate),
    }.items():
        monkeypatch.setenv(name, value)
    database = Database.from_environment()
    assert database is not None
    assert arrives(database, ENCRYPTED) == "true"


@pytest.mark.parametrize("query", ["sslmode=no-verify", "ssl=no-verify", "ssl=require", "ssl=true&sslmode=require"])
def test_another_tools_word_for_encryption_is_encryption(tls_server: Server, query: str) -> None:
    database = Database.from_url(_as(tls_server, "demanded", query), "DATABASE_URL")
    assert arrives(database, ENCRYPTED) == "true"
    assert database.parameters["sslmode"] == "require"


def test_a_certificate_of_ours_is_shown_its_key_unlocked_and_the_passphrase_nowhere(
    tls_server: Server, authority: Authority
) -> None:
    certificate, key = authority.issue("certified", passphrase="s3cret phrase")
    query = f"sslcert={quote(str(certificate))}&sslkey={quote(str(key))}&sslpassword={quote('s3cret phrase')}"
    database = Database.from_url(_as(tls_server, "certified", f"sslmode=require&{query}"), "DATABASE_URL")
    assert arrives(database, "select current_user::text") == "certified"
    assert "s3cret" not in repr((database.environment(), database.arguments(), database))


@pytest.mark.parametrize(
    ("role", "query", "host", "cause", "remedy"),
    [
        ("demanded", "sslmode=disable", "localhost", "no encryption", "sslmode=require"),
        ("refused", "sslmode=require", "localhost", "pg_hba.conf rejects connection", "pg_hba.conf"),
        ("demanded", "sslmode=verify-ca&sslrootcert={other}", "localhost", "certificate verify failed", "sslrootcert"),
        ("demanded", "sslmode=verify-full&sslrootcert=/no/such", "localhost", "does not exist", "sslrootcert"),
        ("demanded", "sslmode=verify-full&sslrootcert={own}", "127.0.0.1", "does not match host name", "a name"),
        ("certified", "sslmode=require", "localhost", "valid client certificate", "sslcert"),
    ],
)
def test_tls_that_fails_is_told_with_its_cause(
    tls_server: Server, authority: Authority, role: str, query: str, host: str, cause: str, remedy: str
) -> None:
    other = make_authority(authority.folder, "other").certificate
    query = query.format(other=quote(str(other)), own=quote(str(authority.certificate)))
    message = refusal(_as(tls_server, role, query, host))
    assert cause in message
    assert remedy in message.splitlines()[-1]


def test_a_server_without_tls_is_not_reached_where_tls_is_asked_for(machine_server: Server) -> None:
    message = refusal(f"{machine_server.url()}?sslmode=require")
    assert "server does not support SSL, but SSL was required" in message


@pytest.mark.parametrize("query", ["ssl=true", "ssl=1", "sslmode=prefer&ssl=true", "sslaccept=strict"])
def test_words_that_ask_for_verification_are_not_taken_for_less(query: str) -> None:
    with pytest.raises(UsageError) as caught:
        Database.from_url(f"postgresql://u:s3cret@h/d?{query}", "DATABASE_URL")
    assert "sslmode=verify-full" in str(caught.value)
    assert "s3cret" not in str(caught.value)


# --- sockets, passfiles


def test_a_socket_leads_to_the_server_however_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    binaries = find_binaries("machine") or find_binaries("embedded")
    if binaries is None:
        lacking("Unix sockets (no PostgreSQL was found)")
    account = find_account()
    with owned_folder(account.place(), account.user, account.group) as folder:
        sockets = folder / "data"
        sockets.chmod(0o711)
        with start_server(binaries, settings={**DISPOSABLE, "unix_socket_directories": str(sockets)}) as server:
            user = f"{server.superuser}:{server.password}"
            for url in (
                f"postgresql://{user}@{quote(str(sockets), safe='')}:{server.port}/postgres",
                f"postgresql://{user}@/postgres?host={sockets}&port={server.port}",
                f"host={sockets} port={server.port} user={server.superuser} password={server.password}",
            ):
                assert arrives(Database.from_url(url, "x"), "select coalesce(inet_server_port(), -1)") == "-1"
            monkeypatch.setenv("PGHOST", str(sockets))
            monkeypatch.setenv("PGPORT", str(server.port))
            there = Database.from_url(f"postgresql://{user}@/postgres", "x")
            assert arrives(there, "select coalesce(inet_server_port(), -1)") == "-1"
            assert str(there) == f"postgres on {sockets}:{server.port} as postgres"


def test_a_password_of_the_own_passfile_counts_for_the_scratch_database_too(
    shop: FreshDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = shop.server
    passfile = tmp_path / ".pgpass"
    passfile.write_text(f"127.0.0.1:{server.port}:{shop.name}:{server.superuser}:{server.password}\n")
    passfile.chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    database = Database.from_url(shop.url.replace(f":{server.password}@", "@"), "DATABASE_URL")
    assert arrives(database, "select current_database()") == shop.name
    assert arrives(database.named("postgres"), "select current_database()") == "postgres"


def test_programs_find_the_password_in_a_file_of_ours_and_nowhere_else(shop: FreshDatabase) -> None:
    environment = reached(shop).environment()
    assert shop.server.password not in repr(environment)
    passfile = Path(environment["PGPASSFILE"])
    assert passfile.stat().st_mode & 0o777 == 0o600
    assert passfile.parent.stat().st_mode & 0o777 == 0o700
    assert passfile.stat().st_uid == os.geteuid()


@pytest.mark.parametrize("end", ["", "raise KeyboardInterrupt", "os.kill(os.getpid(), 9)"])
def test_the_file_with_the_password_goes_with_its_process_or_with_the_next(tmp_path: Path, end: str) -> None:
    program = (
        "import os\nfrom backup.postgres.private_file import private_file\n"
        f"print(private_file('s3cret').read_text(), flush=True)\n{end}"
    )

    def run(program: str) -> None:
        done = subprocess.run(
            (sys.executable, "-c", program),
            env={**clean_environment(), "TMPDIR": str(tmp_path)},
            cwd=Path(__file__).parents[1],
            capture_output=True,
            encoding="utf-8",
            check=False,
        )
        assert done.stdout == "s3cret\n", done.stderr

    run(program)
    assert len(list(tmp_path.iterdir())) == ("kill" in end)
    run(program.removesuffix(end))
    assert list(tmp_path.iterdir()) == []


# --- servers that let nobody in


def test_a_role_that_has_no_connection_left_is_told_so(machine_server: Server) -> None:
    with fresh_role(machine_server, "login connection limit 0") as role:
        message = refusal(machine_server.url().replace("//postgres:", f"//{role}:"))
    assert "too many connections for role" in message
    assert "End some connections" in message


def test_a_server_that_is_starting_up_is_told_so(machine_server: Server) -> None:
    with starting_server(machine_server) as starting:
        message = "Connection refused"
        while "Connection refused" in message:
            message = refusal(starting.url())
    assert "the database system is starting up" in message
    assert "Wait until it accepts connections" in message


@pytest.mark.parametrize(
    ("url", "cause"),
    [
        ("postgresql://u:s3cret@pass@h/d", "an @ or a / in the user or the password is not quoted"),
        ("postgresql://u:s3/cret@h/d", "an @ or a / in the user or the password is not quoted"),
        ("postgresql://u:s3cret@h/d@x", "an @ or a / in the user or the password is not quoted"),
        ("postgresql://u:s3cret-h/d", "what stands where the port belongs is no number"),
        ("postgresql://u:s3?cret@pass@h/d", "an @ or a / in the user or the password is not quoted"),
        ('"postgresql://u:s3cret@h/d"', "it stands in quotes"),
    ],
)
def test_a_password_that_is_not_quoted_is_told_without_a_piece_of_it(url: str, cause: str) -> None:
    with pytest.raises(UsageError) as caught:
        Database.from_url(url, "DATABASE_URL")
    message = str(caught.value)
    assert cause in message
    assert "%40" in message
    for piece in ("s3", "cret", "pass@"):
        assert piece not in message


def test_a_password_with_a_question_mark_keeps_what_looks_like_a_parameter() -> None:
    database = Database.from_url("postgresql://u:a?schema=1&b@h/d?schema=public", "x")
    assert database.parameters["password"] == "a?schema=1&b"
    assert "schema" not in database.parameters
