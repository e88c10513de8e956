"""Prune takes what is old and of no more use, and nothing that anybody may still need."""

import json
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backup.cdc_backup import CDCBackup
from backup.lock import locked
from backup.postgres.embedded import Server
from backup.session.folder import MANIFEST, list_sessions, new_session, session_name
from backup.session.prune import prune_sessions, review_sessions
from backup.session.sidecar import Drill, Restore, Verdict
from tests.servers import fresh_database
from tests.sessions import write

NOW = datetime(2025, 7, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def template(embedded_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real session, of which the tests make old ones."""
    with fresh_database(embedded_server) as database:
        database.execute("create table _cdc_t (id int primary key); insert into _cdc_t values (1)")
        return write(database, tmp_path_factory.mktemp("template")).path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "sessions"
    folder.mkdir()
    return folder


Make = Callable[..., Path]


@pytest.fixture
def make(template: Path, root: Path) -> Make:
    """Make a session that is so many days old."""

    def session(days: float, *, proven: bool | None = None, database: str = "1") -> Path:
        created = NOW - timedelta(days=days)
        path = root / f"backup_{created:%Y-%m-%dT%H-%M-%S}-000Z"
        shutil.copytree(template, path)
        manifest = json.loads((path / MANIFEST).read_text())
        manifest |= {"session": path.name, "created": created.isoformat(), "database_id": database}
        (path / MANIFEST).write_text(json.dumps(manifest))
        if proven is not None:
            Drill(moment=created, scratch="a test", problem="" if proven else "no", unproven=(), tables=()).write(path)
        return path

    return session


def destroyed(path: Path, *tables: str, days: float = 50) -> None:
    """Note beside the session what its migration destroyed."""
    Verdict(moment=NOW - timedelta(days=days), command="a test", destroyed=dict.fromkeys(tables, "dropped")).write(path)


def restored(path: Path, *tables: str, days: float) -> None:
    """Note beside the session what was brought back, and when."""
    Restore(tables=dict.fromkeys(tables, NOW - timedelta(days=days))).write(path)


def prune(root: Path, *, keep_last: int = 1, days: int = 30, now: datetime = NOW) -> list[Path]:
    return sorted(prune_sessions(review_sessions(root, retention_days=days, keep_last=keep_last, now=now)))


def why(root: Path, path: Path, *, keep_last: int = 1, days: int = 30, now: datetime = NOW) -> str:
    kept = {k.listed.path: k.reason for k in review_sessions(root, retention_days=days, keep_last=keep_last, now=now)}
    return kept[path]


def test_what_is_older_than_the_retention_goes_with_all_that_was_beside_it(root: Path, make: Make) -> None:
    young, edge, old = make(1), make(29.99), make(30.01, proven=False)
    destroyed(old)
    restored(old, "public._cdc_t", days=1)
    assert prune(root) == [old]
    assert sorted(root.iterdir()) == sorted([young, edge])
    assert why(root, edge) == "it is younger than 30 days"


def test_the_newest_stay_however_old_they_are(root: Path, make: Make) -> None:
    paths = [make(days) for days in (100, 200, 300, 400)]
    assert why(root, paths[2], keep_last=3) == "it is among the newest 3"
    assert prune(root, keep_last=3) == [paths[3]]


def test_the_newest_of_every_database_stay(root: Path, make: Make) -> None:
    make(100, database="1")
    make(101, database="1")
    other = make(300, database="2")
    assert other not in prune(root)
    assert other.exists()


def test_a_session_that_is_not_whole_does_not_count_among_the_newest(root: Path, make: Make) -> None:
    broken, whole = make(100), make(200)
    (broken / "restore.sql").unlink()
    assert prune(root) == []
    assert why(root, whole) == "it is among the newest 1"
    assert why(root, broken) == "it is not complete, so look at it yourself"


def test_the_newest_that_is_proven_stays(root: Path, make: Make) -> None:
    make(50)
    failed, proven, older = make(60, proven=False), make(70, proven=True), make(80, proven=True)
    assert why(root, proven) == "it is the newest that is proven and holds public._cdc_t"
    assert prune(root) == sorted([failed, older])


def test_the_last_session_that_holds_a_table_stays_whatever_is_newer(root: Path, make: Make) -> None:
    make(50, proven=True)
    for days in (60, 70):
        path = make(days, proven=True)
        manifest = json.loads((path / MANIFEST).read_text())
        manifest["tables"][0]["name"] = "_cdc_gone"
        (path / MANIFEST).write_text(json.dumps(manifest))
    last, older = path.with_name(f"backup_{NOW - timedelta(days=60):%Y-%m-%dT%H-%M-%S}-000Z"), path
    assert why(root, last) == "it is the newest that is proven and holds public._cdc_gone"
    assert prune(root) == [older]


def test_what_was_destroyed_and_not_brought_back_keeps_its_session(root: Path, make: Make) -> None:
    make(1)
    old = make(60)
    reason = "what its migration destroyed was not restored"
    destroyed(old, "public._cdc_t", "public._cdc_u", days=59)
    assert why(root, old) == reason
    restored(old, "public._cdc_t", days=40)
    assert why(root, old) == reason
    restored(old, "public._cdc_t", "public._cdc_u", days=59.5)  # before the migration
    assert why(root, old) == reason
    restored(old, "public._cdc_t", "public._cdc_u", days=40)
    assert prune(root) == [old]


def test_what_nobody_knows_of_a_migration_keeps_its_session(root: Path, make: Make) -> None:
    make(1)
    old = make(60)
    Verdict(moment=NOW, command="killed", destroyed=None).write(old)
    assert why(root, old) == "what its migration did is not known"
    assert prune(root) == []


def test_a_migration_that_destroyed_nothing_keeps_nothing(root: Path, make: Make) -> None:
    make(1)
    old = make(60)
    destroyed(old)
    assert prune(root) == [old]


@pytest.mark.parametrize("kind", [Drill, Verdict, Restore])
def test_what_cannot_be_read_keeps_its_session(
    root: Path, make: Make, kind: type[Drill] | type[Verdict] | type[Restore]
) -> None:
    make(1)
    old = make(60)
    kind.beside(old).write_text('{"moment": 1')
    assert "cannot be read" in why(root, old)
    assert prune(root) == []


def test_a_session_that_is_being_restored_stays(root: Path, make: Make) -> None:
    make(1)
    old = make(60)
    with locked(old):
        assert prune(root) == []
    assert prune(root) == [old]


@pytest.mark.parametrize(
    "damage", ["no manifest", "half a manifest", "a file gone", "a file shorter", "of a newer kind"]
)
def test_a_damaged_session_is_left_to_a_person(root: Path, make: Make, damage: str) -> None:
    make(1)
    old = make(60)
    manifest = old / MANIFEST
    match damage:
        case "no manifest":
            manifest.unlink()
        case "half a manifest":
            manifest.write_bytes(manifest.read_bytes()[:99])
        case "a file gone":
            (old / "_cdc_t.sql").unlink()
        case "a file shorter":
            (old / "_cdc_t.sql").write_bytes(b"")
        case _:
            manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"format_version": 2}))
    assert prune(root) == []
    assert why(root, old) == "it is not complete, so look at it yourself"
    assert old.is_dir()


def test_what_is_not_ours_is_let_alone(root: Path, make: Make, tmp_path: Path) -> None:
    make(1)
    kept = make(60)
    outside = tmp_path / "outside"
    shutil.move(kept, outside)
    names = ("notes", "backup_old", "backup_2020-01-01T00-00-00-000Z.bak", "backup_2020-13-01", "2020")
    for name in names:
        (root / name).mkdir()
        (root / name / "file").write_text("mine")
    (root / "backup_2020-01-01T00-00-00-001Z").write_text("a file of that name")
    (root / "backup_2020-01-01T00-00-00-002Z").symlink_to(outside)
    (root / "backup_2020-01-01T00-00-00-003Z").mkdir()
    before = sorted(root.rglob("*"))
    assert prune(root) == []
    assert sorted(root.rglob("*")) == before
    assert (outside / MANIFEST).exists()


def test_a_clock_that_jumped_back_deletes_nothing(root: Path, make: Make) -> None:
    paths = [make(days) for days in (10, 100, 200)]
    assert prune(root, now=NOW - timedelta(days=11)) == []
    assert why(root, paths[2], now=NOW - timedelta(days=11)) == "the clock is wrong: a session is from the future"
    assert prune(root) == paths[:0:-1]


def test_a_folder_that_is_not_there_has_no_sessions(tmp_path: Path) -> None:
    assert review_sessions(tmp_path / "none", retention_days=1, keep_last=1) == ()


def test_killed_in_the_middle_it_leaves_nothing_that_looks_whole(root: Path, make: Make) -> None:
    make(1)
    old = make(60, proven=True)
    make(2, proven=True)
    killed = textwrap.dedent("""
        import os, shutil, signal, sys
        from datetime import datetime
        from pathlib import Path
        from backup.session.prune import prune_sessions, review_sessions
        def half(path):
            next(p for p in path.iterdir() if p.suffix == ".sql").unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        shutil.rmtree = half
        now = datetime.fromisoformat(sys.argv[2])
        prune_sessions(review_sessions(Path(sys.argv[1]), retention_days=30, keep_last=1, now=now))
    """)
    done = subprocess.run((sys.executable, "-c", killed, str(root), NOW.isoformat()), check=False)
    assert done.returncode == -signal.SIGKILL
    assert not old.exists()
    (left,) = root.glob(".partial-*")
    assert [listed.path for listed in list_sessions(root) if not listed.problem] == sorted(
        root.glob("backup_*Z"), reverse=True
    )
    with new_session(root) as partial:
        assert session_name(partial) != session_name(left)
        assert not left.exists()


@pytest.mark.parametrize("dry", [True, False])
def test_the_recipe_shows_what_goes_and_why_the_others_stay(
    embedded_server: Server, tmp_path: Path, root: Path, make: Make, capsys: pytest.CaptureFixture[str], dry: bool
) -> None:
    days = (datetime.now(UTC) - NOW).days
    new, old = make(1), make(60)
    config = tmp_path / "backup.yml"
    config.write_text(f"backup: {{path: {root}, retention_days: {days + 30}, keep_last: 1}}\n")
    cdc = CDCBackup(config=config, dry=dry)
    cdc.prune()
    said = capsys.readouterr().out
    assert f"{new.name}: stays, it is among the newest 1" in said
    assert f"{old.name}: goes" in said
    assert old.exists() == dry
    assert cdc.result.as_json(0, "").get("pruned") == (None if dry else [str(old)])


def test_every_backup_prunes(
    embedded_server: Server, tmp_path: Path, root: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fresh_database(embedded_server) as database:
        database.execute("create table _cdc_t (id int primary key); insert into _cdc_t values (1)")
        monkeypatch.setenv("DATABASE_URL", database.url)
        kept, old = make(60), make(61)
        config = tmp_path / "backup.yml"
        config.write_text(f"backup: {{path: {root}, retention_days: 1, keep_last: 1, drill: off}}\n")
        (file,) = CDCBackup(config=config).run_backup()
        assert sorted(root.glob("backup_*Z")) == sorted([kept, file.parent])
        assert not old.exists()
