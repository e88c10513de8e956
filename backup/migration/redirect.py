"""Whether a command can be sent to another database, and the environment that sends it there."""

import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from functools import partial
from pathlib import Path, PurePath
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from backup.errors import DatabaseError, UsageError
from backup.migration.command import MigrationCommand
from backup.migration.drizzle import is_drizzle, verb_of
from backup.migration.drizzle_project import SENTINEL, find_config, find_kit, named_database, place_of
from backup.migration.psql_command import why_not_psql
from backup.migration.reaching_out import why_reaches_out
from backup.postgres.database import Database


class Tool(StrEnum):
    """A program that is known to do nothing but migrate; `other` is any that is not."""

    DRIZZLE = "drizzle-kit"
    ALEMBIC = "alembic"
    PRISMA = "prisma"
    PSQL = "psql"
    OTHER = "other"


_LAUNCHERS = re.compile(
    r"npx|pnpm|pnpx|yarn|bun|bunx|exec|dlx|uv|uvx|run|poetry|pdm|hatch|pipenv|python[\d.]*|-m|-y|--yes|--no-install|--"
)
_NAMES_A_DATABASE = (
    (re.compile(r"(postgres(ql)?|cockroachdb)(\+\w+)?://", re.IGNORECASE), "a URL"),
    (re.compile(r"(?<![\w-])(host|hostaddr|port|dbname|service)=[\w./]"), "as key=value"),
    (re.compile(r"\bPG(HOST|HOSTADDR|PORT|DATABASE|SERVICE|SERVICEFILE)=(?![\"']?\$)"), "a PG* variable"),
    (re.compile(r"--(host|port|url|database|dbname|database-url|datasource-url)\b(?!=?[\"']?\$)"), "an option for it"),
)
_PLACE = re.compile(r"-[hpdU].*|--(host|port|dbname|username|service)(=.*)?", re.DOTALL)
_PSQL_VALUED = re.compile(r"-[cfvoLFRTP]|--(command|file|set|variable|output|log-file|pset|field-separator)")
_PSQL_LEAVES = re.compile(r"\\(c|connect|i|ir|include|include_relative|!|copy|setenv)(?=\s|$)", re.MULTILINE)
_PLACE = re.compile(
    r"PG(HOST|HOSTADDR|PORT|DATABASE|USER|PASSWORD|PASSFILE|SERVICE|SERVICEFILE|TARGETSESSIONATTRS)|PGCLUSTER"
)
_NOWHERE = {"PGHOST": "cdc-backup.invalid", "PGPORT": "5432", "PGUSER": "cdc-backup", "PGDATABASE": "cdc-backup"}
"""The place of the sentinel."""

# Read by everybody; no two servers that one could mistake for each other started in the same microsecond.
_WHICH = "select oid::int8, pg_postmaster_start_time() from pg_database where datname = current_database()"
_KEPT_IN_URL = ("schema", "search_path", "options", "client_encoding")


def tool_of(argv: tuple[str, ...]) -> Tool:
    """Which of the known programs a command line starts, by itself or through npx, uv run, python -m and the like."""
    program = _program(argv)
    name = PurePath(argv[program]).name.partition("@")[0] if program is not None else ""
    if is_drizzle(argv) and name in ("drizzle-kit", "drizzle-kit.cmd", "node"):
        return Tool.DRIZZLE
    if name == "prisma":
        return Tool.PRISMA if "migrate" in argv else Tool.OTHER
    return Tool(name) if name in (Tool.ALEMBIC, Tool.PSQL) else Tool.OTHER


def redirected(
    environment: Mapping[str, str], to: Database, *, variable: str, url: str | None, by_pg: bool
) -> dict[str, str]:
    """The environment in which a command finds the database `to` where it found its own before.

    Args:
        environment: what the command would get.
        to: the scratch database.
        variable: the name of the variable that holds the URL.
        url: what it holds; what only the command understands of it is kept.
        by_pg: whether the `PG*` variables led to the command's database too. Where they did not, they lead
            nowhere: with them on the scratch database, a command that follows them alone would be believed.
    """
    there = to.parameters
    same = url is None or f"{_host(there)}:{there.get('port', '5432')}" == _place_in(url)
    # node-postgres takes PGSSLMODE=prefer for an order, so nothing is set that was not set before
    dropped = _PLACE if same else re.compile(f"{_PLACE.pattern}|PGSSL.*")
    kept = {name: value for name, value in environment.items() if not dropped.fullmatch(name)}
    place = _NOWHERE
    if by_pg:
        place = {"PGHOST": _host(there), "PGPORT": there.get("port", "5432"), "PGUSER": to.user, "PGDATABASE": to.name}
        if password := there.get("password"):
            place["PGPASSWORD"] = password
    return {**kept, **place, variable: _url(to, url, same=same)}


def goes_by_pg(argv: tuple[str, ...]) -> bool:
    """Whether a command line is one of psql that names no database by itself, so that `PG*` variables lead it."""
    words = argv[(_program(argv) or 0) + 1 :]
    valued = re.compile(r"-[cfvoLFRTP]|--(command|file|set|variable|output|log-file|pset|field-separator)")
    plain = [w for n, w in enumerate(words) if not n or not valued.fullmatch(words[n - 1])]
    return tool_of(argv) is Tool.PSQL and all(re.match(r"-(?![dhpU]|-(d|h|po|u|se?r))", word) for word in plain)


def leads_by_pg(database: Database) -> bool | None:
    """Whether the `PG*` variables of this process lead to the database; None where they name none.

    Both are asked: names can differ and mean the same. What cannot be reached is another one.
    """
    named = Database.from_environment()
    if named is None:
        return None
    try:
        with database.connect() as here, named.connect() as there:
            return here.execute(_WHICH).fetchone() == there.execute(_WHICH).fetchone()
    except DatabaseError:
        return False


def why_not(
    command: MigrationCommand,
    *,
    database: Database,
    variable: str,
    environment: Mapping[str, str],
    by_pg: bool | None,
    shared: bool,
) -> str:
    """Why it cannot be proven beforehand that a command follows the redirection; empty when nothing speaks against it.

    drizzle-kit's configuration is loaded with a URL that leads nowhere, and as it is. What a command line names
    by itself, no variable changes.

    Args:
        command: what is to be rehearsed.
        database: the real one.
        variable: the name of the variable that holds its URL.
        environment: what the command would get.
        by_pg: what `leads_by_pg` says.
        shared: whether the scratch database may be on the real server, so that what all of its databases share
            is in reach.

    Raises:
        UsageError: it would run on another database than the one that is backed up.
    """
    tool = tool_of(command.argv)
    if by_pg is False and tool in (Tool.PSQL, Tool.OTHER):
        return f"the PG* variables and {variable} name different databases"
    if tool is Tool.PSQL:
        if by_pg is None:
            return "psql follows the PG* variables, and none of PGHOST, PGSERVICE and PGDATABASE is set"
        return why_not_psql(command.argv[(_program(command.argv) or 0) + 1 :], command.directory, shared=shared)
    for pattern, what in _NAMES_A_DATABASE:
        if any(pattern.search(word) for word in command.argv[1:]):
            return f"its command line names a database itself ({what})"
    if tool is Tool.DRIZZLE:
        return _why_not_drizzle(command, database, variable, environment, shared=shared)
    if tool in (Tool.ALEMBIC, Tool.PRISMA) and not probe(command.argv):
        return f"for this command of {tool} there is no harmless one that shows which database it takes"
    if tool is Tool.PRISMA:
        return _why_not_files(command.directory / "prisma" / "migrations", shared=shared)
    return ""


def probe(argv: tuple[str, ...]) -> tuple[str, ...]:
    """A command of the same tool and configuration that only reads; empty where none is known."""
    harmless = {
        Tool.ALEMBIC: (("upgrade", "downgrade", "stamp"), ("current",)),
        Tool.PRISMA: (("deploy",), ("status",)),
    }.get(tool_of(argv))
    program = _program(argv)
    if harmless is None or program is None:
        return ()
    verbs, instead = harmless
    place = next((n for n in range(program + 1, len(argv)) if argv[n] in verbs), None)
    if place is None:
        return ()
    # what follows alembic's verb is a revision; prisma's status takes the options of its deploy
    return (*argv[:place], *instead, *(argv[place + 1 :] if verbs == ("deploy",) else ()))


def _program(argv: tuple[str, ...]) -> int | None:
    """Where in a command line the program stands that its launchers start."""
    return next((n for n, word in enumerate(argv) if not _LAUNCHERS.fullmatch(PurePath(word).name)), None)


def _why_not_drizzle(
    command: MigrationCommand, database: Database, variable: str, environment: Mapping[str, str], *, shared: bool
) -> str:
    kit, config = find_kit(command.directory), find_config(command.argv, command.directory)
    if kit is None or config is None:
        return f"{'drizzle-kit' if kit is None else 'its configuration'} was not found from {command.directory}"
    others = {key: value for key, value in environment.items() if not key.startswith("PG")}
    loads = partial(named_database, kit, config, command.directory)
    with ThreadPoolExecutor() as both:
        named, today = both.map(loads, ({**others, **_NOWHERE, variable: SENTINEL}, environment))
    for loaded in (named, today):
        if loaded.place is None:
            return f"which database {config.name} names could not be found out: {loaded.reason}"
    real = place_of(database) or place_of(database.named(database.name))
    if today.place != real:
        differing = f"{config.name} names {today.place} as it is, and the database to be backed up is {real}"
        # By another host or port it can be the same database, through a pooler for one.
        if today.place and real and (today.place.host, today.place.port) == (real.host, real.port):
            raise UsageError(
                f"{differing}.",
                untouched="The migration was not started.",
                remedy=f"Let {config.name} take its url from process.env.{variable}, and set that in one place;"
                " --no-rehearse runs it even so.",
            )
        return differing
    if named.place != place_of(Database.from_url(SENTINEL, "the sentinel")):
        return f"{config.name} does not follow {variable}: it names {named.place}, whatever that says"
    if shared and today.roles and verb_of(command.argv) == "push":
        return (
            f"{config.name} lets push manage roles (entities.roles), which are there for all databases of a server "
            "(with backup.scratch: embedded it is on a server of its own)"
        )
    return _why_not_files(command.directory / today.out, shared=shared) if verb_of(command.argv) == "migrate" else ""


def _why_not_files(folder: Path, *, shared: bool) -> str:
    """Why the SQL files of a migration tool reach out of the database; nothing where there are none."""
    for file in sorted(folder.rglob("*.sql")):
        if reason := why_reaches_out(file.read_text(encoding="utf-8", errors="replace"), shared=shared):
            return f"{file.name if file.stem != 'migration' else file.parent.name} {reason}"
    return ""


def _host(parameters: Mapping[str, str]) -> str:
    return parameters.get("host") or parameters.get("hostaddr", "")


def _place_in(url: str) -> str:
    """Host and port of a URL, as it has them; nothing where it is none."""
    if "://" not in url:
        return ""
    try:
        parts = urlsplit(url)
        return f"{parts.hostname}:{parts.port or 5432}"
    except ValueError:  # several hosts
        return ""


def _url(to: Database, url: str | None, *, same: bool) -> str:
    there, host = to.parameters, _host(to.parameters)
    original = urlsplit(url) if url and "://" in url else None
    query = dict(parse_qsl(original.query)) if original else {}
    if not same:
        # what was to be said to the one server, of TLS for one, is not for another
        query = {key: value for key, value in query.items() if key in _KEPT_IN_URL}
    for key in ("host", "hostaddr", "port", "dbname", "user", "password", "service"):
        query.pop(key, None)
    if host.startswith("/"):
        query["host"], host = host, ""
    credentials = quote(to.user, safe="")
    if password := there.get("password"):
        credentials += f":{quote(password, safe='')}"
    place = f"[{host}]" if ":" in host else host
    parameters = urlencode(query, quote_via=quote)
    scheme = original.scheme if original else "postgresql"
    return f"{scheme}://{credentials}@{place}:{there.get('port', '5432')}/{quote(to.name, safe='')}" + (
        f"?{parameters}" if parameters else ""
    )
