"""Whether a command can be sent to another database, and the environment that sends it there."""

import re
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path, PurePath
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from backup.migration.command import MigrationCommand
from backup.migration.drizzle_project import SENTINEL, find_config, find_kit, named_database, place_of
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
_PSQL_PLACE = re.compile(r"-[hpdU].*|--(host|port|dbname|username|service)(=.*)?", re.DOTALL)
_PSQL_VALUED = re.compile(r"-[cfvoLFRTP]|--(command|file|set|variable|output|log-file|pset|field-separator)")
_PSQL_LEAVES = re.compile(r"\\(c|connect|i|ir|include|include_relative|!|copy|setenv)(?=\s|$)", re.MULTILINE)
_PLACE = re.compile(r"PG(HOST|HOSTADDR|PORT|DATABASE|USER|PASSWORD|PASSFILE|SERVICE|SERVICEFILE|TARGETSESSIONATTRS)")
_KEPT_IN_URL = ("schema", "search_path", "options", "client_encoding")


def tool_of(argv: tuple[str, ...]) -> Tool:
    """Which of the known programs a command line starts, by itself or through npx, uv run, python -m and the like."""
    program = _program(argv)
    name = PurePath(argv[program]).name.partition("@")[0] if program is not None else ""
    if MigrationCommand(argv=argv, directory=Path()).is_drizzle and name in ("drizzle-kit", "drizzle-kit.cmd", "node"):
        return Tool.DRIZZLE
    if name == "prisma":
        return Tool.PRISMA if "migrate" in argv else Tool.OTHER
    return Tool(name) if name in (Tool.ALEMBIC, Tool.PSQL) else Tool.OTHER


def redirected(environment: Mapping[str, str], to: Database, *, variable: str, url: str | None) -> dict[str, str]:
    """The environment in which a command finds the database `to` where it found its own before.

    Args:
        environment: what the command would get.
        to: the scratch database.
        variable: the name of the variable that holds the URL.
        url: what it holds; what only the command understands of it is kept.
    """
    there = to.parameters
    same = url is None or f"{_host(there)}:{there.get('port', '5432')}" == _place_in(url)
    # node-postgres takes PGSSLMODE=prefer for an order, so nothing is set that was not set before
    dropped = _PLACE if same else re.compile(f"{_PLACE.pattern}|PGSSL.*")
    kept = {name: value for name, value in environment.items() if not dropped.fullmatch(name)}
    place = {"PGHOST": _host(there), "PGPORT": there.get("port", "5432"), "PGUSER": to.user, "PGDATABASE": to.name}
    if password := there.get("password"):
        place["PGPASSWORD"] = password
    return {**kept, **place, variable: _url(to, url, same=same)}


def why_not(command: MigrationCommand, *, variable: str, environment: Mapping[str, str]) -> str:
    """Why it cannot be proven beforehand that a command follows the redirection; empty when nothing speaks against it.

    drizzle-kit's configuration is loaded with a URL that leads nowhere. What a command line names by itself,
    no variable changes.
    """
    tool = tool_of(command.argv)
    for pattern, what in _NAMES_A_DATABASE:
        if any(pattern.search(word) for word in command.argv[1:]):
            return f"its command line names a database itself ({what})"
    if tool is Tool.DRIZZLE:
        return _why_not_drizzle(command, variable, environment)
    if tool is Tool.PSQL:
        return _why_not_psql(command)
    if tool in (Tool.ALEMBIC, Tool.PRISMA) and not probe(command.argv):
        return f"for this command of {tool} there is no harmless one that shows which database it takes"
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


def _why_not_drizzle(command: MigrationCommand, variable: str, environment: Mapping[str, str]) -> str:
    kit, config = find_kit(command.directory), find_config(command.argv, command.directory)
    if kit is None or config is None:
        return f"{'drizzle-kit' if kit is None else 'its configuration'} was not found from {command.directory}"
    nowhere = Database.from_url(SENTINEL, "the sentinel")
    host, port, name = (nowhere.parameters[key] for key in ("host", "port", "dbname"))
    others = {key: value for key, value in environment.items() if not key.startswith("PG")}
    sentinel = {variable: SENTINEL, "PGHOST": host, "PGPORT": port, "PGDATABASE": name, "PGUSER": nowhere.user}
    named = named_database(kit, config, command.directory, {**others, **sentinel})
    if named.place is None:
        return f"which database {config.name} names could not be found out: {named.reason}"
    if named.place != place_of(nowhere):
        return f"{config.name} does not follow {variable}: it names {named.place}, whatever that says"
    return ""


def _why_not_psql(command: MigrationCommand) -> str:
    words = command.argv[(_program(command.argv) or 0) + 1 :]
    scripts, expected = [], ""
    for word in words:
        if expected:
            flag, expected = expected, ""
        elif _PSQL_PLACE.fullmatch(word):
            return f"its command line names a database itself ({word.partition('=')[0][:10]})"
        elif _PSQL_VALUED.fullmatch(word):
            expected = word
            continue
        else:
            found = re.fullmatch(r"(-[cf]|--command=|--file=)(.+)", word, re.DOTALL)
            if not word.startswith("-"):
                return "its command line names a database itself"
            if not found:
                continue
            flag, word = found[1].rstrip("="), found[2]
        if flag in ("-c", "--command"):
            scripts.append(word)
        elif flag in ("-f", "--file"):
            try:
                scripts.append((command.directory / word).read_text(encoding="utf-8", errors="replace"))
            except OSError as error:
                return f"{word} cannot be read: {error.strerror}"
    if not scripts:
        return "it reads its SQL from stdin, which can be read only once"
    if leaves := next(filter(None, map(_PSQL_LEAVES.search, scripts)), None):
        return f"its script says {leaves[0]}, which can reach out of the database"
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
