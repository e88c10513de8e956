"""The recipes as a person or a script runs them: child processes in a project's folder, also on a terminal."""

import json
import os
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pexpect
import yaml

from backup.postgres.embedded import Server
from tests.servers import FreshDatabase, find_binaries, fresh_database

PATIENCE = 180
"""Seconds after which a test that hangs fails instead."""

PROGRAMS = Path(sys.executable).parent
CDC_BACKUP = str(PROGRAMS / "cdc-backup")
INVOKE = str(PROGRAMS / "invoke")

MARK = ("sh", "-c", "echo ran >>mark")
"""A migration command that does nothing but say that it was started."""

TELL = (
    sys.executable,
    "-c",
    """
import json, os, sys
told = {"argv": sys.argv[1:], "cwd": os.getcwd(), "environment": dict(os.environ)}
told |= {"terminals": [os.isatty(n) for n in (0, 1, 2)]}
told |= {"stdin": "" if os.isatty(0) else sys.stdin.read()}
json.dump(told, open("told.json", "w"))
""",
)
"""A migration command that writes down what it was given."""

TASKS = "from invoke import Collection\nfrom backup.recipes import migration\n\nns = Collection(migration)\n"
"""A team's own `tasks.py`."""

TABLES = """
create table users (id integer primary key, name text);
create table _cdc_users (id integer primary key, name text not null, note text);
create table _cdc_roles (id integer primary key, name text);
create table _cdc_empty (id integer);
insert into _cdc_users values (1, 'ada', 'ü'), (2, 'bob', ''), (3, 'eve', null);
insert into _cdc_roles values (1, 'admin'), (2, 'editor');
"""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A recipe that ended; its words, without those of a terminal's own."""

    code: int
    stdout: str
    stderr: str

    @property
    def said(self) -> str:
        """All that it said."""
        return self.stdout + self.stderr

    @property
    def advised(self) -> list[tuple[str, ...]]:
        """The command lines that it printed to bring back what was lost."""
        programs = ("cdc-backup restore ", "invoke migration.restore ")
        lines = (re.sub(r"\x1b\[[0-9;]*m", "", line).strip() for line in self.said.splitlines())
        return [tuple(shlex.split(line)) for line in lines if line.startswith(programs)]


@dataclass(frozen=True, kw_only=True)
class Project:
    """A project's folder with a database, and what stands in its `.env`: nothing, the environment names it."""

    folder: Path
    database: FreshDatabase

    @property
    def backups(self) -> Path:
        """Where the sessions go unless a configuration says otherwise."""
        return self.folder / "local" / "backups" / "drizzle" / "cdc"

    @property
    def sessions(self) -> list[Path]:
        """All that is in that folder and claims to be a session, half done ones included."""
        return sorted(path for path in self.backups.glob("*backup_*") if path.is_dir())

    @property
    def published(self) -> list[Path]:
        """The sessions that have their final name."""
        return [path for path in self.sessions if not path.name.startswith(".")]

    @property
    def migrated(self) -> bool:
        """Whether `MARK` was started."""
        return (self.folder / "mark").exists()

    @property
    def told(self) -> dict[str, Any]:
        """What `TELL` was given."""
        value: dict[str, Any] = json.loads((self.folder / "told.json").read_text())
        return value

    def configure(self, **keys: object) -> Path:
        """Write these keys of `backup` into the project's configuration; no drill or rehearsal unless they say so."""
        file = self.folder / "config" / "backup.yml"
        file.parent.mkdir(exist_ok=True)
        file.write_text(yaml.safe_dump({"backup": {"drill": False, "rehearse": "off", **keys}}))
        return file

    def environment(self, **more: str) -> dict[str, str]:
        """An environment that names the database and little else."""
        return environment(self.folder, **{"DATABASE_URL": self.database.url, **more})

    def run(
        self, *argv: str, environment: Mapping[str, str] | None = None, cwd: Path | None = None, stdin: str = ""
    ) -> Ended:
        """Run a program without a terminal, to its end; what is on stdin is nobody who could answer."""
        done = subprocess.run(
            argv,
            cwd=cwd or self.folder,
            env=self.environment() if environment is None else environment,
            input=stdin,
            capture_output=True,
            encoding="utf-8",
            timeout=PATIENCE,
            check=False,
        )
        ended = Ended(code=done.returncode, stdout=done.stdout, stderr=done.stderr)
        assert self.database.server.password not in ended.said
        return ended

    def cdc(self, *arguments: str, **options: Any) -> Ended:
        """Run `cdc-backup` without a terminal."""
        return self.run(CDC_BACKUP, *arguments, **options)

    def json(self, recipe: str, *arguments: str, **options: Any) -> tuple[dict[str, Any], Ended]:
        """Run a recipe of `cdc-backup` with --json: the one object that stdout must be, and how it ended."""
        ended = self.cdc(recipe, "--json", *arguments, **options)
        value: dict[str, Any] = json.loads(ended.stdout)
        assert ended.stdout.count("\n") == 1
        assert value["exit_code"] == ended.code
        return value, ended

    @contextmanager
    def started(self, *argv: str, environment: Mapping[str, str] | None = None) -> "Iterator[subprocess.Popen[str]]":
        """Run a program without a terminal while the block runs, and to its end."""
        with subprocess.Popen(
            argv,
            cwd=self.folder,
            env=self.environment() if environment is None else environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        ) as process:
            # who reads its streams cannot be asked to be patient for a time only
            patience = threading.Timer(PATIENCE, process.kill)
            patience.start()
            try:
                yield process
                process.wait()
            finally:
                patience.cancel()
                process.kill()

    @contextmanager
    def terminal(
        self, *argv: str, environment: Mapping[str, str] | None = None, columns: int = 120
    ) -> "Iterator[pexpect.spawn[str]]":
        """Run a program on a terminal; leave it with `end`."""
        with pexpect.spawn(
            argv[0],
            [*argv[1:]],
            cwd=str(self.folder),
            env=dict(self.environment() if environment is None else environment),
            encoding="utf-8",
            timeout=PATIENCE,
            dimensions=(40, columns),
        ) as shown:
            yield shown


def psql(project: Project, *statements: str, end: str = "") -> tuple[str, ...]:
    """A migration command: each statement by itself, until one fails; then what `end` says in shell."""
    program = shlex.quote(str(project.database.server.binaries / "psql"))
    words = shlex.join(word for statement in statements for word in ("--command", statement))
    script = f'{program} --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --dbname="$DATABASE_URL" {words}'
    return ("sh", "-c", f"{script}; {end}" if end else f"exec {script}")


def pretend_clients(folder: Path, *, pg_dump: str = 'real "$@"', psql: str = 'real "$@"') -> str:
    """Clients that look newer than all others, so that they are taken; a value for PATH that has them first.

    `pg_dump` and `psql` are what the programs do, shell scripts; `real` in them stands for the real one.
    """
    folder.mkdir()
    binaries = find_binaries("embedded")
    assert binaries
    for name, script in (("pg_dump", pg_dump), ("pg_restore", 'real "$@"'), ("psql", psql)):
        program = folder / name
        program.write_text(
            f'#!/bin/sh\nreal() {{ {shlex.quote(str(binaries / name))} "$@"; }}\n'
            f'[ "$*" = --version ] && exec echo "{name} (PostgreSQL) 99.1"\n{script}\n'
        )
        program.chmod(0o755)
    return f"{folder}{os.pathsep}{environment(folder)['PATH']}"


def end(shown: "pexpect.spawn[str]") -> tuple[int, str]:
    """The exit code of a program on a terminal, and what it still showed before it ended."""
    shown.expect(pexpect.EOF)
    said = str(shown.before)
    shown.wait()
    assert shown.exitstatus is not None, f"ended by signal {shown.signalstatus}: {said}"
    return shown.exitstatus, said


def environment(home: Path, **more: str) -> dict[str, str]:
    """What a login gives, with this project's programs first on PATH; npm asks nobody for its own updates."""
    return {
        "PATH": f"{PROGRAMS}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "HOME": str(home),
        "LC_ALL": "C.UTF-8",
        "TERM": "xterm",
        "NO_COLOR": "1",
        "npm_config_update_notifier": "false",
        **more,
    }


@contextmanager
def new_project(server: Server, folder: Path, tables: str = TABLES) -> Iterator[Project]:
    """A project in a folder of its own, with a database of its own that holds these tables."""
    folder.mkdir(parents=True, exist_ok=True)
    with fresh_database(server) as database:
        database.execute(tables)
        project = Project(folder=folder, database=database)
        project.configure()
        yield project
