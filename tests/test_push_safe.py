"""The real drizzle-kit, both versions, inside the chain: on a terminal with its prompts, and without one."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from backup.postgres.embedded import Server
from tests.chain import CDC_BACKUP, TABLES, Ended, Project, end, new_project
from tests.drizzle_projects import EXAMPLE, DrizzleVersion, edit_schema, make_project
from tests.sessions import dump

SHOP = (EXAMPLE / "database.sql").read_text() + (EXAMPLE / "changes.sql").read_text()
"""The example's tables; 10, 2 and 6 rows in the CDC tables."""

CDC_ONLY = TABLES.replace("create table users (id integer primary key, name text);", "")

KEYS = {"No": "\r", "Ctrl-C": "\x03", "Esc": "\x1b"}
"""What a person presses at drizzle-kit's question, where “No, abort” is marked."""


@pytest.fixture
def shop(embedded_server: Server, installed: Path, tmp_path: Path) -> Iterator[Project]:
    """The example as a project of its own, with its database."""
    with new_project(embedded_server, make_project(tmp_path / "shop", installed), SHOP) as made:
        yield made


@pytest.fixture
def changelog(embedded_server: Server, installed: Path, tmp_path: Path) -> Iterator[Project]:
    """The example's project in front of a database that holds CDC tables alone."""
    with new_project(embedded_server, make_project(tmp_path / "shop", installed), CDC_ONLY) as made:
        yield made


def changes(project: Project) -> dict[str, str]:
    """The verdict that stands beside the newest session: each destroyed table and how."""
    session = project.published[-1]
    destroyed: dict[str, str] = json.loads(session.with_name(f"{session.name}.verdict.json").read_text())["destroyed"]
    return destroyed


ALL_DROPPED = {f"public._cdc_{name}": "dropped" for name in ("permissions", "roles", "users")}


def restored(project: Project, ended: Ended, before: str) -> None:
    """The command that was printed brings back the whole database as it was."""
    (advised,) = ended.advised
    back = project.run(*advised)
    assert back.code == 0, back.said
    assert dump(project.database) == before


# on a terminal


def test_yes_drops_the_tables_and_the_restore_brings_back_every_row_and_the_triggers_work(shop: Project) -> None:
    shop.configure(drill=True)
    before = dump(shop.database)
    with shop.terminal(CDC_BACKUP, "push-safe") as shown:
        shown.expect(r"Back them up and go on\?")
        shown.send("\r")
        shown.expect("Yes, I want")
        shown.send("\x1b[B")
        shown.expect("❯ Yes")
        shown.send("\r")
        code, said = end(shown)
    assert code == 6, said
    assert changes(shop) == ALL_DROPPED
    change = "update users set name = 'Ada Lovelace' where id = 1"
    assert '"_cdc_users" does not exist' in shop.database.psql(f"--command={change}").stderr, "the triggers are gone"
    restored(shop, Ended(code=code, stdout=said, stderr=""), before)
    shop.database.execute(change)
    assert shop.database.rows("select count(*) from _cdc_users") == [(11,)]


@pytest.mark.parametrize("key", KEYS)
def test_any_other_key_does_what_it_does_without_us_and_its_exit_code_is_not_believed(shop: Project, key: str) -> None:
    before = dump(shop.database)
    with shop.terminal(CDC_BACKUP, "push-safe", "--yes") as shown:
        shown.expect("Yes, I want")
        shown.send(KEYS[key])
        code, said = end(shown)
    words = " ".join(said.split())
    if key == "Esc":
        assert code == 6, said
        assert "Esc means yes there" in words
        assert changes(shop) == ALL_DROPPED
        restored(shop, Ended(code=code, stdout=said, stderr=""), before)
    else:
        assert code == 5, said
        assert ("was answered with “No, abort”" if key == "No" else "was interrupted") in words
        assert "The CDC tables are as they were." in words
        assert changes(shop) == {}
        assert dump(shop.database) == before


def test_who_says_no_to_us_is_not_asked_by_drizzle_kit(shop: Project) -> None:
    before = dump(shop.database)
    with shop.terminal(CDC_BACKUP, "push-safe") as shown:
        shown.expect(r"Back them up and go on\?")
        shown.send("n\r")
        code, said = end(shown)
    assert code == 4
    assert "Pulling schema" not in said
    assert shop.sessions == []
    assert dump(shop.database) == before


# without a terminal


def test_a_question_that_nobody_can_answer_is_a_migration_that_did_not_do_its_work(shop: Project) -> None:
    before = dump(shop.database)
    value, ended = shop.json("push-safe")
    assert ended.code == 5, ended.said
    assert "nobody to answer it" in value["message"]
    assert {verdict["change"] for verdict in value["verdict"]} == {"untouched"}
    assert dump(shop.database) == before


def test_a_script_of_package_json_that_calls_drizzle_kit_is_not_believed_either(shop: Project) -> None:
    (shop.folder / "package.json").write_text('{"type": "module", "scripts": {"db:push": "drizzle-kit push"}}')
    shop.configure(push=["npm", "run", "--silent", "db:push"])
    value, ended = shop.json("push-safe")
    assert value["migration"]["argv"] == ["npm", "run", "--silent", "db:push"]
    assert ended.code == 5, ended.said
    assert "nobody to answer it" in value["message"]
    direct, _ = shop.json("run-safe", "--rehearse", "--", "npm", "run", "db:push")
    assert "a question that only a person can answer" in direct["message"]


def test_force_drops_the_tables_where_that_version_has_it(shop: Project, version: DrizzleVersion) -> None:
    before = dump(shop.database)
    value, ended = shop.json("push-safe", "--", "--force")
    assert value["migration"]["argv"] == ["npx", "drizzle-kit", "push", "--force"]
    if version == "rc":
        assert ended.code == 5, ended.said
        assert dump(shop.database) == before
        return
    assert ended.code == 6, ended.said
    assert changes(shop) == ALL_DROPPED
    restored(shop, ended, before)


def test_an_empty_table_is_dropped_without_a_question_and_brought_back(shop: Project) -> None:
    shop.database.execute("truncate _cdc_users, _cdc_roles, _cdc_permissions restart identity")
    before = dump(shop.database)
    value, ended = shop.json("push-safe")
    assert value["migration"]["exit_code"] == 0, "drizzle-kit asks now: the facts have changed"
    assert ended.code == 6, ended.said
    assert changes(shop) == ALL_DROPPED
    restored(shop, ended, before)


def test_a_push_that_fails_half_way_is_judged_by_what_is_gone(shop: Project) -> None:
    """The empty tables go first, unasked; then a change of type fails, and what went before stays."""
    shop.database.execute("truncate _cdc_users, _cdc_roles, _cdc_permissions")
    edit_schema(shop.folder, "action: text().notNull()", "action: integer().notNull()")
    value, ended = shop.json("push-safe", "--", "--force")
    assert ended.code == 6, ended.said
    assert "It also failed: drizzle-kit push failed" in value["message"]
    assert changes(shop) == ALL_DROPPED
    assert shop.run(*ended.advised[0]).code == 0
    assert shop.database.rows("select count(*) from pg_class where relkind = 'r' and relname like '\\_cdc%'") == [(3,)]


def test_a_server_that_only_drizzle_kit_cannot_reach_is_a_failed_migration(shop: Project) -> None:
    config = shop.folder / "drizzle.config.ts"
    config.write_text(config.read_text().replace("process.env.DATABASE_URL!", '"postgresql://u@127.0.0.1:1/shop"'))
    value, ended = shop.json("push-safe")
    assert ended.code == 5, ended.said
    assert value["migration"]["exit_code"] == 1
    assert {verdict["change"] for verdict in value["verdict"]} == {"untouched"}


def test_a_push_with_nothing_to_do_is_done(shop: Project) -> None:
    shop.database.execute("create schema audit; alter table _cdc_users set schema audit")
    shop.database.execute("drop table _cdc_roles, _cdc_permissions")
    config = shop.folder / "drizzle.config.ts"
    config.write_text(config.read_text().replace("dialect:", 'schemaFilter: ["public"], dialect:'))
    shop.configure(schemas=["audit"])
    value, ended = shop.json("push-safe")
    assert ended.code == 0, ended.said
    assert "had nothing to do: “[i] No changes detected" in ended.stderr
    assert [(verdict["schema"], verdict["change"]) for verdict in value["verdict"]] == [("audit", "untouched")]


# generate and migrate


def write_migration(project: Project, *statements: str) -> None:
    """A migration file that a person writes, which generate then leaves alone."""
    made = project.run("npx", "drizzle-kit", "generate", "--custom", "--name=ours")
    assert made.code == 0, made.said
    (file,) = (project.folder / "drizzle").rglob("*.sql")
    file.write_text("\n--> statement-breakpoint\n".join(statements))


def test_a_migration_file_that_drops_a_table_is_applied_without_a_word_and_judged(changelog: Project) -> None:
    write_migration(changelog, "DROP TABLE _cdc_users;", "DELETE FROM _cdc_roles WHERE id = 1;")
    value, ended = changelog.json("full-safe")
    assert ended.code == 6, ended.said
    assert value["migration"] == {"argv": ["npx", "drizzle-kit", "migrate"], "exit_code": 0, "reached": True}
    assert changes(changelog) == {"public._cdc_users": "dropped", "public._cdc_roles": "rows lost"}
    assert changelog.database.rows("select count(*) from users") == [(0,)], "generate's file was applied too"
    assert changelog.run(*ended.advised[0]).code == 0
    assert changelog.database.rows("select count(*) from _cdc_users, _cdc_roles") == [(6,)]


def test_a_migrate_that_fails_undoes_its_files_and_says_so_although_drizzle_kit_may_not(changelog: Project) -> None:
    write_migration(changelog, "DROP TABLE _cdc_users;", "DROP TABLE nowhere;")
    value, ended = changelog.json("full-safe")
    assert ended.code == 5, ended.said
    assert value["migration"] == {"argv": ["npx", "drizzle-kit", "migrate"], "exit_code": 1, "reached": True}
    assert "drizzle-kit migrate" in value["message"]
    assert {verdict["change"] for verdict in value["verdict"]} == {"untouched"}


def test_a_second_full_safe_has_nothing_to_do_and_is_done(changelog: Project) -> None:
    first = changelog.cdc("full-safe")
    assert first.code == 0, first.said
    assert changelog.database.rows("select count(*) from users") == [(0,)]
    value, ended = changelog.json("full-safe")
    assert ended.code == 0, ended.said
    assert "drizzle-kit generate had nothing to do" in ended.stderr
    assert {verdict["change"] for verdict in value["verdict"]} == {"untouched"}


def test_a_generate_that_fails_keeps_migrate_from_being_started(changelog: Project) -> None:
    (changelog.folder / "src" / "schema.ts").write_text("export const broken = ;\n")
    value, ended = changelog.json("full-safe")
    assert ended.code == 5, ended.said
    assert value["migration"]["argv"] == ["npx", "drizzle-kit", "generate"]
    assert changelog.database.rows("select count(*) from pg_namespace where nspname = 'drizzle'") == [(0,)]


# npm


def test_npm_passes_a_path_on_to_the_backup(shop: Project, tmp_path: Path) -> None:
    npm = shutil.which("npm")
    assert npm
    target = tmp_path / "custom path" / "backups"
    ended = shop.run(npm, "run", "--silent", "migration:backup", str(target))
    assert ended.code == 0, ended.said
    (session,) = (path for path in target.iterdir() if path.is_dir())
    assert sorted(path.name for path in session.glob("_cdc_*")) == [
        "_cdc_permissions.sql",
        "_cdc_roles.sql",
        "_cdc_users.sql",
    ]
    assert not shop.backups.exists()
