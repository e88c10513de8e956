"""What a benchmark stands on: a server with its default, durable settings, a database, a folder, this machine."""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import yaml
from psycopg import sql

from backup.postgres.account import find_account
from backup.postgres.embedded import Server, embedded_binaries, start_server
from backup.postgres.find_clients import USUAL_FOLDERS
from bench.measure import Way, emptied, run_once

CDC_BACKUP = str(Path(sys.executable).with_name("cdc-backup"))

DATABASE = "bench"

_SETTINGS = {"max_locks_per_transaction": "1024"}
"""With the 64 of initdb's configuration, neither we nor one pg_dump can lock 5,000 tables."""


@dataclass(frozen=True, kw_only=True)
class Ground:
    """A server, an empty folder on the same disk, and how often each way is run.

    Tables have a part, one of `scale`, of the rows that a case defines.
    """

    server: Server
    folder: Path
    rounds: int
    scale: int

    def connect(self) -> psycopg.Connection[tuple[Any, ...]]:
        """A connection to the case's database, in autocommit mode."""
        return psycopg.connect(self.server.url(DATABASE), autocommit=True)

    def execute(self, *statements: str | sql.Composed) -> None:
        """Run statements in the case's database."""
        with self.connect() as connection:
            for statement in statements:
                connection.execute(statement)

    def new_database(self) -> None:
        """Make the case's database anew, empty."""
        with psycopg.connect(self.server.url(), autocommit=True) as connection:
            connection.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(DATABASE)))
            connection.execute(sql.SQL("create database {} template template0").format(sql.Identifier(DATABASE)))

    @property
    def environment(self) -> dict[str, str]:
        """An environment in which every program reaches the case's database."""
        server = self.server
        return {
            "PATH": f"{server.binaries}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "LC_ALL": "C.UTF-8",
            "DATABASE_URL": server.url(DATABASE),
            "PGHOST": server.host,
            "PGPORT": str(server.port),
            "PGUSER": server.superuser,
            "PGPASSWORD": server.password,
            "PGDATABASE": DATABASE,
        }

    def rows(self, count: int) -> int:
        """So many rows, or the part of them that is asked for."""
        return max(1, count // self.scale)

    def shell(
        self, name: str, script: str, *, folder: Path | None = None, before: Callable[[], None] | None = None
    ) -> Way:
        """A way that is a script of the shell, as a person would write it; in an empty folder unless one is given."""
        own = self._own_folder(name)
        return Way(
            name=name,
            argv=("sh", "-euc", script),
            environment=self.environment,
            cwd=folder or own,
            before=before or (emptied(own) if folder is None else _nothing),
        )

    def ours(self, name: str, *arguments: str, **settings: Any) -> Way:
        """A way that is the console script, in a project of its own with these settings, without sessions."""
        project = self._own_folder(name)
        sessions = project / "sessions"
        (project / "config").mkdir(parents=True, exist_ok=True)
        backup = {"path": str(sessions), "clients": str(self.server.binaries), "drill": False, **settings}
        (project / "config" / "backup.yml").write_text(yaml.safe_dump({"backup": backup}))
        return Way(
            name=name,
            argv=(CDC_BACKUP, *arguments),
            environment=self.environment,
            cwd=project,
            before=emptied(sessions),
        )

    def _own_folder(self, name: str) -> Path:
        return self.folder / "".join(c if c.isalnum() else "-" for c in name)


@contextmanager
def lay_ground(*, rounds: int, scale: int, folder: Path | None = None) -> Iterator[Ground]:
    """A server as it is after initdb, with fsync, and a folder beside its data; both are gone afterwards.

    It has locks for 5,000 tables, and is the newest server in the usual folders of this machine, else the embedded one.
    """
    servers = [path for pattern in USUAL_FOLDERS for path in Path("/").glob(f"{pattern[1:]}/postgres")]
    newest = max(servers, key=lambda path: [int(n) for n in path.parts if n.isdigit()], default=None)
    binaries = newest.parent if newest else embedded_binaries()
    place = folder or find_account().place()
    work = Path(tempfile.mkdtemp(prefix="cdc-backup-bench-", dir=place))
    try:
        with start_server(binaries, settings=_SETTINGS) as server:
            ground = Ground(server=server, folder=work, rounds=rounds, scale=scale)
            # Compiled by its first run, as it is everywhere but after an installation.
            ground.new_database()
            run_once(ground.ours("first", "backup"))
            yield ground
    finally:
        shutil.rmtree(work, ignore_errors=True)


def describe_machine(ground: Ground) -> Sequence[str]:
    """When and where it was measured."""
    with psycopg.connect(ground.server.url()) as connection:
        fsync = connection.execute("select current_setting('fsync')").fetchone()
    assert fsync  # noqa: S101 - a query without FROM has one row
    version = subprocess.run(
        (str(ground.server.binaries / "postgres"), "--version"), capture_output=True, encoding="utf-8", check=True
    ).stdout
    return (
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {_processor()}, {os.cpu_count()} processors,"
        f" {_memory() / 1e9:.0f} GB, {platform.system()} {platform.release()}",
        f"{version.strip().removeprefix('postgres ')}, fsync {fsync[0]}, Python {platform.python_version()};"
        f" data and sessions on {_file_system(ground.folder)}",
        f"load when it began: {os.getloadavg()[0]:.1f}",
    )


def _nothing() -> None: ...


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _file_system(folder: Path) -> str:
    """The type of the file system that the folder is on."""
    try:
        mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return "a file system that is not known here"
    on = [(len(mount[1]), mount[2]) for mount in mounts if folder.is_relative_to(mount[1])]
    return max(on)[1] if on else "?"
