"""What projects write into DATABASE_URL, read by libpq's own rules."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import psycopg
from psycopg import conninfo, pq

from backup.errors import UsageError

_URL = re.compile(r"(?P<scheme>postgres(?:ql)?)(?:\+\w+)?://(?P<user>[^@/]*@)?(?P<place>[^?]*)(?:\?(?P<query>.*))?")
"""Where libpq looks for the user: up to the first `@` that no `/` precedes (conninfo_uri_parse_options)."""

_NOT_OURS = frozenset(
    (
        *(
            "schema",
            "connection_limit",
            "pool_timeout",
            "socket_timeout",
            "pgbouncer",
            "statement_cache_size",
        ),  # Prisma
        "uselibpqcompat",  # node-postgres: sslmode shall mean what it means in libpq
        *("pool", "prepared_statements"),  # Rails
        "prepared_statement_cache_size",  # SQLAlchemy's asyncpg
        *("pool_max_conns", "pool_min_conns", "default_query_exec_mode", "statement_cache_capacity"),  # pgx
        *("supa", "workaround"),  # Supabase, as Vercel writes it
    )
)
"""What other tools write into a URL, libpq refuses, and changes neither the database nor its protection."""

_VERIFYING = ("verify-ca", "verify-full")
_ENCRYPTING = ("require", *_VERIFYING)
_SSLMODES = ("disable", "allow", "prefer", *_ENCRYPTING)


def read_connection_string(text: str, source: str) -> dict[str, str]:
    """The connection parameters that a URL or a keyword string names.

    SQLAlchemy's `postgresql+driver://` and what Prisma, node-postgres and others add is understood; what
    asks them for more protection than libpq would give is refused.

    Raises:
        UsageError: it cannot be read, or not without a doubt; the message holds nothing of a password.
    """
    text = text.strip()
    url = _URL.fullmatch(text)
    if url is not None:
        if "@" in url["place"]:
            _refuse(source, "an @ or a / in the user or the password is not quoted")
        query = "&".join(_libpq_parameters(url["query"] or "", source))
        text = f"{url['scheme']}://{url['user'] or ''}{url['place']}{'?' if query else ''}{query}"
    try:
        parameters = {keyword: str(value) for keyword, value in conninfo.conninfo_to_dict(text).items()}
    except psycopg.ProgrammingError as error:
        _refuse(source, _why_unreadable(text, error))
    if re.search(r"[^\d,]", parameters.get("port", "")):
        _refuse(source, "what stands where the port belongs is no number")
    return parameters


def libpq_defaults(service: str | None) -> dict[str, str]:
    """What the service file and `PG*` say, as libpq reads them; `service` wins over PGSERVICE."""
    with _service_variable(service):
        options = pq.Conninfo.get_defaults()
    return {o.keyword.decode(): o.val.decode() for o in options if o.val and o.val != o.compiled}


@contextmanager
def _service_variable(service: str | None) -> Iterator[None]:
    # libpq offers its reading of a service file for the one that the variable names, and no other way.
    before = os.environ.get("PGSERVICE")
    try:
        if service is not None:
            os.environ["PGSERVICE"] = service
        yield
    finally:
        if before is not None:
            os.environ["PGSERVICE"] = before
        elif service is not None:
            del os.environ["PGSERVICE"]


def _libpq_parameters(query: str, source: str) -> Iterator[str]:
    """The parameters of a URL in libpq's words."""
    pairs = [pair.partition("=") for pair in query.split("&") if pair]
    sslmode = next((value for name, _, value in reversed(pairs) if name == "sslmode"), "")
    for name, equals, value in pairs:
        match name, value:
            case ("ssl", "true" | "1") if sslmode not in _ENCRYPTING:
                _refuse(
                    source,
                    f"ssl={value} means another thing to each program",
                    "Write sslmode=require (encrypted) or sslmode=verify-full and sslrootcert=FILE "
                    "(encrypted, and the server's certificate verified).",
                )
            case ("sslaccept", "strict") if sslmode not in _VERIFYING:
                _refuse(
                    source,
                    "sslaccept=strict is Prisma's word, which libpq does not know",
                    "Write sslmode=verify-full and sslrootcert=FILE, or put a URL of its own for cdc-backup "
                    "into another variable and name that in backup.url_variable.",
                )
            case ("ssl", "true" | "1") | ("sslaccept", "strict" | "accept_invalid_certs"):
                pass
            case ("sslmode" | "ssl", "no-verify"):
                yield "sslmode=require"
            case ("ssl", "false" | "0"):
                yield "sslmode=disable"
            case ("ssl", _) if value in _SSLMODES:
                yield f"sslmode={value}"
            case _ if name not in _NOT_OURS:
                yield f"{name}{equals}{value}"


def _refuse(source: str, why: str, remedy: str = "") -> NoReturn:
    raise UsageError(
        f"{source} holds no connection string that libpq understands: {why}.",
        untouched="Nothing was done.",
        remedy=remedy
        or "It reads postgresql://user:password@host:port/database; characters like % @ / : in "
        "the user or the password are written %25 %40 %2F %3A.",
    ) from None


def _why_unreadable(text: str, error: psycopg.ProgrammingError) -> str:
    """The cause in words of ours: libpq's own quote the piece it stumbles over, which may be the password."""
    said = str(error)
    unknown = re.search(r'invalid URI query parameter: "(\w+)"', said)
    if unknown:
        return f"libpq has no parameter {unknown[1]!r}"
    if "percent-encoded" in said or "%00" in said:
        return "a % in it is not followed by two hexadecimal digits"
    if text.startswith(("'", '"')):
        return "it stands in quotes"
    if "://" in text and not text.startswith(("postgres://", "postgresql://")):
        return "it does not start with postgresql://"
    return "it is neither a URL nor keyword=value pairs"
