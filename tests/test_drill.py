"""No drill passes for a session that would not bring everything back, and none touches the original."""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Literal

import psycopg
import pytest

from backup.cdc_backup import CDCBackup
from backup.errors import BackupError, RestoreError, UndrilledError
from backup.migration.command import MigrationCommand
from backup.postgres.embedded import Server, start_server
from backup.postgres.scratch import scratch_database
from backup.session.drill import drill_session
from backup.session.folder import MANIFEST, RESTORE_SCRIPT, Session, open_session
from backup.session.rows import digest_rows
from backup.session.sidecar import Drill
from tests.chain import new_project
from tests.lacking import lacking
from tests.restoring import bring_back, drill, everything, oddities, proven
from tests.servers import FreshDatabase, fresh_database
from tests.sessions import clients_for, fresh_role, pretending, reached, write
from tests.test_chain import small_disk

TABLES = """
    create table users (id int primary key, name text); insert into users values (1, 'a');
    create table _cdc_t (id serial primary key, op text default 'I' check (op <> ''), n numeric, d date);
    insert into _cdc_t (op, n) values ('I', 1.50), ('U', null), ('D', 3);
    update _cdc_t set d = '2025-01-02' where id = 3;
    create index by_op on _cdc_t (op); comment on table _cdc_t is 'changes';
    create table _cdc_empty (a int default 5);
"""

ANOTHER = "the definition of public._cdc_t is another"


def tampered(session: Session, file: str, old: str, new: str) -> Session:
    """The session with one thing changed in a file, and in the manifest, so that no hash tells of it."""
    path = session.path / file
    text = path.read_text()
    assert text.count(old) == 1, text
    path.write_text(text.replace(old, new))
    digest, size = hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size
    tables = tuple(
        table.model_copy(update={"sha256": digest, "bytes": size}) if table.file == file else table
        for table in session.manifest.tables
    )
    update = {"restore_script_sha256": digest} if file == RESTORE_SCRIPT else {"tables": tables}
    (session.path / MANIFEST).write_text(session.manifest.model_copy(update=update).model_dump_json())
    return open_session(session.path)


@pytest.mark.parametrize(
    ("where", "format_"), [("server", "copy"), ("server", "sql"), ("embedded", "sql"), ("url", "sql")]
)
def test_oddities_of_every_sort_are_proven(
    server: Server, embedded_server: Server, tmp_path: Path, where: str, format_: Literal["sql", "copy"]
) -> None:
    with fresh_role(server) as role, fresh_role(server) as other, fresh_database(server) as database:
        oddities(database, role, other)
        before = everything(database)
        session = write(database, tmp_path, format=format_)
        files = {path.name: path.read_bytes() for path in session.path.iterdir()}
        proof = drill(database, session, embedded_server.url() if where == "url" else where)
        assert Drill.read(session.path) == proof
        assert proof.problem == ""
        if where != "url":  # a server that knows none of the roles
            assert proof.unproven == ()
        assert {table.name: table.rows for table in proof.tables if table.schema_name == "public"} == {
            table.name: table.rows
            for table in session.manifest.tables
            if table.schema_name == "public" and table.kind == "table"
        }
        assert everything(database) == before
        assert {path.name: path.read_bytes() for path in session.path.iterdir()} == files
        assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("file", "old", "new", "problem"),
    [
        ("_cdc_t.sql", "(1, 'I', 1.50, NULL)", "(1, 'I', 1.5, NULL)", "the rows of public._cdc_t are others"),
        ("_cdc_t.sql", "'2025-01-02'", "'2025/01/02'", "the rows of public._cdc_t are others: their text differs"),
        ("_cdc_t.sql", "(1, 'I', 1.50, NULL),\n", "", "not all of its 3 rows were loaded"),
        ("_cdc_t.sql", "(1, 'I', 1.50, NULL)", "(2, 'I', 1.50, NULL)", "could not create unique index"),
        (
            "_cdc_t.sql",
            "_cdc_t_id_seq', 3, true",
            "_cdc_t_id_seq', 2, true",
            ANOTHER,
        ),
        ("_cdc_t.sql", "DEFAULT 'I'", "DEFAULT 'U'", ANOTHER),
        ("_cdc_t.sql", "CREATE INDEX by_op ON public._cdc_t USING btree (op);", "", "the definition of public._cdc_t"),
        ("_cdc_t.sql", "'changes'", "'other'", ANOTHER),
        ("_cdc_t.sql", "COMMIT;", "ROLLBACK;", ""),
        ("restore.sql", "a integer DEFAULT 5", "a integer DEFAULT 6", "the definition of public._cdc_empty is another"),
        ("restore.sql", "\nCOMMIT;", "\nROLLBACK;", "has no CDC table called"),
        ("restore.sql", "\\ir '_cdc_t.sql'", "", "restore.sql passed over public._cdc_t"),
    ],
)
def test_a_session_that_brings_back_something_else_is_no_proof(
    embedded_server: Server, tmp_path: Path, file: str, old: str, new: str, problem: str
) -> None:
    with fresh_database(embedded_server) as database:
        database.execute(TABLES)
        session = tampered(write(database, tmp_path), file, old, new)
        if not problem:  # that part of the file is read by who runs it alone
            drill(database, session)
            return
        with pytest.raises(BackupError, match="is no proof against loss") as raised:
            drill(database, session)
    assert problem in str(raised.value)
    kept = Drill.read(session.path)
    assert kept is not None
    assert problem in kept.problem
    assert kept.tables == ()
    assert open_session(session.path) == session


@pytest.mark.parametrize("file", ["_cdc_t.sql", "restore.sql"])
def test_a_file_that_is_not_what_was_written_is_no_proof(embedded_server: Server, tmp_path: Path, file: str) -> None:
    with fresh_database(embedded_server) as database:
        database.execute(TABLES)
        session = write(database, tmp_path)
        changed = bytearray((session.path / file).read_bytes())
        changed[-1] ^= 1
        (session.path / file).write_bytes(changed)
        with pytest.raises(BackupError, match=rf"{file} is not what was written"):
            drill(database, session)
        with pytest.raises(RestoreError, match=rf"{file} is not what was written"):
            bring_back(database, session)


def test_rows_that_are_not_those_of_the_drill_are_never_restored(embedded_server: Server, tmp_path: Path) -> None:
    with fresh_database(embedded_server) as database:
        database.execute(TABLES)
        session = tampered(proven(database, tmp_path), "_cdc_t.sql", "(2, 'U', NULL, NULL)", "(2, 'u', NULL, NULL)")
        for loss in ("select", "drop table _cdc_t"):
            database.execute(loss)
            before = everything(database)
            with pytest.raises(RestoreError, match="the rows are not those that were backed up; nothing was changed"):
                bring_back(database, session)
            assert everything(database) == before


def test_keys_publications_and_views_are_proven_with_stand_ins(database: FreshDatabase, tmp_path: Path) -> None:
    database.execute(TABLES)
    database.execute("""
        create schema app; create type app.mood as enum ('x');
        create table app.people (id int primary key, code text unique, mood app.mood);
        alter table _cdc_t add u int references users, add code text references app.people (code);
        create publication p for table _cdc_t;
        create view v as select _cdc_t.id, people.code from _cdc_t join app.people on people.id = _cdc_t.id;
        create table orders (t int references _cdc_t);
        create policy q on users using (exists (select from _cdc_t)); create rule r as on delete to users do also
            delete from _cdc_t;
    """)
    session = write(database, tmp_path)
    assert drill(database, session).unproven == ()


def test_what_stand_ins_cannot_prove_is_said(database: FreshDatabase, tmp_path: Path) -> None:
    database.execute(TABLES)
    database.execute("""
        create type mood as enum ('x'); create table people (id int, mood mood);
        create view v as select id from _cdc_t where id in (select id from people where mood = 'x'::mood);
    """)
    (line,) = drill(database, write(database, tmp_path)).unproven
    assert "not brought back: view public.v" in line


def test_what_the_scratch_server_lacks_is_no_proof_and_starts_no_migration(
    machine_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with fresh_database(machine_server) as database:
        try:
            database.execute("create extension citext")
        except psycopg.errors.UndefinedFile:
            lacking("a type of an extension (citext is not installed beside the machine's own PostgreSQL)")
        database.execute("create table _cdc_t (id int, a citext primary key); insert into _cdc_t values (1, 'X')")
        assert drill(database, write(database, tmp_path / "server")).problem == ""
        config, sessions = tmp_path / "backup.yml", tmp_path / "sessions"
        config.write_text(f"backup: {{path: {sessions}, scratch: embedded}}\n")
        monkeypatch.setenv("DATABASE_URL", database.url)
        mark = tmp_path / "started"
        command = MigrationCommand(argv=(sys.executable, "-c", f"open({str(mark)!r}, 'w')"), directory=tmp_path)
        with pytest.raises(BackupError, match="citext") as raised:
            CDCBackup(config=config).run_safe([command], ask=False)
        assert "The migration was not started." in str(raised.value)
        assert not mark.exists()
        (session,) = sessions.glob("backup_*Z")
        kept = Drill.read(session)
        assert kept is not None
        assert "citext" in kept.problem


def test_a_session_from_elsewhere_is_drilled_where_it_lies(embedded_server: Server, tmp_path: Path) -> None:
    with fresh_database(embedded_server) as database:
        database.execute(TABLES)
        session = write(database, tmp_path)
    moved = tmp_path / "a'nother \"place" / session.name
    shutil.move(session.path, moved)
    with fresh_database(embedded_server) as other:
        drill(other, open_session(moved))
        assert Drill.read(moved) is not None


def test_a_table_whose_rows_are_wide_or_whose_zeros_have_a_sign_is_proven(
    database: FreshDatabase, tmp_path: Path
) -> None:
    database.execute("""
        create table _cdc_wide (a text); insert into _cdc_wide select repeat('x', 900000) from generate_series(1, 40);
        create table _cdc_zeros (a float8, b text); insert into _cdc_zeros values ('-0', E'\\\\.\\n'), ('NaN', null);
    """)
    assert drill(database, write(database, tmp_path)).problem == ""


def test_rows_that_take_other_places_than_before_are_proven(database: FreshDatabase, tmp_path: Path) -> None:
    """Short rows fill what long ones left free, so that the copy is not in the order of the original."""
    database.execute("""
        create table _cdc_t (id int, t text); create table _cdc_copied (f float8, t text);
        insert into _cdc_t select g, repeat(md5(g::text), 1 + g * 7919 % 60) from generate_series(1, 1500) g
    """)
    database.execute("delete from _cdc_t where id % 7 = 0")
    database.psql("--command=vacuum _cdc_t").check_returncode()
    database.execute("""
        insert into _cdc_t select g, repeat(md5(g::text), 1 + g * 7919 % 60) || E'\n(1),'
            from generate_series(1, 300) g;
        insert into _cdc_copied select '-0', t from _cdc_t
    """)
    assert drill(database, write(database, tmp_path)).problem == ""


SAME = b"""\
INSERT INTO public.t (a, b) VALUES
\t(1, 'x'),
\t(2, '
\t(3, ''y''),
');


INSERT INTO public.t (a, b) VALUES
\t(1, 'x');
"""


@pytest.mark.parametrize(
    ("old", "new", "alike"),
    [
        (b"", b"", True),
        (b"\t(1, 'x'),\n\t(2, '\n\t(3, ''y''),\n');\n", b"\t(2, '\n\t(3, ''y''),\n'),\n\t(1, 'x');\n", True),
        (b"(2, '", b"(4, '", False),
        (b"''y''", b"''z''", False),
        (b"\t(1, 'x'),\n", b"", False),
        (b"\t(1, 'x'),\n", b"\t(1, 'x'),\n\t(1, 'x'),\n", False),
    ],
)
def test_rows_are_told_apart_whatever_their_order(tmp_path: Path, old: bytes, new: bytes, alike: bool) -> None:
    texts = {"one": b"-- head\n" + SAME, "other": SAME.replace(old, new, 1) + b"-- foot\n"}
    for name, text in texts.items():
        (tmp_path / name).write_bytes(text)
    one = digest_rows(tmp_path / "one", 8, len(SAME), copied=False)
    other = digest_rows(tmp_path / "other", 0, len(texts["other"]) - 8, copied=False)
    assert (one == other) == alike


def test_copied_rows_are_told_apart_whatever_their_order(tmp_path: Path) -> None:
    for name, text in (("one", "1\ta\n2\tb\n"), ("other", "2\tb\n1\ta\n"), ("changed", "1\ta\n2\tc\n")):
        (tmp_path / name).write_text(f"{text}\\.\n\n\n")
    one, other, changed = (
        digest_rows(tmp_path / name, 0, (tmp_path / name).stat().st_size, copied=True)
        for name in ("one", "other", "changed")
    )
    assert one == other != changed


@pytest.mark.parametrize(
    ("program", "when"),
    [("psql", "before"), ("psql", "in the middle"), ("pg_dump", "before"), ("pg_dump", "at the end")],
)
def test_a_lost_server_says_nothing_of_the_session(
    embedded_server: Server, tmp_path: Path, program: Literal["pg_dump", "psql"], when: str
) -> None:
    with fresh_database(embedded_server) as database, start_server(embedded_server.binaries) as lost:
        database.execute(TABLES)
        session = proven(database, tmp_path / "root")
        proof = Drill.read(session.path)
        postmaster = (lost.data / "postmaster.pid").read_text().splitlines()[0]
        end = f"kill -QUIT {postmaster}; while kill -0 {postmaster} 2>/dev/null; do sleep 0.05; done"
        script = {
            "before": f'{end}; real "$@"',
            "in the middle": f"{{ echo '\\! {end}'; cat; }} | real \"$@\"",
            "at the end": f'real "$@" && {{ {end}; }}',
        }[when]
        clients = pretending(tmp_path / "clients", clients_for(database), script, program=program)
        with (
            scratch_database(reached(database), lost.url()) as scratch,
            pytest.raises(UndrilledError, match="could not be drilled: the server of the scratch database was lost"),
        ):
            drill_session(session, scratch=scratch, clients=clients, jobs=2)
        assert Drill.read(session.path) == proof


@pytest.mark.parametrize("compression", [None, "zstd"])
def test_a_full_disk_says_nothing_of_the_session(
    embedded_server: Server, tmp_path: Path, compression: Literal["zstd"] | None
) -> None:
    with new_project(embedded_server, tmp_path / "project") as project:
        project.database.execute(
            "insert into _cdc_roles select n, repeat(md5(n::text), 30) from generate_series(3, 2000) n"
        )
        session = write(project.database, tmp_path / "root", compression=compression)
        size = sum(path.stat().st_size for path in session.path.iterdir())
        with small_disk(tmp_path / "disk", size // 1024 + 200) as disk:
            shutil.copytree(session.path, disk / session.name)
            project.configure(path=str(disk))
            done = project.cdc("drill")
            assert done.code == 3
            assert f"The session {session.name} could not be drilled: there was no room left." in done.stdout
            assert f"Make room in {disk}," in done.stdout
            assert "no proof" not in done.said
            assert "ALTER FUNCTION" not in done.said
            listed, _ = project.json("list")
            assert [one["drilled"] for one in listed["sessions"]] == [None]
            subprocess.run(("mount", "-o", "remount,size=20m", str(disk)), check=True)
            project.database.execute("drop table _cdc_roles")
            done = project.cdc("restore", "--yes")
            assert done.code == 0, done.said
            assert "no proof" not in done.said
            assert "the session is not drilled" in done.stdout
            assert project.cdc("drill").code == 0


def test_a_killed_program_says_nothing_of_the_session(embedded_server: Server, tmp_path: Path) -> None:
    with fresh_database(embedded_server) as database:
        database.execute(TABLES)
        session = write(database, tmp_path / "root")
        clients = pretending(tmp_path / "clients", clients_for(database), "kill -9 $$", program="psql")
        with (
            scratch_database(reached(database), "server") as scratch,
            pytest.raises(UndrilledError, match="psql was ended by signal 9"),
        ):
            drill_session(session, scratch=scratch, clients=clients, jobs=2)
        assert Drill.read(session.path) is None


def test_a_scratch_database_that_cannot_be_made_leaves_a_session_that_is_not_drilled(
    embedded_server: Server, tmp_path: Path
) -> None:
    with new_project(embedded_server, tmp_path / "project") as project:
        project.configure(drill=False)
        assert project.cdc("backup").code == 0
        project.configure(drill=True, scratch="postgresql://postgres@127.0.0.1:1/postgres")
        done = project.cdc("drill")
        assert done.code == 3
        assert (
            f"The session {project.published[0].name} could not be drilled: No connection to postgres on" in done.said
        )
        assert Drill.read(project.published[0]) is None


@pytest.mark.parametrize("recipe", [("drill",), ("restore", "--yes")])
def test_a_session_that_is_damaged_is_named_with_its_file(
    embedded_server: Server, tmp_path: Path, recipe: tuple[str, ...]
) -> None:
    with new_project(embedded_server, tmp_path / "project") as project:
        assert project.cdc("backup").code == 0
        (damaged,) = project.published
        (damaged / "_cdc_users.sql").write_text("cut off")
        done = project.cdc(*recipe)
        assert done.code == 2
        assert f"  {damaged.name}: _cdc_users.sql missing or of another size\n" in done.said
        assert project.cdc("backup").code == 0
        done = project.cdc(*recipe)
        assert done.code == 0, done.said
        assert f"passed over: {damaged.name}: _cdc_users.sql missing or of another size\n" in done.said
