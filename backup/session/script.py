r"""The text around a table's rows: what psql does before and after it reads them.

A table's file works alone, and as a part of `restore.sql`, which sets the psql variable `cdc_session` and
then does itself what a file alone does last: what needs other tables to be back, and the COMMIT. Rows are
always loaded into a table that the file itself has just made, without triggers, rules and constraints
that could change or swallow them. Where the table is there already, it is put aside under another name
meanwhile, gets the rows that it lacks, and takes its name back.
"""

import re
from collections.abc import Iterator, Sequence

from psycopg import sql

from backup.postgres.archive import Entry
from backup.postgres.tables import Kind, Table
from backup.session.contents import NeedContents, TableContents

_ASIDE = "cdc-backup: put aside"

_LOCK = 0x6364632D62617475
"""The advisory lock that keeps two restores of a database apart."""

_PREAMBLE = f"""\
BEGIN;
SET LOCAL statement_timeout = 0;
SET LOCAL lock_timeout = 0;
SET LOCAL idle_in_transaction_session_timeout = 0;
SET LOCAL client_min_messages = warning;
SET LOCAL client_encoding = 'UTF8';
SET LOCAL standard_conforming_strings = on;
SET LOCAL search_path = '';
SET LOCAL check_function_bodies = false;
SET LOCAL xmloption = content;
SET LOCAL row_security = off;
SET LOCAL datestyle = 'ISO';
SET LOCAL intervalstyle = 'postgres';
DO $cdc$ BEGIN
    PERFORM pg_catalog.set_config(name, '0', true) FROM pg_catalog.pg_settings WHERE name = 'transaction_timeout';
    IF NOT pg_catalog.pg_try_advisory_xact_lock({_LOCK}) THEN
        RAISE EXCEPTION 'another restore is running in this database; nothing was changed';
    END IF;
END $cdc$;
"""

# The whole class 42, plpgsql's name for "there is no such thing" and "you may not": what may be said and
# passed over where something is brought back that is worth less than the table and its rows.
_TOLERATED = "syntax_error_or_access_rule_violation OR invalid_schema_name"

_QUIET_OR_WORTH_LESS = frozenset({"RULE", "POLICY", "TRIGGER", "SEQUENCE SET"})
"""In a block: what may fail alone, and what would print a result that nobody wants to read."""

_OWNED = frozenset(
    {"AGGREGATE", "COLLATION", "DOMAIN", "FUNCTION", "OPERATOR", "PROCEDURE", "SEQUENCE", "TYPE"}
    | {"OPERATOR CLASS", "OPERATOR FAMILY", "TEXT SEARCH CONFIGURATION", "TEXT SEARCH DICTIONARY"}
)
_WAY_OUT = "cdc-backup restore --mode replace or --mode aside brings the rows back."

_STATEMENT = re.compile(r"""(?:[^;"]|"[^"]*")*;\n?""")


def restore_script(contents: Sequence[TableContents], files: dict[int, str], title: str) -> Iterator[str]:
    """`restore.sql`: every table in one transaction, those without rows written out in it.

    `files` holds the names of the tables' files by OID; `title` says in one line what this is.
    """
    yield f"-- {_one_line(title)}\n-- psql -f restore.sql brings every table back, in one transaction.\n\n"
    yield "\\set ON_ERROR_STOP on\n\\set QUIET on\n\\set cdc_session on\n" + _PREAMBLE
    for table in contents:
        if table.table.oid in files:
            yield f"\n\\ir {_quoted(files[table.table.oid])}\n"
        else:
            yield from _start(table)
            yield f"\\if :{_gone(table)}\n"
            yield from _definition(table.definition)
            # What a partitioned table has, its partitions must be attached for: see the end.
            yield from _details(table) if table.table.kind is not Kind.PARTITIONED else ()
            yield "\\endif\n"
    for table in contents:
        if table.table.kind is Kind.PARTITIONED:
            yield f"\\if :{_gone(table)}\n"
            yield from _details(table)
            yield "\\endif\n"
    for table in contents:
        yield from _late(table)
    yield "\nCOMMIT;\n\\unset cdc_session\n"
    yield f"\\echo {_quoted(f'All {len(contents)} tables of the backup are there, with all their rows.')}\n"


def before_rows(contents: TableContents, title: str) -> Iterator[str]:
    """A table's file up to its rows: what it needs, and the table without anything on it."""
    yield f"-- {_one_line(title)}\n"
    yield "-- psql -f brings the table back, in one transaction; where that is not safe, nothing is changed.\n\n"
    yield "\\set ON_ERROR_STOP on\n\\set QUIET on\n\\if :{?cdc_session}\n\\else\n" + _PREAMBLE + "\\endif\n"
    yield from _start(contents)
    yield f"\\if :{_gone(contents)}\n\\else\n" + _put_aside(contents.table) + "\\endif\n"
    yield from _definition(contents.definition)
    yield "\n"
    if contents.rows:
        yield contents.rows.copy_statement


def after_rows(contents: TableContents) -> Iterator[str]:
    """A table's file from its rows on: what hangs on the table, or the merge where it was there already."""
    table, rows = contents.table, contents.rows.count if contents.rows else 0
    name = _text(table.identifier)
    yield f"\\if :{_gone(contents)}\n"
    yield _do(
        f"    IF (SELECT pg_catalog.count(*) FROM ONLY {name}) <> {rows} THEN\n"
        f"        RAISE EXCEPTION {_literal(f'{table}: not all of its {rows} rows came back; nothing was changed')};\n"
        "    END IF;\n"
    )
    yield from _details(contents)
    yield f"\\else\n{_merge(table)}\\endif\n\\if :{{?cdc_session}}\n\\else\n"
    yield from _late(contents)
    yield "COMMIT;\n"
    yield f"\\echo {_quoted(f'{table}: it is there, with all {rows} rows of the backup.')}\n\\endif\n"


def _start(contents: TableContents) -> Iterator[str]:
    """What the table needs, and whether it is gone, in a psql variable of its own."""
    yield f"\n-- {_one_line(str(contents.table))}\n"
    yield _schema(contents)
    yield from map(_need, contents.needs)
    name = _literal(_text(contents.table.identifier))
    yield f"SELECT pg_catalog.to_regclass({name}) IS NULL AS {_gone(contents)} \\gset\n"


def _definition(entry: Entry) -> Iterator[str]:
    """CREATE TABLE where, and by which access method, the table was kept."""
    if entry.tablespace:
        yield _tolerant(f"SET LOCAL default_tablespace = {_text(sql.Identifier(entry.tablespace))}")
    if entry.access_method:
        yield f"SET LOCAL default_table_access_method = {_text(sql.Identifier(entry.access_method))};\n"
    yield entry.text
    if entry.tablespace:
        yield "SET LOCAL default_tablespace = '';\n"


def _details(contents: TableContents) -> Iterator[str]:
    """All that hangs on a table which was gone and has its rows again; the owner and the grants last."""
    for entry in contents.details:
        yield _tolerant(entry.text) if entry.kind in _QUIET_OR_WORTH_LESS else f"{entry.text.rstrip()}\n"
    yield from (f"{statement};\n" for statement in contents.statistics)
    # After the indexes: a partition's own ones are recognized when it is attached, others are made.
    yield from (_tolerant(entry.text) for entry in contents.attachments)
    owner = _text(sql.Identifier(contents.definition.owner))
    yield _tolerant(f"ALTER TABLE {_text(contents.table.identifier)} OWNER TO {owner}")
    for entry in contents.grants:
        yield from map(_tolerant, _statements(entry.text))
    yield from map(_tolerant, contents.publications)


def _late(contents: TableContents) -> Iterator[str]:
    """What a table that was gone has to do with others: foreign keys, its indexes' place in partitioned ones."""
    if contents.late:
        yield f"\\if :{_gone(contents)}\n"
        for entry in contents.late:
            yield _foreign_key(entry.text) if entry.kind == "FK CONSTRAINT" else _tolerant(entry.text)
        yield "\\endif\n"


def _put_aside(table: Table) -> str:
    """Refuse a table that the rows do not fit or could be doubled in, else give it another name."""
    name = _text(table.identifier)
    columns = ", ".join(_literal(f"{column.name} {column.type}") for column in table.columns)
    without_key = f"""\
    IF EXISTS (SELECT FROM ONLY {name}) THEN
        RAISE EXCEPTION {_literal(f"{table} has rows but no key to tell which of them are missing; nothing was changed")}
            USING HINT = {_literal(_WAY_OUT)};
    END IF;
"""
    return (
        _do(f"""\
    IF (SELECT pg_catalog.array_agg(c ORDER BY c) FROM (
            SELECT (attname || ' ' || pg_catalog.format_type(atttypid, atttypmod)) COLLATE "C"
            FROM pg_catalog.pg_attribute
            WHERE attrelid = {_literal(name)}::pg_catalog.regclass AND attnum > 0 AND NOT attisdropped) AS x (c))
        IS DISTINCT FROM (SELECT pg_catalog.array_agg(c ORDER BY c COLLATE "C")
            FROM pg_catalog.unnest(ARRAY[{columns}]::pg_catalog.text[]) AS x (c)) THEN
        RAISE EXCEPTION {_literal(f"the columns of {table} have changed since the backup; nothing was changed")}
            USING HINT = {_literal(_WAY_OUT)};
    END IF;
{"" if table.key else without_key}""")
        + f"ALTER TABLE {name} RENAME TO {_text(sql.Identifier(_ASIDE))};\n"
    )


def _merge(table: Table) -> str:
    """Give the table that was there the rows that it lacks, past its triggers and rules, and its name."""
    aside = _text(sql.Identifier(table.schema, _ASIDE))
    name = _text(table.identifier)
    columns = ", ".join(_text(sql.Identifier(column.name)) for column in table.columns if not column.generated)
    same = " AND ".join(f"t.{_text(sql.Identifier(c))} = b.{_text(sql.Identifier(c))}" for c in table.key) or "false"
    lacking = f"FROM {name} AS b WHERE NOT EXISTS (SELECT FROM ONLY {aside} AS t WHERE {same})"
    return (
        f"""\
SELECT coalesce(pg_catalog.string_agg(off, ' '), '') AS cdc_off, coalesce(pg_catalog.string_agg("on", ' '), '') AS cdc_on
FROM (
    SELECT pg_catalog.format('ALTER TABLE %s DISABLE TRIGGER %I;', tgrelid::pg_catalog.regclass, tgname),
           pg_catalog.format('ALTER TABLE %s ENABLE%s TRIGGER %I;', tgrelid::pg_catalog.regclass,
                             CASE tgenabled WHEN 'R' THEN ' REPLICA' WHEN 'A' THEN ' ALWAYS' END, tgname)
    FROM pg_catalog.pg_trigger
    WHERE tgrelid = {_literal(aside)}::pg_catalog.regclass AND NOT tgisinternal AND tgenabled <> 'D'
    UNION ALL
    SELECT pg_catalog.format('ALTER TABLE %s DISABLE RULE %I;', ev_class::pg_catalog.regclass, rulename),
           pg_catalog.format('ALTER TABLE %s ENABLE%s RULE %I;', ev_class::pg_catalog.regclass,
                             CASE ev_enabled WHEN 'R' THEN ' REPLICA' WHEN 'A' THEN ' ALWAYS' END, rulename)
    FROM pg_catalog.pg_rewrite WHERE ev_class = {_literal(aside)}::pg_catalog.regclass AND ev_enabled <> 'D'
    UNION ALL
    SELECT pg_catalog.format('ALTER TABLE %s NO FORCE ROW LEVEL SECURITY;', oid::pg_catalog.regclass),
           pg_catalog.format('ALTER TABLE %s FORCE ROW LEVEL SECURITY;', oid::pg_catalog.regclass)
    FROM pg_catalog.pg_class WHERE oid = {_literal(aside)}::pg_catalog.regclass AND relforcerowsecurity
) AS x (off, "on") \\gset
:cdc_off
INSERT INTO {aside} ({columns}) OVERRIDING SYSTEM VALUE SELECT {columns} {lacking};
"""
        + (
            _do(f"""\
    IF EXISTS (SELECT {lacking}) THEN
        RAISE EXCEPTION {_literal(f"{table}: not all missing rows came back; nothing was changed")};
    END IF;
""")
            if table.key
            else ""
        )
        + f"""\
SET CONSTRAINTS ALL IMMEDIATE;
:cdc_on
DROP TABLE {name};
ALTER TABLE {aside} RENAME TO {_text(sql.Identifier(table.name))};
"""
    )


def _schema(contents: TableContents) -> str:
    """Make the table's schema where it is gone, with its owner and what was granted on it."""
    schema = contents.table.schema
    return _do(
        f"    IF NOT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = {_literal(schema)}) THEN\n"
        f"        CREATE SCHEMA {_text(sql.Identifier(schema))};\n"
        + "".join(_attempt(statement) for statement in contents.schema_statements)
        + "    END IF;\n"
    )


def _need(need: NeedContents) -> str:
    """Make what tables need where it cannot be found."""
    made: list[str] = []
    for entry in need.entries:
        if entry.kind == "ACL":
            made += map(_attempt, _statements(entry.text))
        else:
            made.append(f"    EXECUTE {_dollars(entry.text.strip())};\n")
        if entry.kind in _OWNED and entry.owner:
            # What a DROP calls the object is what an ALTER calls it; pg_restore does it so as well.
            what = entry.drop_statement.strip().removeprefix("DROP ").removesuffix(";")
            made.append(_attempt(f"ALTER {what} OWNER TO {_text(sql.Identifier(entry.owner))}"))
    names, arguments = (
        f"ARRAY[{', '.join(map(_literal, part))}]::pg_catalog.text[]" for part in (need.need.names, need.need.arguments)
    )
    return _do(
        f"    PERFORM pg_catalog.pg_get_object_address({_literal(need.need.kind)}, {names}, {arguments});\n"
        f"EXCEPTION WHEN {_TOLERATED} THEN\n" + "".join(made)
    )


def _foreign_key(statement: str) -> str:
    """Add the foreign key; unproven where rows that it points to are gone, not at all where the table is."""
    statement = statement.strip()
    unproven = statement.removesuffix(";") + " NOT VALID"
    return _do(
        f"    BEGIN\n    EXECUTE {_dollars(statement)};\n    EXCEPTION WHEN foreign_key_violation THEN\n"
        f"    EXECUTE {_dollars(unproven)};\n"
        "    RAISE WARNING 'rows that this foreign key points to are gone, so it came back NOT VALID: %', "
        f"{_literal(_one_line(statement))};\n    END;\n"
        f"EXCEPTION WHEN {_TOLERATED} OR foreign_key_violation THEN\n"
        f"    RAISE WARNING 'not brought back: % (%)', {_literal(_one_line(statement))}, SQLERRM;\n"
    )


def _tolerant(statement: str) -> str:
    """The statement as a block that says what it cannot bring back, and goes on."""
    return _do(_attempt(statement))


def _attempt(statement: str) -> str:
    return (
        f"    BEGIN\n    EXECUTE {_dollars(statement.strip())};\n    EXCEPTION WHEN {_TOLERATED} THEN\n"
        f"    RAISE WARNING 'not brought back: % (%)', {_literal(_one_line(statement))}, SQLERRM;\n    END;\n"
    )


def _statements(text: str) -> list[str]:
    """The single statements of a text without strings, such as a list of GRANTs."""
    return [statement.strip() for statement in _STATEMENT.findall(text)]


def _do(body: str) -> str:
    return f"DO {_dollars(f' BEGIN{chr(10)}{body}END ', 'cdc')};\n"


def _dollars(text: str, tag: str = "cdc_sql") -> str:
    """The text between dollar quotes that it does not hold."""
    while f"${tag}" in text:
        tag += "_"
    return f"${tag}${text}${tag}$"


def _gone(contents: TableContents) -> str:
    return f"cdc_gone_{contents.table.oid}"


def _text(composable: sql.Composable) -> str:
    return composable.as_string(None)


def _literal(value: str) -> str:
    return sql.Literal(value).as_string(None).strip()


def _quoted(argument: str) -> str:
    """An argument of a psql command, in single quotes by psql's rules."""
    return "'" + argument.replace("\\", "\\\\").replace("'", "''").replace("\n", "\\n") + "'"


def _one_line(text: str) -> str:
    """For comments and messages: a line end in a name must not end a comment, nor begin a psql command."""
    return " ".join(text.split())
