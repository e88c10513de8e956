"""What drizzle-kit is here, and whether it and we mean the same database."""

import io
import os
from collections.abc import Iterator
from pathlib import Path

from dotenv import dotenv_values

from backup.migration.command import MigrationCommand
from backup.migration.drizzle_project import SENTINEL, Kit, find_config, find_kit, named_database, place_of
from backup.postgres.database import Database
from backup.result import Finding, Health
from backup.settings import Settings


def look_at_drizzle(settings: Settings, database: Database | None) -> Iterator[Finding]:
    """Nothing where the migration commands are another program's; only a remark where no drizzle-kit is used."""
    directory = settings.directory
    push, generate, migrate = (
        MigrationCommand(argv=argv, directory=directory).drizzle
        for argv in (settings.push, settings.generate, settings.migrate)
    )
    if not (push or generate or migrate):
        return
    kit, config = find_kit(directory), find_config(push, directory)
    if kit is None and config is None:
        detail = f"no Drizzle project in {directory}; run-safe stands around any other command"
        yield Finding(check="drizzle-kit", health=Health.OK, detail=detail)
        return
    yield _kit(kit, directory)
    if kit is not None and config is not None and database is not None:
        yield _same_database(kit, config, settings, database)
    local = directory / ".env.local"
    if local.is_file() and settings.url_variable in dotenv_values(
        stream=io.StringIO(local.read_text(errors="replace"))
    ):
        yield Finding(
            check=".env.local",
            health=Health.WARNING,
            detail=f"{local} holds {settings.url_variable}, and neither drizzle-kit nor cdc-backup reads that file",
            remedy=f"Put it into {directory / '.env'}, or into the environment.",
        )


def _kit(kit: Kit | None, directory: Path) -> Finding:
    if kit is None:
        return Finding(
            check="drizzle-kit",
            health=Health.WARNING,
            detail=f"not installed in {directory / 'node_modules'}, nor in one above",
            remedy="npm install",
        )
    if not kit.known:
        return Finding(
            check="drizzle-kit",
            health=Health.WARNING,
            detail=f"{kit.version}, which is unknown here: 0.31.x and 1.0.0-rc were tried",
            remedy="The verdict is read from the catalog whatever it says; look at its own words as well.",
        )
    return Finding(check="drizzle-kit", health=Health.OK, detail=f"{kit.version}, a version that is known")


def _same_database(kit: Kit, config: Path, settings: Settings, database: Database) -> Finding:
    """By the configuration as drizzle-kit itself reads it: once as it is, once with another URL in the variable."""
    variable = settings.url_variable
    today, ours = named_database(kit, config, settings.directory, os.environ), place_of(database)
    if today.place is None or ours is None:
        why = f"{config.name}: {today.reason}" if today.place is None else f"{database} has no name to compare with"
        return Finding(
            check="same database",
            health=Health.WARNING,
            detail=f"unknown; {why}",
            remedy=f"Let both take {variable}, from the environment or from {settings.directory / '.env'}.",
        )
    if today.place != ours:
        return Finding(
            check="same database",
            health=Health.MISSING,
            detail=f"drizzle-kit means {today.place} (by {config.name}), cdc-backup {ours} (by {database.source})",
            remedy=f"Let {config.name} take its url from process.env.{variable}, and set that in one place.",
        )
    redirected = named_database(kit, config, settings.directory, {**os.environ, variable: SENTINEL})
    if redirected.place != place_of(Database.from_url(SENTINEL, "the sentinel")):
        return Finding(
            check="same database",
            health=Health.WARNING,
            detail=f"drizzle-kit means {ours} as we do, but not because {variable} says so",
            remedy=f"Let {config.name} take its url from process.env.{variable}; then both always mean the same.",
        )
    return Finding(check="same database", health=Health.OK, detail=f"drizzle-kit takes {variable} too: {ours}")
