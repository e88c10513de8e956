"""SQL text for files that psql reads: quoting, and statements that are tried where they may fail."""

import re
from functools import lru_cache

from psycopg import sql

# The whole class 42, plpgsql's name for "there is no such thing" and "you may not": what may be said and
# passed over where something is brought back that is worth less than the table and its rows.
TOLERATED = "syntax_error_or_access_rule_violation OR invalid_schema_name"

_STATEMENT = re.compile(r"""(?:[^;"]|"[^"]*")*;\n?""")


def tolerant(statement: str) -> str:
    """The statement as a block that says what it cannot bring back, and goes on."""
    return block(attempt(statement))


def attempt(statement: str) -> str:
    """The same inside of a block."""
    return (
        f"    BEGIN\n    EXECUTE {dollars(statement.strip())};\n    EXCEPTION WHEN {TOLERATED} THEN\n"
        f"    RAISE WARNING 'not brought back: % (%)', {literal(one_line(statement))}, SQLERRM;\n    END;\n"
    )


def unless_there(kind: str, names: tuple[str, ...], arguments: tuple[str, ...], body: str) -> str:
    """A block that runs `body` where `pg_get_object_address` does not find the object."""
    found = ", ".join(f"ARRAY[{', '.join(map(literal, part))}]::pg_catalog.text[]" for part in (names, arguments))
    return block(
        f"    PERFORM pg_catalog.pg_get_object_address({literal(kind)}, {found});\n"
        f"EXCEPTION WHEN {TOLERATED} THEN\n{body}"
    )


def forget_default_privileges(relation: str) -> str:
    """Inside of a block: take away what ALTER DEFAULT PRIVILEGES grants on every new relation."""
    return (
        "    DECLARE\n    taken pg_catalog.text;\n    BEGIN\n"
        "    FOR taken IN SELECT pg_catalog.format('REVOKE ALL ON TABLE %s FROM %s', c.oid::pg_catalog.regclass,\n"
        "            CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::pg_catalog.regrole::pg_catalog.text END)\n"
        "        FROM pg_catalog.pg_class AS c, pg_catalog.aclexplode(c.relacl) AS a\n"
        f"        WHERE c.oid = {literal(relation)}::pg_catalog.regclass AND a.grantee <> c.relowner LOOP\n"
        "        EXECUTE taken;\n    END LOOP;\n    END;\n"
    )


def statements(text: str) -> list[str]:
    """The single statements of a text without strings, such as a list of GRANTs."""
    return [statement.strip() for statement in _STATEMENT.findall(text)]


def block(body: str, declarations: str = "") -> str:
    """An anonymous plpgsql block."""
    declare = f" DECLARE\n{declarations}" if declarations else " "
    return f"DO {dollars(f'{declare}BEGIN{chr(10)}{body}END ', 'cdc')};\n"


def dollars(text: str, tag: str = "cdc_sql") -> str:
    """The text between dollar quotes that it does not hold."""
    while f"${tag}" in text:
        tag += "_"
    return f"${tag}${text}${tag}$"


@lru_cache(maxsize=1024)
def identifier(*parts: str) -> str:
    """A quoted, qualified name."""
    return sql.Identifier(*parts).as_string(None)


@lru_cache(maxsize=1024)
def literal(value: str) -> str:
    """A string constant."""
    return sql.Literal(value).as_string(None).strip()


def one_line(text: str) -> str:
    """For comments and messages: a line end in a name must not end a comment, nor begin a psql command."""
    return " ".join(text.split())
