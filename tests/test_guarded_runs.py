"""The whole chain with writers that never stop: no committed row is missing after the restore, and none is double."""

from pathlib import Path

import pytest

from backup.postgres.embedded import Server
from tests.chain import new_project
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
