"""The whole chain with writers that never stop: no committed row is missing after the restore, and none is double."""

from pathlib import Path

import pytest

from backup.postgres.embedded import Server
from tests.chain import CDC_BACKUP, end, new_project, psql
from tests.stress_guard import destroy_and_restore


@pytest.mark.parametrize("kind", ["truncate and drop", "rolled back", "changed", "push"])
def test_not_one_row_is_missing_or_doubled(
    machine_server: Server, tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    if kind == "push":
        request.getfixturevalue("node")
    with new_project(machine_server, tmp_path / "project", "") as project:
        written, wrong = destroy_and_restore(project, kind)
    assert wrong == ""
    assert all(rows.total() > 1000 for rows in written.committed.values())


@pytest.mark.parametrize(
    "rewrite", ["vacuum full _cdc_loose", "alter table _cdc_loose set unlogged; alter table _cdc_loose set logged"]
)
def test_rows_that_got_another_place_between_backup_and_guard_are_not_doubled(
    machine_server: Server, tmp_path: Path, rewrite: str
) -> None:
    tables = "create table _cdc_loose (id int); create table other (id int)"
    with new_project(machine_server, tmp_path / "project", tables) as project:
        project.configure(rehearse="on")
        with project.database.connect(autocommit=False) as running:
            # What is written while an older transaction runs is no older than the backup's snapshot, and seen by it.
            running.execute("insert into other values (1)")
            project.database.execute("insert into _cdc_loose select generate_series(0, 10)")
            project.database.execute("delete from _cdc_loose where id = 0")
            migration = psql(project, "drop table _cdc_loose")
            with project.terminal(CDC_BACKUP, "run-safe", "--rehearse", "--", *migration) as shown:
                shown.expect(r"Go on\?")
                running.commit()
                project.database.execute(rewrite)
                project.database.execute("insert into _cdc_loose values (11)")
                shown.sendline("y")
                end(shown)
        back = project.cdc("restore", "--yes")
        assert back.code == 0, back.said
        assert project.database.rows("select id from _cdc_loose order by id") == [(n,) for n in range(1, 12)]


def test_what_was_saved_ahead_comes_back_as_it_was_when_its_table_was_taken(
    machine_server: Server, tmp_path: Path
) -> None:
    ahead = range(5, 20)
    tables = "".join(
        f"create table _cdc_{n} (id int, note text); insert into _cdc_{n} values (0, 'old');" for n in range(20)
    )
    with new_project(machine_server, tmp_path / "project", tables) as project:
        database, script = project.database, project.folder / "migration.sql"
        program = f'{database.server.binaries / "psql"} -X -q -v ON_ERROR_STOP=1 -d "$DATABASE_URL"'
        changed = "".join(
            f"update _cdc_{n} set note = 'sent' where id = 1; delete from _cdc_{n} where id = 2;" for n in ahead
        )
        script.write_text(
            "".join(f"insert into _cdc_{n} values (1, 'pending'), (2, 'gone');" for n in range(20))
            + "begin;"
            + "".join(f"truncate _cdc_{n};" for n in range(5))
            + f'\n\\! {program} -c "{changed}"\n'
            + "".join(f"drop table _cdc_{n};" for n in ahead)
            + "commit;"
        )
        value, ended = project.json(
            "run-safe", "--yes", "--no-rehearse", "--", "sh", "-c", f"exec {program} -f {script}"
        )
        assert ended.code == 6, ended.said
        assert value["guard"]["gaps"] == []
        assert sum(strike["rows_saved"] for strike in value["guard"]["strikes"]) == 5 * 2 + len(ahead)
        back = project.cdc("restore", "--yes")
        assert back.code == 0, back.said
        for n in ahead:
            assert database.rows(f"select * from _cdc_{n} order by id") == [(0, "old"), (1, "sent")]
