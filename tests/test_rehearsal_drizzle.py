"""The rehearsal of both drizzle-kit versions: what it foresees is what then happens."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from backup.errors import UsageError
from backup.migration.command import MigrationCommand
from backup.migration.redirect import why_not
from backup.postgres.embedded import Server
from tests.chain import CDC_BACKUP, Project, end, new_project
from tests.drizzle_projects import DrizzleVersion, edit_schema, make_project
from tests.servers import fresh_database
from tests.sessions import dump, reached
from tests.test_push_safe import CDC_ONLY, SHOP, write_migration
from tests.test_rehearsal import foreseen, happened

AUDIT = """
create schema audit;
create table audit._cdc_users (id integer primary key, user_id integer references users);
insert into audit._cdc_users select n, 1 from generate_series(1, 10) n;
create table audit._cdc_roles (id integer);
insert into audit._cdc_roles values (1), (2);
"""

NO_CAPTURE = "".join(f"drop trigger record_change on {name};" for name in ("users", "roles", "permissions"))
"""Without it the application's writes would fail once the tables are gone: a loss of its own, agreed to by nobody."""


@pytest.fixture
def shop(embedded_server: Server, installed: Path, tmp_path: Path) -> Iterator[Project]:
    """The example as a project of its own, with its database."""
    with new_project(embedded_server, make_project(tmp_path / "shop", installed), SHOP) as made:
        made.configure(rehearse="auto")
        yield made


@pytest.fixture
def changelog(embedded_server: Server, installed: Path, tmp_path: Path) -> Iterator[Project]:
    """The example's project in front of a database that holds CDC tables alone."""
    with new_project(embedded_server, make_project(tmp_path / "shop", installed), CDC_ONLY) as made:
        made.configure(rehearse="auto")
        yield made


def answered(project: Project, version: DrizzleVersion) -> tuple[str, ...]:
    """What push needs in order to lose the CDC tables unasked."""
    if version == "stable":
        return ("--force",)
    hints = [
        {"type": "confirm_data_loss", "kind": "table", "entity": ["public", f"_cdc_{name}"]}
        for name in ("users", "roles", "permissions")
    ]
    (project.folder / "hints.json").write_text(json.dumps(hints))
    return ("--output", "json", "--hints-file", "hints.json")


one_version = pytest.mark.parametrize("version", ["stable"], indirect=True)
"""For what is ours alone, and costs seconds a version."""

ALL_DROPPED = {
    "_cdc_permissions": ("dropped", 6, None),
    "_cdc_roles": ("dropped", 2, None),
    "_cdc_users": ("dropped", 10, None),
}


def test_tables_that_the_schema_does_not_name_are_foreseen_to_be_dropped_and_are(
    shop: Project, version: DrizzleVersion
) -> None:
    before = dump(shop.database)
    value, ended = shop.json("rehearse")
    assert ended.code == 0, ended.said
    assert foreseen(value) == ALL_DROPPED
    assert dump(shop.database) == before
    value, ended = shop.json("push-safe", "--yes", "--no-rehearse", "--", *answered(shop, version))
    assert happened(value) == ALL_DROPPED
    assert ended.code == 6, "nothing was announced"


@one_version
def test_what_a_person_agreed_to_on_the_terminal_is_no_unannounced_loss(shop: Project) -> None:
    shop.database.execute(NO_CAPTURE)
    with shop.terminal(CDC_BACKUP, "push-safe") as shown:
        shown.expect(r"will drop `_cdc_permissions` \(6 rows\), `_cdc_roles` \(2 rows\) and `_cdc_users` \(10 rows\)")
        shown.expect(r"Go on\?")
        shown.send("y\r")
        shown.expect("Yes, I want")
        shown.send("\x1b[B")
        shown.expect("❯ Yes")
        shown.send("\r")
        code, said = end(shown)
    assert code == 0, said


def test_empty_tables_that_go_without_a_question_are_foreseen(shop: Project) -> None:
    shop.database.execute(f"truncate _cdc_users, _cdc_roles, _cdc_permissions; {NO_CAPTURE}")
    value, ended = shop.json("push-safe", "--yes")
    assert foreseen(value) == happened(value)
    assert {change for change, _, _ in foreseen(value).values()} == {"dropped"}
    assert ended.code == 0, ended.said


def test_a_column_that_truncates_its_table_is_foreseen_with_the_cascade(shop: Project, version: DrizzleVersion) -> None:
    """Without a person stable truncates; 1.0 fails instead, and both do so in the rehearsal as well."""
    shop.database.execute("drop table _cdc_users, _cdc_roles, _cdc_permissions")
    shop.database.execute(AUDIT)
    shop.configure(rehearse="auto", schemas=["audit"])
    config = shop.folder / "drizzle.config.ts"
    config.write_text(config.read_text().replace("dialect:", 'schemaFilter: ["public"], dialect:'))
    name = "name: text().notNull(),\n    roleId"
    edit_schema(shop.folder, name, f"nick: text().notNull(),\n    {name}")
    value, ended = shop.json("rehearse")
    if version == "stable":
        assert foreseen(value) == {"_cdc_roles": ("untouched", 2, 2), "_cdc_users": ("emptied", 10, 0)}
        assert "empty `audit._cdc_users` (10 rows) through the cascade from `users`" in ended.stderr
        assert ended.code == 0, ended.said
    else:
        assert ended.code == 5, ended.said
        assert "contains null values" in value["forecast"]["failure"]
    rehearsed = foreseen(value)
    value, ended = shop.json("push-safe", "--no-rehearse", "--", *answered(shop, version))
    assert happened(value) == rehearsed
    assert ended.code == (6 if version == "stable" else 5)


def test_a_push_that_fails_half_way_is_foreseen_with_what_it_destroys_before_it_fails(
    shop: Project, version: DrizzleVersion
) -> None:
    edit_schema(shop.folder, "action: text().notNull()", "action: integer().notNull()")
    before = dump(shop.database)
    value, ended = shop.json("push-safe", "--yes")
    assert ended.code == 5, ended.said
    rehearsed = foreseen(value)
    assert rehearsed == ALL_DROPPED
    assert value["forecast"]["failure"]
    assert dump(shop.database) == before
    value, ended = shop.json("push-safe", "--yes", "--no-rehearse", "--", *answered(shop, version))
    assert happened(value) == rehearsed
    assert ended.code == 6, ended.said


def test_where_it_would_ask_about_a_rename_nobody_can_know(shop: Project) -> None:
    edit_schema(
        shop.folder,
        "export const roles",
        'export const extra = pgTable("extra", { id: integer() });\nexport const roles',
    )
    value, ended = shop.json("rehearse")
    assert ended.code == 3, ended.said
    assert "a question that only a person can answer" in value["forecast"]["unknown"]
    assert {change for change, _, _ in foreseen(value).values()} == {"unknown"}


@one_version
def test_a_config_that_does_not_follow_the_variable_is_refused_and_its_database_unchanged(shop: Project) -> None:
    """It overrides the variable, as dotenv does when told to."""
    config = shop.folder / "drizzle.config.ts"
    text = config.read_text()
    assert "url: process.env.DATABASE_URL!" in text
    override = f"url: (process.env.DATABASE_URL = {shop.database.url!r})"
    config.write_text(text.replace("url: process.env.DATABASE_URL!", override))
    before = dump(shop.database)
    value, ended = shop.json("push-safe", "--rehearse", "--yes")
    assert ended.code == 3, ended.said
    assert "does not follow DATABASE_URL" in value["forecast"]["unknown"]
    assert dump(shop.database) == before
    assert len(shop.published) == 1, "the backup comes first"


@one_version
def test_a_config_that_names_another_database_of_the_same_server_is_not_run_at_all(shop: Project) -> None:
    with fresh_database(shop.database.server) as other:
        other.execute(SHOP)
        before = dump(other)
        config = shop.folder / "drizzle.config.ts"
        config.write_text(config.read_text().replace("process.env.DATABASE_URL!", repr(other.url)))
        ended = shop.cdc("push-safe", "--yes", "--", "--force")
        assert ended.code == 2, ended.said
        told = " ".join(ended.said.split())
        assert f"drizzle.config.ts names {other.name} on localhost:{other.server.port} as it is" in told
        assert "The migration was not started." in told
        assert dump(other) == before


def why_not_rehearsed(project: Project, verb: str, environment: Mapping[str, str], *, shared: bool = True) -> str:
    """Why this verb of drizzle-kit is not rehearsed, as far as that is known before anything runs."""
    return why_not(
        MigrationCommand(argv=("npx", "drizzle-kit", verb), directory=project.folder),
        database=reached(project.database),
        variable="DATABASE_URL",
        environment=environment,
        by_pg=None,
        shared=shared,
    )


@one_version
def test_a_config_that_means_another_database_or_what_all_databases_share_is_not_rehearsed(shop: Project) -> None:
    elsewhere = shop.environment(DATABASE_URL=shop.database.server.url("elsewhere"))
    with pytest.raises(UsageError, match="names elsewhere on localhost"):
        why_not_rehearsed(shop, "push", elsewhere)
    pooled = shop.environment(DATABASE_URL=shop.database.url.replace(f":{shop.database.server.port}/", ":6432/"))
    assert "on localhost:6432 as it is" in why_not_rehearsed(shop, "push", pooled)
    config = shop.folder / "drizzle.config.ts"
    config.write_text(config.read_text().replace("dialect:", "entities: { roles: true }, dialect:"))
    assert "entities.roles" in why_not_rehearsed(shop, "push", shop.environment())
    assert why_not_rehearsed(shop, "push", shop.environment(), shared=False) == ""
    assert why_not_rehearsed(shop, "migrate", shop.environment()) == ""
    folder = shop.folder / "drizzle" / "0001_roles"
    folder.mkdir(parents=True)
    (folder / "migration.sql").write_text("CREATE ROLE reporting;")
    assert "0001_roles says “CREATE ROLE”" in why_not_rehearsed(shop, "migrate", shop.environment())


# generate and migrate


def test_a_migration_file_is_rehearsed_after_generate_wrote_it(changelog: Project) -> None:
    changelog.database.execute("create table _cdc_extra (id integer, note text); insert into _cdc_extra values (1)")
    write_migration(
        changelog,
        "DROP TABLE _cdc_empty;",
        "TRUNCATE _cdc_users;",
        "DELETE FROM _cdc_roles WHERE id = 1;",
        "ALTER TABLE _cdc_extra DROP note;",
    )
    value, ended = changelog.json("full-safe", "--yes")
    assert foreseen(value) == happened(value)
    assert {name: change for name, (change, _, _) in foreseen(value).items()} == {
        "_cdc_empty": "dropped",
        "_cdc_extra": "columns lost",
        "_cdc_roles": "rows lost",
        "_cdc_users": "emptied",
    }
    assert ended.code == 0, ended.said
    assert changelog.database.rows("select count(*) from users") == [(0,)], "generate's file was applied too"
    value, ended = changelog.json("rehearse", "--", "npx", "drizzle-kit", "migrate")
    assert {change for change, _, _ in foreseen(value).values()} == {"untouched"}, "its journal was copied"


@one_version
def test_after_a_no_it_says_which_file_generate_left(changelog: Project) -> None:
    before = dump(changelog.database)
    with changelog.terminal(CDC_BACKUP, "full-safe") as shown:
        shown.expect("Safe, untouched there")
        shown.expect(r"Go on\?")
        shown.send("n\r")
        code, said = end(shown)
    assert code == 4, said
    (left,) = (changelog.folder / "drizzle").rglob("*.sql")
    assert str(left.relative_to(changelog.folder)) in "".join(said.split("\r\n"))
    assert len(changelog.published) == 1, "the backup comes first"
    assert dump(changelog.database) == before
