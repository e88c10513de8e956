"""A Drizzle project as it lies on the disk: which drizzle-kit it has, and which database that would talk to."""

import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from backup.errors import ProcessError, UsageError
from backup.postgres.database import Database
from backup.process import find_program, run

SENTINEL = "postgresql://cdc-backup:none@cdc-backup.invalid:5432/cdc-backup"
"""Names no server: RFC 2606 keeps .invalid for names that never exist."""

_CONFIGS = ("drizzle.config.ts", "drizzle.config.js", "drizzle.config.json")
_TIME_LIMIT = 20_000
"""Milliseconds that reading a configuration may take."""

# drizzle-kit reads this in place of the project's configuration, by its own means and from the project's folder,
# and is gone before it does anything with it. So it finds what drizzle-kit itself would: .ts, .js, .cjs, .json,
# aliases of tsconfig.json, and an await outside of a function where the version knows that.
_PROBE = """
import * as loaded from {config};
import {{ writeSync }} from "node:fs";
const content: any = (loaded as any).default ?? loaded;
const {{ dbCredentials, out, entities }} = content.default ?? content;
writeSync(3, JSON.stringify({{ dbCredentials: dbCredentials ?? {{}}, out, roles: Boolean(entities?.roles) }}));
process.exit(0);
"""

# Node ends its own child when the time is over; what that says goes to stderr, so that stdout is the answer alone.
_LIMITED = """
const [limit, ...argv] = process.argv.slice(1);
const ended = require("node:child_process").spawnSync(process.execPath, argv,
    { timeout: Number(limit), killSignal: "SIGKILL", stdio: ["ignore", 2, 2, 1] });
if (ended.error) console.error(`Error: node said ${ended.error.code} within ${limit / 1000} s`);
process.exitCode = ended.status ?? 1;
"""

_ERROR = re.compile(r"^[^\w/]*((?:\w*Error\b|ERROR|.*: ERROR: ).*)", re.MULTILINE)
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_PASSWORD = re.compile(r"(://[^:/@?#\s]*:)\S*(?=@)")


@dataclass(frozen=True, kw_only=True)
class Kit:
    """An installed drizzle-kit; `known` says whether this project was tested with versions like it."""

    version: str
    program: Path

    @property
    def known(self) -> bool:
        """Whether how it behaves was measured: 0.31.x, and the candidates of 1.0."""
        return re.match(r"0\.31\.\d|1\.0\.0-rc\b", self.version) is not None


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a database is, by name; all names of this machine itself are one."""

    host: str
    port: str
    database: str

    def __str__(self) -> str:
        return f"{self.database} on {self.host}:{self.port}"


@dataclass(frozen=True, kw_only=True)
class Named:
    """Which database a configuration names; `place` is None where that is not known, for this `reason`.

    `out` is the folder of its migrations, `roles` whether push manages roles as well.
    """

    place: Place | None
    reason: str = ""
    out: str = "drizzle"
    roles: bool = False


def find_kit(directory: Path) -> Kit | None:
    """The drizzle-kit that Node finds from the folder: in its `node_modules`, or in those above it."""
    for folder in (directory, *directory.parents):
        package = folder / "node_modules" / "drizzle-kit"
        try:
            described = json.loads((package / "package.json").read_bytes())
            program = described["bin"]["drizzle-kit"] if isinstance(described["bin"], dict) else described["bin"]
            return Kit(version=str(described["version"]), program=package / program)
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


def find_config(argv: tuple[str, ...], directory: Path) -> Path | None:
    """The configuration that a command line of drizzle-kit reads: the one it names, else the first in its order."""
    named = [word.partition("=")[2] for word in argv if word.startswith("--config=")]
    named += [value for flag, value in pairwise(argv) if flag == "--config"]
    return next((directory / name for name in named or _CONFIGS if (directory / name).is_file()), None)


def place_of(database: Database) -> Place | None:
    """Where a database is by its parameters; None where a service file knows it alone."""
    host = database.parameters.get("host") or database.parameters.get("hostaddr")
    if host is None and "service" in database.parameters:
        return None
    return _place(host or "localhost", database.parameters.get("port"), database.name)


def named_database(kit: Kit, config: Path, directory: Path, environment: Mapping[str, str]) -> Named:
    """Which database the configuration names in this environment, read by drizzle-kit's own loader.

    Nothing is run on a database and nothing is written into the project; the configuration itself is code,
    and runs as it does at every start of drizzle-kit.
    """
    try:
        read = _read_config(kit, config, directory, environment)
    except UsageError as error:
        return Named(place=None, reason=error.what)
    except ProcessError as error:
        said = _COLOUR.sub("", error.stderr).strip()
        why = _ERROR.search(said)
        return Named(
            place=None,
            reason=_PASSWORD.sub(r"\1***", why[1] if why else said.rpartition("\n")[2]).removeprefix("Error: "),
        )
    credentials, out, roles = read["dbCredentials"], str(read.get("out") or Named.out), bool(read["roles"])
    if url := credentials.get("url"):
        try:
            return Named(place=place_of(Database.from_url(str(url), config.name)), out=out, roles=roles)
        except UsageError as error:
            return Named(place=None, reason=error.what)
    if host := credentials.get("host"):
        name = credentials.get("database") or credentials.get("user") or ""
        return Named(place=_place(str(host), credentials.get("port"), str(name)), out=out, roles=roles)
    return Named(place=None, reason="its dbCredentials hold neither a url nor a host")


def _place(host: str, port: object, database: str) -> Place:
    here = host.startswith("/") or host in ("localhost", "127.0.0.1", "::1")
    return Place(host="localhost" if here else host, port=str(port or 5432), database=database)


def _read_config(kit: Kit, config: Path, directory: Path, environment: Mapping[str, str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as temporary:
        probe = Path(temporary) / "probe.ts"
        probe.write_text(_PROBE.format(config=json.dumps(str(config))), encoding="utf-8")
        if (aliases := config.with_name("tsconfig.json")).exists():
            probe.with_name("tsconfig.json").write_text(json.dumps({"extends": str(aliases)}), encoding="utf-8")
        finished = run(
            (
                *(str(find_program("node")), "-e", _LIMITED, "--", str(_TIME_LIMIT)),
                *(str(kit.program), "check", f"--config={probe}"),
            ),
            # neither version's loader keeps a copy of what it read
            environment={**environment, "JITI_FS_CACHE": "false", "TSX_DISABLE_CACHE": "1"},
            cwd=directory,
            # whatever interrupts us ends Node's child as well
            start_new_session=True,
        )
    try:
        read: dict[str, Any] = json.loads(finished.stdout)
    except ValueError:
        raise ProcessError(finished.argv, 0, f"Error: it ended without reading {config.name}") from None
    return read
