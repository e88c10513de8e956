"""A session on the disk: complete or not there, closed to others, described truly, never changed."""

import hashlib
import json
import os
import re
import stat
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given

from backup.errors import BackupError, UsageError
from backup.session.folder import (
    file_names,
    folder_size,
    list_sessions,
    new_session,
    open_session,
    publish,
)
from tests.servers import FreshDatabase
from tests.sessions import write

NAME = re.compile(r"backup_\d{4}-\d{2}-\d{2}T\d{2}-\d{2}-\d{2}-\d{3}Z")

# What is left of a name after NTFS, APFS, FAT and a careless shell.
PORTABLE = re.compile(r"[A-Za-z0-9_%.~-]+\.sql")


@pytest.fixture
def filled(database: FreshDatabase) -> FreshDatabase:
    database.execute("""
        create schema audit;
        create table _cdc_users (id int primary key, a text);
        insert into _cdc_users select g, repeat('x', 100) from generate_series(1, 1000) g;
        create table audit."_cdc_a b/c" (id int); insert into audit."_cdc_a b/c" values (1);
        create table _cdc_empty (id int);
    """)
    return database


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def _contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


def test_a_session_is_laid_out_as_documented(filled: FreshDatabase, tmp_path: Path) -> None:
    session = write(filled, tmp_path / "a" / "b")
    assert NAME.fullmatch(session.name)
    assert session.path.parent == tmp_path / "a" / "b"
    assert {path.name for path in session.path.iterdir()} == {
        "manifest.json",
        "backup-summary.txt",
        "restore.sql",
        "_cdc_users.sql",
        "audit._cdc_a%20b%2Fc.sql",
    }


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_only_its_owner_may_look_into_a_session(filled: FreshDatabase, tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        session = write(filled, tmp_path / "root")
    finally:
        os.umask(before)
    assert _mode(session.path) == 0o700
    assert {_mode(path) for path in session.path.iterdir()} == {0o600}
    if umask == 0:
        assert _mode(tmp_path / "root") == 0o700


def test_the_manifest_tells_the_truth_about_every_file(filled: FreshDatabase, tmp_path: Path) -> None:
    session = write(filled, tmp_path)
    manifest = json.loads((session.path / "manifest.json").read_text())
    for table in manifest["tables"]:
        if table["file"] is not None:
            data = (session.path / table["file"]).read_bytes()
            assert (table["bytes"], table["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    script = (session.path / "restore.sql").read_bytes()
    assert manifest["restore_script_sha256"] == hashlib.sha256(script).hexdigest()
    assert manifest["session"] == session.name
    assert [(table["schema_name"], table["name"], table["rows"], table["file"]) for table in manifest["tables"]] == [
        ("audit", "_cdc_a b/c", 1, "audit._cdc_a%20b%2Fc.sql"),
        ("public", "_cdc_empty", 0, None),
        ("public", "_cdc_users", 1000, "_cdc_users.sql"),
    ]
    oids = dict(filled.rows("select relname, oid::int8 from pg_class where starts_with(relname, '_cdc_')"))
    assert all(table["oid"] == oids[table["name"]] for table in manifest["tables"])
    assert manifest["database"] == filled.name
    assert manifest["created"].endswith(("Z", "+00:00"))


def test_what_is_opened_is_what_was_written(filled: FreshDatabase, tmp_path: Path) -> None:
    session = write(filled, tmp_path)
    assert open_session(session.path) == session
    (listed,) = list_sessions(tmp_path)
    assert (listed.path, listed.manifest, listed.problem) == (session.path, session.manifest, "")
    assert listed.bytes == folder_size(session.path) == sum(path.stat().st_size for path in session.path.iterdir())


def test_a_folder_may_be_published_while_its_size_is_asked_for(tmp_path: Path) -> None:
    folder = tmp_path / ".partial-session"
    (folder / "work").mkdir(parents=True)
    (folder / "work" / "rows").write_text("some")

    def publish_now(event: str, arguments: tuple[object, ...]) -> None:
        if event == "os.scandir" and str(arguments[0]) == str(folder) and folder.exists():
            folder.rename(tmp_path / "session")

    sys.addaudithook(publish_now)
    assert folder_size(folder) == 0
    assert folder_size(tmp_path / "session") == 4


def test_the_summary_says_it_for_people(filled: FreshDatabase, tmp_path: Path) -> None:
    session = write(filled, tmp_path)
    text = (session.path / "backup-summary.txt").read_text()
    assert f"Backup of the CDC tables of {filled.name} on 127.0.0.1:{filled.server.port}" in text
    assert session.name in text
    assert re.search(r"Tables: +2 with 1,001 rows, ", text)
    assert re.search(r"_cdc_users +1,000 rows +[\d,]+ bytes +_cdc_users\.sql", text)
    assert re.search(r"audit\._cdc_a b/c +1 rows +[\d,]+ bytes +audit\._cdc_a%20b%2Fc\.sql", text)
    assert "_cdc_empty: empty" in text
    assert "psql -d DATABASE -f restore.sql" in text


def test_a_second_backup_leaves_the_first_as_it_is(filled: FreshDatabase, tmp_path: Path) -> None:
    first = write(filled, tmp_path)
    held = _contents(first.path)
    filled.execute("insert into _cdc_users values (0, 'new')")
    second = write(filled, tmp_path)
    assert second.path != first.path
    assert _contents(first.path) == held
    assert [listed.path for listed in list_sessions(tmp_path)] == [second.path, first.path]


def test_folders_made_in_the_same_millisecond_have_names_of_their_own(tmp_path: Path) -> None:
    with ExitStack() as stack:
        folders = [stack.enter_context(new_session(tmp_path)) for _ in range(50)]
        assert len(set(folders)) == 50
        assert all(folder.name.startswith(".partial-") and folder.is_dir() for folder in folders)
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_a_session_has_is_not_given_again(tmp_path: Path) -> None:
    with new_session(tmp_path) as folder:
        name = folder.name.removeprefix(".partial-")
    taken = [tmp_path / f"{name[:-4]}{millisecond:03}Z" for millisecond in range(1000)]
    for path in taken:
        path.mkdir()
    with new_session(tmp_path) as folder:
        assert tmp_path / folder.name.removeprefix(".partial-") not in taken


def test_backups_at_the_same_time_do_not_disturb_each_other(filled: FreshDatabase, tmp_path: Path) -> None:
    with ThreadPoolExecutor(max_workers=3) as threads:
        sessions = list(threads.map(lambda _: write(filled, tmp_path), range(3)))
    assert len({session.path for session in sessions}) == 3
    assert {path.name for path in tmp_path.iterdir()} == {session.name for session in sessions}
    assert all(open_session(session.path) == session for session in sessions)


def test_a_folder_that_is_not_published_is_gone_whatever_happened(tmp_path: Path) -> None:
    class SomebodyPressedCtrlCError(BaseException):
        pass

    for error in (BackupError("x"), ValueError("x"), SomebodyPressedCtrlCError()):
        with pytest.raises(type(error)), new_session(tmp_path / "root") as folder:  # noqa: PT012 - the body is the test
            (folder / "work").mkdir()
            (folder / "work" / "file").write_text("x")
            raise error
        assert list((tmp_path / "root").iterdir()) == []


def test_a_folder_of_which_one_file_does_not_come_to_the_disk_is_not_published(tmp_path: Path) -> None:
    with pytest.raises(BackupError), new_session(tmp_path) as folder:  # noqa: PT012 - the body is the test
        for number in range(40):
            (folder / str(number)).write_text("x")
        (folder / "broken").symlink_to(tmp_path / "a disk that went away")
        publish(folder)
    assert list(tmp_path.iterdir()) == []


def test_the_folders_of_the_dead_are_cleared_and_those_of_the_living_are_not(tmp_path: Path) -> None:
    dead = tmp_path / ".partial-backup_2020-01-01T00-00-00-000Z"
    (dead / "work").mkdir(parents=True)
    (dead / "work" / "1.dat").write_text("x")
    session = tmp_path / "backup_2020-01-01T00-00-00-000Z"
    session.mkdir()
    stranger = tmp_path / ".partial"
    stranger.mkdir()
    with new_session(tmp_path) as living, new_session(tmp_path) as another:
        assert not dead.exists()
        assert living.is_dir()
        assert another.is_dir()
    assert set(tmp_path.iterdir()) == {session, stranger}


@pytest.mark.parametrize("obstacle", ["a file", "a file on the way", "a dangling link"])
def test_a_place_where_nothing_can_be_written_is_an_error_that_names_it(tmp_path: Path, obstacle: str) -> None:
    root = tmp_path / "root"
    if obstacle == "a dangling link":
        root.symlink_to(tmp_path / "nowhere" / "at all")
    else:
        root.write_text("mine")
        root = root / "below" if obstacle == "a file on the way" else root
    with pytest.raises(BackupError) as caught, new_session(root):
        pass
    assert f"No backup can be written below {root}: " in str(caught.value)
    assert "no session was published" in str(caught.value)


def test_a_root_that_is_a_link_is_followed(filled: FreshDatabase, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "root").symlink_to(tmp_path / "disk")
    session = write(filled, tmp_path / "root")
    assert (tmp_path / "disk" / session.name / "manifest.json").is_file()


@pytest.mark.parametrize("damage", ["missing", "shorter", "no manifest", "bad manifest", "later format", "no script"])
def test_a_damaged_session_is_not_opened_and_listed_as_incomplete(
    filled: FreshDatabase, tmp_path: Path, damage: str
) -> None:
    session = write(filled, tmp_path)
    manifest = session.path / "manifest.json"
    match damage:
        case "missing":
            (session.path / "_cdc_users.sql").unlink()
            said = "_cdc_users.sql missing or of another size"
        case "shorter":
            with (session.path / "_cdc_users.sql").open("r+b") as file:
                file.truncate(100)
            said = "_cdc_users.sql missing or of another size"
        case "no manifest":
            manifest.unlink()
            said = "manifest.json: No such file or directory"
        case "bad manifest":
            manifest.write_bytes(manifest.read_bytes()[:-100])
            said = "its manifest cannot be read"
        case "later format":
            manifest.write_text(manifest.read_text().replace('"format_version": 1', '"format_version": 2'))
            said = "its manifest cannot be read"
        case _:
            (session.path / "restore.sql").unlink()
            said = "restore.sql missing or of another size"
    with pytest.raises(UsageError) as caught:
        open_session(session.path)
    assert said in str(caught.value)
    (listed,) = list_sessions(tmp_path)
    assert said in listed.problem


def test_what_is_no_session_is_not_listed(tmp_path: Path) -> None:
    (tmp_path / "backup_2020-01-01T00-00-00-000Z").write_text("a file")
    (tmp_path / "backup_yesterday").mkdir()
    (tmp_path / "other").mkdir()
    assert list_sessions(tmp_path) == ()
    assert list_sessions(tmp_path / "nowhere") == ()


def test_what_a_killed_run_left_is_listed_as_incomplete(tmp_path: Path) -> None:
    (tmp_path / ".partial-backup_2020-01-01T00-00-00-000Z").mkdir()
    (listed,) = list_sessions(tmp_path)
    assert listed.problem == "it is being written, or was left by a killed run"


def test_sessions_are_listed_newest_first(filled: FreshDatabase, tmp_path: Path) -> None:
    names = [write(filled, tmp_path).name for _ in range(3)]
    (tmp_path / ".partial-backup_2020-01-01T00-00-00-000Z").mkdir()
    assert [listed.path.name for listed in list_sessions(tmp_path)] == [
        *reversed(names),
        ".partial-backup_2020-01-01T00-00-00-000Z",
    ]


@given(
    tables=st.lists(
        st.tuples(st.one_of(st.just("public"), st.text(min_size=1, max_size=63)), st.text(min_size=1, max_size=63)),
        unique=True,
        max_size=20,
    )
)
def test_file_names_are_portable_and_differ_in_any_case(tables: list[tuple[str, str]]) -> None:
    files = file_names(tables)
    for file in files:
        assert PORTABLE.fullmatch(file)
        assert len(file) <= 255
        assert not file.startswith(".")
    assert len({file.lower() for file in files}) == len(files) == len(tables)


@pytest.mark.parametrize(
    ("schema", "name", "file"),
    [
        ("public", "_cdc_users", "_cdc_users.sql"),
        ("audit", "_cdc_users", "audit._cdc_users.sql"),
        ("public", "_cdc_a.b", "_cdc_a%2Eb.sql"),
        ("public", "../up", "%2E%2E%2Fup.sql"),
        ("public", "%2E", "%252E.sql"),
        ("public", "ß", "%C3%9F.sql"),
        ("Public", "_cdc_x", "Public._cdc_x.sql"),
    ],
)
def test_file_names_are_as_documented(schema: str, name: str, file: str) -> None:
    assert file_names([(schema, name)]) == [file]


@pytest.mark.parametrize("reserved", ["manifest", "restore", "RESTORE", "backup-summary", "work"])
def test_a_tables_file_takes_no_name_that_something_else_has(
    database: FreshDatabase, tmp_path: Path, reserved: str
) -> None:
    database.execute(f'create table "{reserved}" (id int); insert into "{reserved}" values (1)')
    session = write(database, tmp_path, prefix=reserved)
    (file,) = session.files
    assert file.name.lower() not in ("restore.sql", "manifest.json", "backup-summary.txt")
    assert "INSERT INTO" in file.read_text()
    assert open_session(session.path) == session
