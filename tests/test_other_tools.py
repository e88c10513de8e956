"""Migration tools from the registries that nothing here knows of: run-safe around them, rehearsed when asked for."""

import json
import os
from pathlib import Path

import pytest
from filelock import FileLock

from backup.postgres.embedded import Server
from backup.process import find_program, run
from tests.chain import new_project

_PACKAGES = {"node-pg-migrate": "7.9.1", "pg": "8.16.3"}


@pytest.fixture
def installed(node: Path, request: pytest.FixtureRequest) -> Path:
    """The folder that holds `node_modules` with node-pg-migrate; made once."""
    folder = request.config.rootpath / ".pytest_cache" / "d" / f"node-pg-migrate-{_PACKAGES['node-pg-migrate']}"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not (folder / "done").exists():
            (folder / "package.json").write_text(json.dumps({"private": True, "dependencies": _PACKAGES}))
            npm = str(find_program("npm"))
            run((npm, "install", "--no-audit", "--no-fund", "--no-package-lock"), environment=os.environ, cwd=folder)
            (folder / "done").touch()
    return folder


def test_node_pg_migrate_does_what_its_rehearsal_said_and_its_loss_is_brought_back(
    embedded_server: Server, installed: Path, tmp_path: Path
) -> None:
    with new_project(embedded_server, tmp_path / "project") as project:
        (project.folder / "node_modules").symlink_to(installed / "node_modules", target_is_directory=True)
        (project.folder / "migrations").mkdir()
        migration = project.folder / "migrations" / "1700000000000_clean-up.sql"
        migration.write_text("-- Up Migration\ndrop table _cdc_users;\ntruncate _cdc_roles;\n-- Down Migration\n")
        before = project.database.rows("select * from _cdc_users order by 1")
        up = ("run-safe", "--rehearse", "--", "npx", "node-pg-migrate", "up")
        value, ended = project.json(*up)
        assert ended.code == 6, ended.said
        changes = {table["name"]: table["change"] for table in value["verdict"]}
        assert changes == {"_cdc_empty": "untouched", "_cdc_roles": "emptied", "_cdc_users": "dropped"}
        assert {table["name"]: table["change"] for table in value["forecast"]["tables"]} == changes
        assert project.cdc("restore", "--yes").code == 0
        assert project.database.rows("select * from _cdc_users order by 1") == before
        assert project.database.rows("select count(*) from _cdc_roles") == [(2,)]
