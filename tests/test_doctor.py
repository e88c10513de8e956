"""What `migration.doctor` finds out: on real servers, in real Drizzle projects, without changing anything."""

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from backup.migration import drizzle_project
from backup.migration.drizzle_project import SENTINEL, Kit, Place, find_config, find_kit, named_database
from backup.postgres.embedded import Server
from tests.chain import CDC_BACKUP, Ended, Project, end, new_project
from tests.drizzle_projects import DrizzleVersion, install, make_project
from tests.lacking import lacking
from tests.restoring import everything

Checks = dict[str, dict[str, Any]]

LIMITED = "cdc_limited"
"""A role that owns nothing and may do nothing but what a test grants."""

WRITTEN = "drizzle.config.ts"

FROM_ENVIRONMENT = """
import { defineConfig } from "drizzle-kit";
export default defineConfig({ dialect: "postgresql", dbCredentials: { url: process.env.DATABASE_URL! } });
"""
ALIASED = """
import { url } from "@/place";
export default { dialect: "postgresql", dbCredentials: { url } };
"""
ASKED_FOR = """
const parts = new URL(process.env.DATABASE_URL);
module.exports = { dialect: "postgresql", dbCredentials: {
    host: parts.hostname, port: Number(parts.port), user: parts.username, database: parts.pathname.slice(1) } };
"""
OVERRIDING = """
import { readFileSync } from "node:fs";
import { parseEnv } from "node:util";
Object.assign(process.env, parseEnv(readFileSync(".env", "utf8")));
export default { dialect: "postgresql", dbCredentials: { url: process.env.DATABASE_URL! } };
"""
"""What dotenv does with `override: true`."""


@pytest.fixture
def plain(embedded_server: Server, tmp_path: Path) -> Iterator[Project]:
    """A project without Drizzle."""
    with new_project(embedded_server, tmp_path / "project") as made:
        made.configure(drill=True)
        yield made


@pytest.fixture(scope="session", params=["stable", "rc"])
def version(request: pytest.FixtureRequest) -> DrizzleVersion:
    """Each of the two versions of drizzle-kit."""
    named: DrizzleVersion = request.param
    return named


@pytest.fixture(scope="session")
def installed(node: Path, version: DrizzleVersion, request: pytest.FixtureRequest) -> Path:
    """That version, installed once for all runs of the tests."""
    assert node
    return install(version, request.config.cache.mkdir("drizzle"))


@pytest.fixture
def drizzle(embedded_server: Server, node: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Project]:
    """The example with the stable drizzle-kit."""
    assert node
    made = make_project(tmp_path / "project", install("stable", request.config.cache.mkdir("drizzle")))
    with new_project(embedded_server, made) as project:
        yield project


@pytest.fixture
def limited(plain: Project) -> Iterator[str]:
    """The URL of the project's database for a role without rights, which is gone afterwards."""
    role = sql.Identifier(LIMITED)
    with plain.database.connect() as connection:
        connection.execute(sql.SQL("create role {} login password 'geheim'").format(role))
    server = plain.database.server
    yield f"postgresql://{LIMITED}:geheim@{server.host}:{server.port}/{plain.database.name}"
    with plain.database.connect() as connection:
        connection.execute(sql.SQL("drop owned by {}; drop role {}").format(role, role))


def examine(project: Project, *arguments: str, **options: Any) -> tuple[Checks, Ended]:
    """What the doctor says of a project, each check by its name, and how it ended."""
    value, ended = project.json("doctor", *arguments, **options)
    found = value["doctor"]
    for one in found:
        assert set(one) == {"check", "status", "detail", "remedy"}
        assert one["status"] in ("ok", "warning", "missing")
        assert one["remedy"] or one["status"] == "ok", one
    missing = [one["check"] for one in found if one["status"] == "missing"]
    assert value["status"] == ("failed" if missing else "examined")
    assert (value["message"] == "") is not bool(missing)
    checks = {one["check"]: one for one in found}
    assert len(checks) == len(found)
    return checks, ended


def states(checks: Checks) -> dict[str, str]:
    return {name: check["status"] for name, check in checks.items()}


def files(folder: Path) -> dict[str, int]:
    """Every file and folder below, and when it was changed."""
    return {str(path): path.lstat().st_mtime_ns for path in (folder, *folder.rglob("*"))}


def test_a_project_in_which_a_backup_would_work_is_told_so_and_not_changed(
    embedded_server: Server, installed: Path, tmp_path: Path
) -> None:
    # of its own: other tests run drizzle-kit from the shared one meanwhile, and that keeps a cache there
    modules = tmp_path / "installed"
    shutil.copytree(installed, modules, symlinks=True, ignore=shutil.ignore_patterns(".cache"))
    with new_project(embedded_server, make_project(tmp_path / "project", modules)) as project:
        project.configure(drill=True)
        folders = (project.folder, modules)
        before = [files(folder) for folder in folders], everything(project.database)
        checks, ended = examine(project)
        assert ended.code == 0
        assert states(checks) == dict.fromkeys(
            (
                *("configuration", "database", "tables", "rights", "clients", "drill", "folder", "space"),
                *("drizzle-kit", "same database"),
            ),
            "ok",
        )
        assert ([files(folder) for folder in folders], everything(project.database)) == before
        assert project.cdc("backup").code == 0


def test_a_newcomer_sees_on_one_screen_what_was_found_and_what_to_do(plain: Project) -> None:
    statements = [f"create table _cdc_t{n} as select generate_series(1, {n})" for n in range(1, 60)]
    plain.database.execute("; ".join(statements))
    plain.configure(path=str(plain.folder / "config" / "backup.yml" / "x"))
    with plain.terminal(CDC_BACKUP, "doctor", columns=140) as shown:
        code, said = end(shown)
    assert code == 3
    assert said.count("\n") < 40
    assert "62 CDC tables with 1,775 rows" in said
    assert "and 52 smaller ones" in said
    assert "missing  folder" in said
    assert "→ Give yourself the right to write there" in said
    assert "Not ready for a backup: folder." in said


def test_the_tables_are_told_with_rows_and_sizes(plain: Project) -> None:
    checks, _ = examine(plain)
    first, *tables = checks["tables"]["detail"].split("\n")
    assert first.startswith("3 CDC tables with 5 rows, ")
    assert sorted(line.partition(", ")[0] for line in tables) == [
        "public._cdc_empty: 0 rows",
        "public._cdc_roles: 2 rows",
        "public._cdc_users: 3 rows",
    ]


def test_every_value_is_told_with_who_gives_it(plain: Project) -> None:
    file = plain.configure(jobs=3, retention_days=30, mode="auto", scratch="postgresql://me:geheim@127.0.0.1:1/x")
    (file.parent / "audit-tables.yml").write_text("audit: {config: {prefix: _cdc_us}}")
    (plain.folder / ".env").write_text(f"DATABASE_URL={plain.database.url}\n")
    environment = plain.environment(CDC_BACKUP_CONFIG=str(file))
    del environment["DATABASE_URL"]
    checks, ended = examine(plain, "--path", "elsewhere", environment=environment)
    assert checks["configuration"]["detail"].split("\n") == [
        f"{file} (named by CDC_BACKUP_CONFIG)",
        f"path: {plain.folder}/elsewhere (--path)",
        "prefix: _cdc_us (audit-tables.yml beside it)",
        "mode: auto (backup.yml)",
        "drill: False (backup.yml)",
        "scratch: a URL (backup.yml)",
        "rehearse: off (backup.yml)",
        "jobs: 3 (backup.yml)",
    ]
    assert checks["database"]["detail"].endswith(f"named by DATABASE_URL in {plain.folder}/.env")
    assert "1 CDC table with 3 rows" in checks["tables"]["detail"]
    assert "geheim" not in ended.said


def test_without_a_configuration_the_first_steps_are_named(plain: Project) -> None:
    shutil.rmtree(plain.folder / "config")
    checks, ended = examine(plain)
    assert ended.code == 0
    assert "all values are built in" in checks["configuration"]["detail"]
    assert checks["configuration"]["remedy"].startswith("cdc-backup init ")


def test_a_configuration_that_keeps_a_backup_from_working_is_exit_2(plain: Project) -> None:
    plain.configure(enabled=False)
    checks, ended = examine(plain)
    assert (ended.code, checks["configuration"]["status"]) == (2, "missing")
    assert "enabled" in checks["configuration"]["remedy"]
    plain.configure(jobs="many")
    value, ended = plain.json("doctor")
    assert ended.code == 2
    assert "backup.jobs must be" in value["message"]


def test_without_a_database_it_says_what_to_set_and_goes_on(plain: Project) -> None:
    environment = plain.environment()
    del environment["DATABASE_URL"]
    checks, ended = examine(plain, environment=environment)
    assert ended.code == 2
    assert states(checks) == {"configuration": "ok", "database": "missing", "folder": "ok", "drizzle-kit": "ok"}
    assert "DATABASE_URL=postgresql://" in checks["database"]["remedy"]


@pytest.mark.parametrize("wrong", ["password", "port", "database"])
def test_a_database_that_cannot_be_reached_is_told_without_its_password(plain: Project, wrong: str) -> None:
    server, name = plain.database.server, plain.database.name
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1] if wrong == "port" else server.port
        password = "geheim" if wrong == "password" else server.password
        url = (
            f"postgresql://{server.superuser}:{password}@{server.host}:{port}/{'none' if wrong == 'database' else name}"
        )
        checks, ended = examine(plain, environment=plain.environment(DATABASE_URL=url))
    assert ended.code == 3
    assert checks["database"]["status"] == "missing"
    assert f"127.0.0.1:{port}" in checks["database"]["detail"]
    assert "tables" not in checks
    assert password not in ended.said


def test_a_table_that_may_not_be_read_is_missing_and_named(plain: Project, limited: str) -> None:
    plain.database.execute(f"grant select on _cdc_roles, _cdc_empty to {LIMITED}")
    checks, ended = examine(plain, environment=plain.environment(DATABASE_URL=limited))
    assert ended.code == 3
    assert checks["tables"]["status"] == "missing"
    assert "public._cdc_users: the role cdc_limited has no SELECT on it" in checks["tables"]["detail"]
    assert "SELECT" in checks["tables"]["remedy"]


def test_a_sequence_that_may_not_be_read_is_missing_before_a_backup_fails_for_it(plain: Project, limited: str) -> None:
    plain.database.execute("create table _cdc_log (id bigserial)")
    plain.database.execute(f"grant select on all tables in schema public to {LIMITED}")
    environment = plain.environment(DATABASE_URL=limited)
    checks, ended = examine(plain, environment=environment)
    assert (ended.code, checks["tables"]["status"]) == (3, "missing")
    assert "public._cdc_log: the role cdc_limited has no SELECT on its sequence" in checks["tables"]["detail"]
    done = plain.cdc("backup", environment=environment)
    assert done.code == 3
    statement = "GRANT SELECT ON SEQUENCE public._cdc_log_id_seq TO cdc_limited;"
    assert statement in done.stdout
    assert statement in checks["tables"]["remedy"]
    plain.database.execute(statement)
    assert examine(plain, environment=environment)[1].code == 0
    assert plain.cdc("backup", environment=environment).code == 0


def test_row_security_that_hides_rows_is_missing(plain: Project, limited: str) -> None:
    plain.database.execute(f"grant select on all tables in schema public to {LIMITED}")
    plain.database.execute("alter table _cdc_users enable row level security")
    checks, ended = examine(plain, environment=plain.environment(DATABASE_URL=limited))
    assert ended.code == 3
    assert "row security hides rows of it" in checks["tables"]["detail"]


def test_the_place_of_the_drill_is_the_one_where_a_backup_is_drilled(plain: Project, limited: str) -> None:
    plain.database.execute(f"grant select on all tables in schema public to {LIMITED}")
    environment = plain.environment(DATABASE_URL=limited)
    checks, ended = examine(plain, environment=environment)
    assert (ended.code, checks["drill"]["status"]) == (0, "ok")
    assert checks["drill"]["detail"] == "a session would be proven on an embedded server on this machine"
    plain.configure(drill=True, scratch="server")
    checks, ended = examine(plain, environment=environment)
    assert (ended.code, checks["drill"]["status"]) == (3, "missing")
    assert checks["drill"]["remedy"].startswith("Give the role CREATEDB")
    assert plain.cdc("backup", environment=environment).code == 3
    assert plain.sessions == []
    plain.configure(drill=True, scratch=plain.database.server.url())
    checks, ended = examine(plain, environment=environment)
    assert (ended.code, checks["drill"]["status"]) == (0, "ok")
    assert "the server of backup.scratch" in checks["drill"]["detail"]
    plain.configure(drill=False)
    checks, ended = examine(plain, environment=environment)
    assert (ended.code, checks["drill"]["status"]) == (0, "warning")


def test_a_locked_table_is_missing_and_not_waited_for(plain: Project) -> None:
    plain.configure(lock_timeout="100ms")
    with plain.database.connect(autocommit=False) as holding:
        holding.execute("lock table _cdc_users in access exclusive mode")
        checks, ended = examine(plain)
    assert ended.code == 3
    assert "public._cdc_users by process" in checks["tables"]["detail"]


def test_no_cdc_table_is_a_warning_that_says_where_was_looked(plain: Project) -> None:
    plain.configure(drill=True, prefix="_nothing_", schemas=["public", "pg_catalog"])
    checks, ended = examine(plain)
    assert (ended.code, checks["tables"]["status"]) == (0, "warning")
    assert "'_nothing_' in the schemas public, pg_catalog" in checks["tables"]["detail"]
    assert plain.cdc("backup").code == 0


def test_schemas_that_a_backup_would_refuse_are_missing(plain: Project) -> None:
    plain.database.execute("create schema elsewhere")
    for schemas, said in (
        (["public", "not_there"], "has no schema not_there, which backup.schemas names"),
        (["elsewhere"], "are in schemas that backup.schemas does not name: public._cdc_empty, "),
    ):
        plain.configure(schemas=schemas)
        checks, ended = examine(plain)
        assert (ended.code, checks["tables"]["status"]) == (2, "missing")
        assert said in checks["tables"]["detail"]
        assert "rights" not in checks
        done = plain.cdc("backup")
        assert (done.code, said in done.stdout) == (2, True)


def test_tables_that_are_passed_over_are_named_beside_those_that_are_found(plain: Project) -> None:
    plain.configure()
    checks, ended = examine(plain)
    assert "other tables" not in checks
    plain.database.execute('create schema billing; create table "_CDC_Payments" (id int)')
    plain.database.execute("create table billing._cdc_invoices (id int)")
    said = (
        "Passed over, and in no backup: billing._cdc_invoices (backup.schemas does not name its schema), "
        "public._CDC_Payments (its case is another than that of '_cdc_')."
    )
    checks, ended = examine(plain)
    assert (ended.code, checks["tables"]["status"]) == (0, "ok")
    assert (checks["other tables"]["status"], checks["other tables"]["detail"]) == ("warning", said)
    for argv in (("backup",), ("run-safe", "--yes", "--", "true")):
        _, ended = plain.json(*argv)
        assert (ended.code, ended.stderr.count(said)) == (0, 1)
    for number in range(5):
        plain.database.execute(f"create table billing._cdc_{number} (id int)")
    assert ", and 2 more." in plain.cdc("backup").stdout


@contextmanager
def small_disk(folder: Path) -> Iterator[Callable[[str], None]]:
    """A file system of its own in the folder; what is called mounts it again with such options."""
    mount = ("mount", "-t", "tmpfs", "-o", "size=100k", "none", str(folder))

    def remount(options: str) -> None:
        subprocess.run((*mount[:3], "-o", f"remount,{options}", *mount[5:]), check=True)

    folder.mkdir()
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        lacking("a full disk (only root may mount a small tmpfs, and in a container often not even root)")
    try:
        yield remount
    finally:
        subprocess.run(("umount", str(folder)), check=True)


@pytest.mark.parametrize(
    ("drill", "compress", "sizes"),
    [
        (True, False, ("700k", "1100k", "2m")),
        (True, "zstd", ("700k", "1500k", "2m")),
        (False, False, ("400k", "2m")),
        (False, "gzip", ("400k", "2m")),
    ],
)
def test_where_the_doctor_finds_room_a_backup_fits_and_where_it_surely_does_not_it_is_missing(
    plain: Project, tmp_path: Path, drill: bool, compress: bool | str, sizes: tuple[str, ...]
) -> None:
    # Compressed on the server, so that the tables' size there is a fraction of what they take as text.
    plain.database.execute("insert into _cdc_roles select n, repeat(md5(n::text), 80) from generate_series(3, 190) n")
    ends = []
    with small_disk(tmp_path / "disk") as remount:
        plain.configure(path=str(tmp_path / "disk" / "backups"), drill=drill, compress=compress)
        for size in sizes:
            remount(f"size={size}")
            checks, ended = examine(plain)
            done = plain.cdc("backup")
            ends.append((ended.code, done.code))
            assert (checks["space"]["status"] == "ok") is (ended.code == 0)
            if ended.code == 0:
                assert done.code == 0, done.said
            elif "which is too little" in checks["space"]["detail"]:
                assert done.code == 3, checks["space"]["detail"]
            shutil.rmtree(tmp_path / "disk" / "backups", ignore_errors=True)
    assert ends[0] == (3, 3)
    assert ends[-1] == (0, 0)


def test_a_disk_that_cannot_be_written_is_missing(plain: Project, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as remount:
        plain.configure(path=str(tmp_path / "disk" / "backups"))
        remount("ro")
        checks, ended = examine(plain)
        assert (ended.code, checks["folder"]["status"]) == (3, "missing")
        assert "cannot be written" in checks["folder"]["detail"]
        assert plain.cdc("backup").code == 3


def test_without_drizzle_nothing_is_missed(plain: Project) -> None:
    checks, ended = examine(plain)
    assert ended.code == 0
    assert checks["drizzle-kit"]["detail"].startswith(f"no Drizzle project in {plain.folder}")
    alembic = ["alembic", "upgrade", "head"]
    plain.configure(push=alembic, generate=alembic, migrate=alembic)
    checks, ended = examine(plain)
    assert ended.code == 0
    assert "drizzle-kit" not in checks


def test_a_drizzle_kit_that_is_lacking_or_unknown_is_told(plain: Project) -> None:
    (plain.folder / WRITTEN).write_text(FROM_ENVIRONMENT)
    checks, _ = examine(plain)
    assert (checks["drizzle-kit"]["status"], checks["drizzle-kit"]["remedy"]) == ("warning", "npm install")
    package = plain.folder / "node_modules" / "drizzle-kit"
    package.mkdir(parents=True)
    (package / "package.json").write_text('{"version": "0.20.18", "bin": {"drizzle-kit": "./bin.cjs"}}')
    (package / "bin.cjs").write_text("")
    checks, ended = examine(plain)
    assert ended.code == 0
    assert checks["drizzle-kit"]["status"] == "warning"
    assert "0.20.18, which is unknown here" in checks["drizzle-kit"]["detail"]
    assert checks["same database"]["detail"] == f"unknown; {WRITTEN}: it ended without reading {WRITTEN}"


@pytest.mark.parametrize(
    ("version_", "known"),
    [
        *(("0.31.0", True), ("0.31.11", True), ("1.0.0-rc.5", True), ("0.30.6", False), ("0.310.0", False)),
        *(("1.0.0-beta.1", False), ("1.0.0", False), ("10.31.2", False)),
    ],
)
def test_the_known_versions_are_those_that_were_measured(version_: str, known: bool) -> None:
    assert Kit(version=version_, program=Path()).known is known


def test_drizzle_kit_is_found_where_node_finds_it(tmp_path: Path) -> None:
    package = tmp_path / "node_modules" / "drizzle-kit"
    package.mkdir(parents=True)
    (package / "package.json").write_text('{"version": "0.31.11", "bin": "bin.cjs"}')
    inner = tmp_path / "packages" / "db"
    inner.mkdir(parents=True)
    assert find_kit(inner) == Kit(version="0.31.11", program=package / "bin.cjs")
    assert find_kit(tmp_path.parent) is None


def test_the_configuration_is_the_one_that_the_push_command_names(tmp_path: Path) -> None:
    for name in ("drizzle.config.js", "drizzle.config.ts", "other.ts"):
        (tmp_path / name).touch()
    push = ("npx", "drizzle-kit", "push")
    assert find_config(push, tmp_path) == tmp_path / "drizzle.config.ts"
    assert find_config((*push, "--config=other.ts"), tmp_path) == tmp_path / "other.ts"
    assert find_config((*push, "--config", "other.ts"), tmp_path) == tmp_path / "other.ts"
    assert find_config((*push, "--config=none.ts"), tmp_path) is None


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("drizzle.config.ts", FROM_ENVIRONMENT),
        ("drizzle.config.js", FROM_ENVIRONMENT.replace("!", "")),
        ("aliased.ts", ALIASED),
        ("parts.cjs", ASKED_FOR),
        ("fixed.json", json.dumps({"dialect": "postgresql", "dbCredentials": {"url": SENTINEL}})),
    ],
    ids=["ts", "js", "aliases", "parts", "json"],
)
def test_a_configuration_is_read_as_drizzle_kit_reads_it(installed: Path, tmp_path: Path, name: str, text: str) -> None:
    project = make_project(tmp_path / "project", installed)
    (project / "tsconfig.json").write_text('{"compilerOptions": {"baseUrl": ".", "paths": {"@/*": ["./src/*"]}}}')
    (project / "src" / "place.ts").write_text("export const url: string = process.env.DATABASE_URL!;")
    (project / name).write_text(text)
    kit = find_kit(project)
    assert kit is not None
    named = named_database(kit, project / name, project, {**os.environ, "DATABASE_URL": SENTINEL})
    assert named.place == Place(host="cdc-backup.invalid", port="5432", database="cdc-backup"), named


def test_a_configuration_that_names_another_database_is_missing(drizzle: Project) -> None:
    url = "postgresql://me:geheim@db.example:6543/other"
    (drizzle.folder / WRITTEN).write_text(FROM_ENVIRONMENT.replace("process.env.DATABASE_URL!", json.dumps(url)))
    checks, ended = examine(drizzle)
    assert ended.code == 3
    assert checks["same database"]["status"] == "missing"
    here = f"{drizzle.database.name} on localhost:{drizzle.database.server.port}"
    assert checks["same database"]["detail"] == (
        f"drizzle-kit means other on db.example:6543 (by {WRITTEN}), "
        f"cdc-backup {here} (by DATABASE_URL in the environment)"
    )
    assert "geheim" not in ended.said


def test_a_configuration_that_overrides_the_environment_is_missing(drizzle: Project) -> None:
    (drizzle.folder / WRITTEN).write_text(OVERRIDING)
    (drizzle.folder / ".env").write_text("DATABASE_URL=postgresql://me@127.0.0.1:5432/from_the_file\n")
    checks, ended = examine(drizzle)
    assert ended.code == 3
    assert "drizzle-kit means from_the_file on localhost:5432" in checks["same database"]["detail"]


def test_a_hard_coded_database_that_is_ours_today_is_a_warning(drizzle: Project) -> None:
    hard = FROM_ENVIRONMENT.replace("process.env.DATABASE_URL!", json.dumps(drizzle.database.url))
    (drizzle.folder / WRITTEN).write_text(hard)
    checks, ended = examine(drizzle)
    assert (ended.code, checks["same database"]["status"]) == (0, "warning")
    assert "not because DATABASE_URL says so" in checks["same database"]["detail"]


def test_what_drizzle_kit_cannot_read_is_unknown_with_the_reason_and_no_password(drizzle: Project) -> None:
    (drizzle.folder / WRITTEN).write_text('throw new Error("nothing at postgresql://me:geheim@db.example/x");')
    checks, ended = examine(drizzle)
    assert (ended.code, checks["same database"]["status"]) == (0, "warning")
    assert checks["same database"]["detail"].startswith(f"unknown; {WRITTEN}: ")
    assert "nothing at postgresql://me:***@db.example/x" in checks["same database"]["detail"]
    assert "geheim" not in ended.said


def test_a_configuration_that_never_ends_is_unknown(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drizzle_project, "_TIME_LIMIT", 1500)
    project = make_project(tmp_path / "project", installed)
    (project / WRITTEN).write_text("for (;;);")
    kit = find_kit(project)
    assert kit is not None
    named = named_database(kit, project / WRITTEN, project, os.environ)
    assert (named.place, named.reason) == (None, "node said ETIMEDOUT within 1.5 s")


def test_a_url_in_env_local_is_told_because_nobody_reads_it(drizzle: Project) -> None:
    (drizzle.folder / ".env.local").write_text("OTHER=1\n")
    checks, _ = examine(drizzle)
    assert ".env.local" not in checks
    (drizzle.folder / ".env.local").write_text("DATABASE_URL=postgresql://me:geheim@127.0.0.1/x\n")
    checks, ended = examine(drizzle)
    assert (ended.code, checks[".env.local"]["status"]) == (0, "warning")
    assert "neither drizzle-kit nor cdc-backup reads that file" in checks[".env.local"]["detail"]
    assert "geheim" not in ended.said


def test_a_server_of_another_version_is_examined_as_well(machine_server: Server, tmp_path: Path) -> None:
    with new_project(machine_server, tmp_path / "project") as project:
        project.configure(drill=True)
        checks, ended = examine(project)
        with psycopg.connect(project.database.url) as connection:
            version = str(connection.info.parameter_status("server_version")).split()[0]
    assert ended.code == 0
    assert f"PostgreSQL {version};" in checks["database"]["detail"]
