"""The main job on a private PostgreSQL: tables, a backup, a migration that destroys them, a restore."""

import os
import shutil
import time
from pathlib import Path

import psycopg
from psycopg import sql

from backup.cdc_backup import CDCBackup
from backup.errors import DestroyedError, MigrationError, ProcessError
from backup.migration.command import MigrationCommand
from backup.postgres.embedded import DISPOSABLE, Server, embedded_binaries, start_server
from backup.process import run
from backup.report import Report

_PROJECT = Path(__file__).parent / "drizzle"
_TABLES = ("_cdc_permissions", "_cdc_roles", "_cdc_users")
_DROP = "".join(f"DROP TABLE {table};" for table in _TABLES)


def run_demo(target: Path) -> None:
    """Run the whole chain once, into the folder `target`, which is emptied first; say what happens.

    Raises:
        CDCBackupError: a step failed, or what came back is not what was there.
    """
    began = time.monotonic()
    report = Report()
    shutil.rmtree(target, ignore_errors=True)
    with start_server(embedded_binaries(), settings=DISPOSABLE) as server:
        report.say(f"1. A private PostgreSQL listens on {server.host}:{server.port}.", "bold")
        url = _make_database(server)
        os.environ["DATABASE_URL"] = url
        before = _rows(url)
        report.say(f"2. An application wrote {sum(map(len, before.values()))} rows into {', '.join(_TABLES)}.", "bold")
        cdc = CDCBackup(target / "backups", config=_PROJECT / "config" / "backup.yml", report=report)
        command = _migration(report, server, url)
        report.say(f"3. The migration, made safe: {command}", "bold")
        try:
            cdc.run_safe([command], ask=False)
        except DestroyedError as error:
            report.fail(str(error))
        report.say("4. What it took is brought back.", "bold")
        cdc.restore()
        if _rows(url) != before:
            raise MigrationError("What came back is not, row by row, what was there.")
        _write_again(url)
        report.say("5. Row by row the same as before, and the application's triggers write again.", "bold green")
    report.say(f"{time.monotonic() - began:.0f} s. Have a look: {target / 'backups'}", "bold")


def _make_database(server: Server) -> str:
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute("create database app")
    url = server.url("app")
    for script in ("database.sql", "changes.sql"):
        with psycopg.connect(url) as connection:
            connection.execute(sql.SQL((_PROJECT / script).read_text(encoding="utf-8")))
    return url


def _migration(report: Report, server: Server, url: str) -> MigrationCommand:
    """drizzle-kit push, whose schema does not name the CDC tables; psql where there is no Node."""
    npm = shutil.which("npm")
    if npm is not None and shutil.which("node") is not None:
        try:
            with report.step("npm install (drizzle-kit)"):
                run((npm, "install", "--no-audit", "--no-fund"), environment=os.environ, cwd=_PROJECT)
            return MigrationCommand(argv=("npx", "drizzle-kit", "push", "--force"), directory=_PROJECT)
        except ProcessError as error:
            report.warn(f"drizzle-kit cannot be installed, so psql migrates instead: {error.stderr.strip()[-200:]}")
    else:
        report.warn("There is no Node on PATH, so psql migrates instead of drizzle-kit.")
    psql = str(server.binaries / "psql")
    return MigrationCommand(argv=(psql, url, "--no-psqlrc", "--command", _DROP), directory=_PROJECT)


def _rows(url: str) -> dict[str, list[str]]:
    """Every row of every CDC table, as text."""
    with psycopg.connect(url) as connection:
        return {
            table: [
                row
                for (row,) in connection.execute(
                    sql.SQL("select t::text from {} t order by 1").format(sql.Identifier(table))
                )
            ]
            for table in _TABLES
        }


def _write_again(url: str) -> None:
    """A trigger that wrote into a dropped table made every INSERT of the application fail."""
    with psycopg.connect(url) as connection:
        connection.execute("update users set name = name")
