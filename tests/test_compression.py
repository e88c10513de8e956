"""A compressed session: restored, proven and run by hand as a plain one is, and refused where it is damaged."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backup.errors import BackupError, RestoreError, UsageError
from backup.postgres.embedded import Server
from backup.session.folder import MANIFEST, Session, list_sessions, open_session
from backup.session.packing import SUFFIXES, UNPACK, open_plain, pack
from backup.session.plain import plain_files
from backup.session.prune import prune_sessions, review_sessions
from backup.session.restore import RestoreMode
from backup.settings import Compression
from tests.chain import new_project
from tests.lacking import lacking
from tests.restoring import bring_back, done, drill, everything, oddities
from tests.servers import FreshDatabase, clean_environment, fresh_database
from tests.sessions import fresh_role, restore_well, rows, write
from tests.test_packing import COMPRESSIONS

every_compression = pytest.mark.parametrize("compression", COMPRESSIONS)

TABLES = """
    create table _cdc_users (id int primary key, a text);
    insert into _cdc_users select g, md5(g::text) from generate_series(1, 20000) g;
    create table _cdc_roles (id int primary key, a text, f float8);
    insert into _cdc_roles values (1, 'x', '-0'), (2, E'a''b\\n;\\\\.', 1), (3, null, null);
    create table _cdc_empty (id int);
"""


@pytest.fixture
def database(embedded_server: Server) -> Iterator[FreshDatabase]:
    with fresh_database(embedded_server) as fresh:
        fresh.execute(TABLES)
        yield fresh


def file_of(session: Session, name: str) -> Path:
    (file,) = [table.file for table in session.manifest.tables if table.name == name]
    assert file is not None
    return session.path / file


def beside(session: Session) -> list[str]:
    """What is in the folder of the sessions, but for this one and what is known of it."""
    return sorted(path.name for path in session.path.parent.iterdir() if not path.name.startswith(session.name))


@every_compression
def test_only_the_tables_are_compressed_and_the_manifest_and_the_summary_say_how(
    database: FreshDatabase, tmp_path: Path, compression: Compression
) -> None:
    plain, session = write(database, tmp_path / "plain"), write(database, tmp_path, compression=compression)
    suffix = SUFFIXES[compression]
    assert {path.name for path in session.path.iterdir()} == {
        *("manifest.json", "backup-summary.txt", "restore.sql"),
        *(f"_cdc_users.sql{suffix}", f"_cdc_roles.sql{suffix}"),
    }
    assert file_of(session, "_cdc_users").stat().st_size < file_of(plain, "_cdc_users").stat().st_size / 1.5
    for table in session.manifest.tables:
        assert (table.packed is None) == (table.file is None)
        if table.packed and table.file:
            assert (table.compression, table.bytes) == (compression, (session.path / table.file).stat().st_size)
    before = {table.name: (table.plain_file, table.rows_bytes) for table in plain.manifest.tables}
    assert {table.name: (table.plain_file, table.rows_bytes) for table in session.manifest.tables} == before
    assert open_session(session.path) == session
    summary = (session.path / "backup-summary.txt").read_text()
    assert f"compressed with {compression}" in summary
    assert f"{compression} -dc _cdc_roles.sql{suffix} | psql -d DATABASE" in summary


@every_compression
def test_oddities_of_every_sort_are_proven_and_brought_back(
    embedded_server: Server, tmp_path: Path, compression: Compression
) -> None:
    with (
        fresh_role(embedded_server) as role,
        fresh_role(embedded_server) as other,
        fresh_database(embedded_server) as database,
    ):
        oddities(database, role, other)
        before = everything(database)
        session = write(database, tmp_path, compression=compression)
        files = {path.name: path.read_bytes() for path in session.path.iterdir()}
        assert drill(database, session).problem == ""
        database.execute("drop table _cdc_users, _cdc_values, audit._cdc_users cascade")
        assert everything(database) != before
        bring_back(database, session)
        assert everything(database) == before
        assert {path.name: path.read_bytes() for path in session.path.iterdir()} == files
        assert beside(session) == []


@every_compression
@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        (RestoreMode.MISSING, (1, 1, 0)),
        (RestoreMode.REPLACE, (2, 0, 2)),
        (RestoreMode.ASIDE, (3, 0, 0)),
    ],
)
def test_every_mode_reads_it(
    database: FreshDatabase,
    tmp_path: Path,
    compression: Compression,
    mode: RestoreMode,
    expected: tuple[int, int, int],
) -> None:
    before = rows(database, "_cdc_roles")
    session = write(database, tmp_path, compression=compression)
    database.execute(
        "delete from _cdc_roles where id = 1; update _cdc_roles set a = 'new' where id = 3;"
        " insert into _cdc_roles values (4, 'newer', 0)"
    )
    result = bring_back(database, session, "_cdc_roles", mode=mode)
    assert done(result) == {"_cdc_roles": expected}
    if mode is RestoreMode.REPLACE:
        assert rows(database, "_cdc_roles") == before
    assert beside(session) == []


@every_compression
def test_only_the_chosen_tables_are_unpacked_and_nothing_of_them_stays(
    database: FreshDatabase, tmp_path: Path, compression: Compression
) -> None:
    session = write(database, tmp_path, compression=compression)
    (chosen,) = [table for table in session.manifest.tables if table.name == "_cdc_roles"]
    with plain_files(session, {chosen.oid}) as folder:
        assert {path.name for path in folder.iterdir()} == {"restore.sql", "_cdc_roles.sql"}
        assert folder.parent == session.path.parent
        assert folder.stat().st_mode & 0o777 == 0o700
    assert beside(session) == []
    database.execute("drop table _cdc_users, _cdc_roles")
    bring_back(database, session, "_cdc_roles")
    assert database.rows("select to_regclass('_cdc_users') is null, count(*) from _cdc_roles") == [(True, 3)]


def test_a_plain_session_is_read_where_it_is(database: FreshDatabase, tmp_path: Path) -> None:
    session = write(database, tmp_path)
    with plain_files(session, {table.oid for table in session.manifest.tables}) as folder:
        assert folder == session.path
        assert beside(session) == []


def _turn_a_bit(session: Session) -> None:
    path = file_of(session, "_cdc_users")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _cut_off(session: Session) -> None:
    path = file_of(session, "_cdc_users")
    path.write_bytes(path.read_bytes()[:-9])


def _exchange(session: Session) -> None:
    one, other = file_of(session, "_cdc_users"), file_of(session, "_cdc_roles")
    was = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(was)


def _rename(session: Session) -> None:
    """The other compression's bytes under this one's name."""
    path = file_of(session, "_cdc_users")
    with open_plain(path, "gzip" if path.suffix == ".gz" else "zstd") as plain:
        text = plain.read()
    path.unlink()
    pack([text], path, "zstd" if path.suffix == ".gz" else "gzip")


def refuses(database: FreshDatabase, session: Session, *tables: str) -> None:
    """A restore of these tables is refused with the name of a damaged file, and changes and leaves nothing."""
    database.execute("delete from _cdc_users where id < 100")
    before = everything(database)
    with pytest.raises(RestoreError, match=r"_cdc_(users|roles)\.sql\.(gz|zst).* is not what was written") as refused:
        bring_back(database, session, *tables)
    assert "Nothing was restored" in str(refused.value)
    assert everything(database) == before
    assert beside(session) == []


@every_compression
@pytest.mark.parametrize("damage", [_turn_a_bit, _cut_off, _exchange, _rename])
def test_what_is_damaged_is_refused_by_name_and_nothing_is_changed(
    database: FreshDatabase, tmp_path: Path, compression: Compression, damage: Callable[[Session], None]
) -> None:
    session = write(database, tmp_path, compression=compression)
    damage(session)
    refuses(database, session)
    if damage in (_cut_off, _rename):
        with pytest.raises(UsageError, match=file_of(session, "_cdc_users").name):
            open_session(session.path)


@pytest.mark.parametrize("table", ["_cdc_users", "_cdc_roles", "_cdc_empty"])
def test_damage_is_seen_whichever_table_is_asked_for(database: FreshDatabase, tmp_path: Path, table: str) -> None:
    session = write(database, tmp_path, compression="zstd")
    _turn_a_bit(session)
    refuses(database, session, table)


def test_a_damaged_session_is_no_proof(database: FreshDatabase, tmp_path: Path) -> None:
    session = write(database, tmp_path, compression="zstd")
    _turn_a_bit(session)
    with pytest.raises(BackupError, match=r"_cdc_users\.sql\.zst is not what was written"):
        drill(database, session)
    assert [name for name in beside(session) if name.startswith(".")] == []


def test_what_lacks_its_room_is_refused_before_anything_is_written(database: FreshDatabase, tmp_path: Path) -> None:
    session = write(database, tmp_path, compression="zstd")
    huge = tuple(
        table.model_copy(update={"packed": table.packed and table.packed.model_copy(update={"plain_bytes": 1 << 60})})
        for table in session.manifest.tables
    )
    huge_session = Session(path=session.path, manifest=session.manifest.model_copy(update={"tables": huge}))
    database.execute("drop table _cdc_roles")
    with pytest.raises(RestoreError, match=r"it takes .* bytes, and .* are free") as refused:
        bring_back(database, huge_session)
    assert "Make room" in str(refused.value)
    assert database.rows("select to_regclass('_cdc_roles')") == [(None,)]
    assert beside(session) == []


def test_what_a_killed_restore_unpacked_is_cleared_by_the_next_run(database: FreshDatabase, tmp_path: Path) -> None:
    session = write(database, tmp_path, compression="zstd")
    script = (
        "import os, signal, sys; from pathlib import Path; from backup.session.folder import open_session;"
        "from backup.session.plain import plain_files; session = open_session(Path(sys.argv[1]));"
        "held = plain_files(session, {t.oid for t in session.manifest.tables}); held.__enter__();"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run((sys.executable, "-c", script, str(session.path)), check=False)
    assert killed.returncode == -signal.SIGKILL
    (left,) = beside(session)
    assert left.startswith(".partial-backup_")
    assert [listed.problem == "" for listed in list_sessions(tmp_path)] == [False, True]
    database.execute("drop table _cdc_users")
    bring_back(database, session)
    assert beside(session) == []


def test_a_session_from_before_there_was_compression_is_read(database: FreshDatabase, tmp_path: Path) -> None:
    session = write(database, tmp_path)
    manifest = json.loads((session.path / MANIFEST).read_bytes())
    for table in manifest["tables"]:
        del table["packed"]
    (session.path / MANIFEST).write_text(json.dumps(manifest))
    assert open_session(session.path) == session
    database.execute("drop table _cdc_users")
    bring_back(database, open_session(session.path))
    assert database.rows("select count(*) from _cdc_users") == [(20000,)]


def test_a_session_that_somebody_unpacked_is_pruned_as_ever(database: FreshDatabase, tmp_path: Path) -> None:
    sessions = [write(database, tmp_path, compression="gzip") for _ in range(2)]
    with plain_files(sessions[0], {table.oid for table in sessions[0].manifest.tables}) as folder:
        shutil.copy(folder / "_cdc_users.sql", sessions[0].path)
    reasons = [kept.reason for kept in review_sessions(tmp_path, retention_days=1, keep_last=1)]
    assert reasons == ["it is among the newest 1", "it is younger than 1 days"]
    with (sessions[0].path / "_cdc_users.sql").open("a") as file:
        file.write("-- a note of mine\n")
    _, kept = review_sessions(tmp_path, retention_days=1, keep_last=1)
    assert kept.reason == "it holds what is not ours: _cdc_users.sql"
    assert prune_sessions([kept]) == ()


# By hand


@pytest.fixture(params=COMPRESSIONS)
def program(request: pytest.FixtureRequest) -> Compression:
    named: Compression = request.param
    if shutil.which(named) is None:
        lacking(f"compressed sessions by hand (the program {named} is not on PATH)")
    return named


def test_by_hand_all_of_it_comes_back_as_the_summary_says(
    database: FreshDatabase, tmp_path: Path, program: Compression
) -> None:
    before = everything(database)
    session = write(database, tmp_path, compression=program)
    database.execute("drop table _cdc_users, _cdc_roles, _cdc_empty")
    (line,) = [
        line.strip().partition("      ")[0]
        for line in (session.path / "backup-summary.txt").read_text().splitlines()
        if "every table" in line
    ]
    unpacking, _, restoring = line.partition(" && ")
    assert unpacking == f"{UNPACK[program]} *{SUFFIXES[program]}"
    assert restoring == "psql -d DATABASE -f restore.sql"
    subprocess.run(("sh", "-c", unpacking), cwd=session.path, check=True, capture_output=True)
    assert file_of(session, "_cdc_users").exists()
    restore_well(database, session.path / "restore.sql")
    assert everything(database) == before


def piped(database: FreshDatabase, program: str, file: Path) -> subprocess.CompletedProcess[str]:
    """`zstd -dc FILE | psql`, as somebody types it."""
    psql = str(database.server.binaries / "psql")
    return subprocess.run(
        ("sh", "-c", f'{program} -dc "$1" | "$2" -X -d "$3"', "sh", str(file), psql, database.url),
        env=clean_environment(),
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


@pytest.mark.parametrize("state", ["drop table", "delete from"])
def test_by_hand_one_table_comes_back_through_a_pipe(
    database: FreshDatabase, tmp_path: Path, program: Compression, state: str
) -> None:
    before = everything(database)
    session = write(database, tmp_path, compression=program)
    database.execute("drop table _cdc_roles" if state == "drop table" else "delete from _cdc_roles")
    ended = piped(database, program, file_of(session, "_cdc_roles"))
    assert (ended.returncode, ended.stderr) == (0, "")
    assert everything(database) == before


def test_a_stream_that_ends_early_changes_nothing_and_is_no_success(
    database: FreshDatabase, tmp_path: Path, program: Compression
) -> None:
    """The shell sees the exit code of psql alone, which has seen no error but that there is no end."""
    session = write(database, tmp_path, compression=program)
    path = file_of(session, "_cdc_users")
    whole = path.read_bytes()
    database.execute("drop table _cdc_users")
    before = everything(database)
    for share in (0.2, 0.5, 0.9, 1):  # at the end gzip has a trailer of 8 bytes, behind all that psql needs
        (tmp_path / path.name).write_bytes(whole[: int(len(whole) * share) - 20])
        ended = piped(database, program, tmp_path / path.name)
        assert ended.returncode == 3, (share, ended)
        assert everything(database) == before


@pytest.mark.parametrize("name", ["_cdc_users", "_cdc_roles"])
def test_a_file_cut_off_anywhere_changes_nothing_and_is_no_success(
    database: FreshDatabase, tmp_path: Path, name: str
) -> None:
    """INSERT statements, and COPY."""
    session = write(database, tmp_path)
    text = file_of(session, name).read_text()
    begin = text.index("BEGIN")
    lines = [place for place, letter in enumerate(text) if letter == "\n" and place > begin]
    places = {*lines[:: len(lines) // 12], lines[-2], text.rindex("COMMIT"), len(text) - 8, text.index("', ") + 1}
    database.execute("drop table _cdc_users, _cdc_roles")
    for place in sorted(places):
        (tmp_path / "cut.sql").write_text(text[:place])
        for how in (("--file", str(tmp_path / "cut.sql")), ("-1", "--file", str(tmp_path / "cut.sql"))):
            ended = database.psql(*how)
            if place <= text.rindex("COMMIT"):
                assert ended.returncode == 3, (place, text[place - 80 : place], ended)
                assert database.rows("select to_regclass('_cdc_users'), to_regclass('_cdc_roles')") == [(None, None)]


# The recipes


def test_the_recipes_follow_the_configuration_and_say_so(embedded_server: Server, tmp_path: Path) -> None:
    with new_project(embedded_server, tmp_path / "project") as project:
        project.configure(compress="zstd", drill=True)
        backed_up, _ = project.json("backup")
        assert {table["compression"] for table in backed_up["tables"]} == {"zstd"}
        assert all(table["file"].endswith(".sql.zst") for table in backed_up["tables"])
        assert backed_up["drill"]["problem"] is None
        project.configure(compress=True)
        project.json("backup")
        listed, _ = project.json("list")
        assert [entry["compression"] for entry in listed["sessions"]] == ["gzip", "zstd"]
        project.database.execute("drop table _cdc_users")
        restored, _ = project.json("restore", "--yes", "--session", backed_up["session"])
        assert restored["status"] == "restored"
        assert project.database.rows("select count(*) from _cdc_users") == [(3,)]
