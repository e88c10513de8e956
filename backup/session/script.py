r"""The text around a table's rows: what psql does before and after it reads them.

A table's file works alone, and as a part of `restore.sql`, which sets the psql variable `cdc_session` and
then does itself what a file alone does last: what needs other tables to be back, and the COMMIT. Rows are
always loaded into a table that the file itself has just made, without triggers, rules and constraints that
could change or swallow them; where the table is there already, `merge` tells what becomes of the two.

Variables that `migration.restore` sets, and who types `psql -f` need not: `cdc_mode` and `cdc_schema` (see
`merge`), `cdc_skip_OID` (leave this table out), `cdc_fingerprint_OID` (the rows must have it), `cdc_delta_OID`
(the script that brings in what was saved of the table after the backup, see `delta_script`), `cdc_sum_OID` (what
the rows must have then), `cdc_report` (a line for machines for each table).
"""

from collections.abc import Iterable, Iterator, Sequence

from backup.postgres.archive import Entry
from backup.postgres.clients import argument
from backup.postgres.fingerprint import SETTINGS, fingerprint
from backup.postgres.tables import Kind
from backup.session.contents import Contents, DependentContents, NeedContents, TableContents
from backup.session.delta_parts import delta_variable
from backup.session.merge import (
    advance,
    defer_keys,
    leave_aside,
    lock_all,
    merge,
    put_aside,
    undefer_keys,
    with_sequence,
)
from backup.session.statements import (
    TOLERATED,
    attempt,
    block,
    dollars,
    forget_default_privileges,
    identifier,
    literal,
    one_line,
    statements,
    tolerant,
    unless_there,
)

LOCK = 0x6364632D62617475
"""The advisory lock that keeps two restores of a database apart."""

_WHOLE = "\\if true\n"
"""Ended by the file's last line: where a file is cut off, psql misses that, and ends with an error."""

_PREAMBLE = f"""\
BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;
SET LOCAL statement_timeout = 0;
\\if :{{?cdc_lock_timeout}}
\\else
\\set cdc_lock_timeout 10000
\\endif
SET LOCAL lock_timeout = :cdc_lock_timeout;
SET LOCAL idle_in_transaction_session_timeout = 0;
SET LOCAL client_min_messages = warning;
SET LOCAL client_encoding = 'UTF8';
SET LOCAL standard_conforming_strings = on;
SET LOCAL search_path = '';
SET LOCAL check_function_bodies = false;
SET LOCAL xmloption = content;
SET LOCAL row_security = off;
SET LOCAL array_nulls = on;
SET LOCAL transform_null_equals = off;
{SETTINGS};
\\if :{{?cdc_mode}}
\\else
\\set cdc_mode 'by hand'
\\endif
SELECT pg_catalog.set_config('cdc.mode', :'cdc_mode', true) = 'aside' AS cdc_aside,
       :'cdc_mode' = 'replace' AS cdc_replace \\gset
DO $cdc$ BEGIN
    PERFORM pg_catalog.set_config(name, '0', true) FROM pg_catalog.pg_settings WHERE name = 'transaction_timeout';
    IF NOT pg_catalog.pg_try_advisory_xact_lock({LOCK}) THEN
        RAISE EXCEPTION 'another restore is running in this database; nothing was changed';
    END IF;
    IF pg_catalog.current_setting('cdc.mode') NOT IN ('by hand', 'missing', 'replace', 'aside') THEN
        RAISE EXCEPTION 'cdc_mode is missing, replace or aside; nothing was changed';
    END IF;
END $cdc$;
\\set cdc_on ''
\\if :cdc_aside
SELECT pg_catalog.set_config('cdc.schema', :'cdc_schema', true) AS cdc_schema \\gset
CREATE SCHEMA IF NOT EXISTS :"cdc_schema";
\\endif
"""

_AGAIN = """\
SELECT coalesce(pg_catalog.current_setting('cdc.again', true), '') AS cdc_again \\gset
:cdc_again
"""

_NUMBERS = frozenset({"smallint", "integer", "bigint"})
"""The types of columns that an owned sequence gives their values."""

_QUIET_OR_WORTH_LESS = frozenset({"RULE", "POLICY", "TRIGGER", "SEQUENCE SET", "MATERIALIZED VIEW DATA"})
"""In a block: what may fail alone, and what would print a result that nobody wants to read."""

_FOREIGN_KEYS = frozenset({"FK CONSTRAINT", "COMMENT"})
"""Of what comes late, a comment is one on a foreign key."""

_OWNED = frozenset(
    {"AGGREGATE", "COLLATION", "DOMAIN", "FUNCTION", "OPERATOR", "PROCEDURE", "SEQUENCE", "TYPE"}
    | {"OPERATOR CLASS", "OPERATOR FAMILY", "TEXT SEARCH CONFIGURATION", "TEXT SEARCH DICTIONARY"}
    | {"VIEW", "MATERIALIZED VIEW"}
)


def restore_script(contents: Contents, files: dict[int, str], title: str) -> Iterator[str]:
    """`restore.sql`: every table in one transaction, those without rows written out in it.

    `files` holds the names of the tables' files by OID; `title` says in one line what this is.
    """
    yield f"-- {one_line(title)}\n-- psql -f restore.sql brings every table back, in one transaction.\n\n"
    yield "\\set ON_ERROR_STOP on\n\\set QUIET on\n\\set cdc_session on\n" + _WHOLE + _PREAMBLE
    yield from _defer(contents.tables)
    for table in contents.tables:
        yield "\n" + _unless_skipped([table.table.oid], _whole(table, files))
    yield f"\n\\if :cdc_aside\n\\else\nSET CONSTRAINTS ALL IMMEDIATE;\n:cdc_on\n{_AGAIN}{undefer_keys()}"
    yield from map(_reattach, contents.tables)
    yield from _hierarchies(contents.tables)
    for table in contents.tables:
        yield from _if_gone(table, [*_foreign_keys(table)])
    yield "\\if :{?cdc_with_delta}\n"
    for table in contents.tables:
        yield _unless_skipped([table.table.oid], [_past_delta(table)])
    yield "\\endif\n"
    for dependent in contents.dependents:
        oids = {*dependent.dependent.tables, *([dependent.owner] if dependent.owner else [])}
        yield _unless_skipped(sorted(oids), [_dependent(dependent)])
    yield "\\endif\n\nCOMMIT;\n\\unset cdc_session\n\\endif\n"


def _hierarchies(tables: Sequence[TableContents]) -> Iterator[str]:
    """Partitioned tables that were gone, and partitions' indexes, once all partitions are there.

    An index of a partitioned table counts, so that a foreign key can point to its columns, or that the index
    of a table further up takes it, once it has those of all partitions.
    """
    partitioned = [table for table in tables if table.table.kind is not Kind.ORDINARY]
    for table in partitioned:
        yield from _if_gone(table, [*_if_parent(table, [*_attachments(table)], gone=True)])
    for table in partitioned:
        yield from _if_gone(table, [*_details(table)])
    for table in tables:
        late = [*_late(table)]
        yield from _if_gone(table, [*_if_parent(table, late, gone=True)] if table in partitioned else late)
    for table in partitioned:
        yield from _if_gone(table, [*_if_parent(table, [*_attachments(table), *_late(table)], gone=False)])


def before_rows(contents: TableContents, title: str) -> Iterator[str]:
    """A table's file up to its rows: what it needs, and the table without anything on it."""
    yield f"-- {one_line(title)}\n"
    yield "-- psql -f brings the table back, in one transaction; where that is not safe, nothing is changed.\n\n"
    yield "\\set ON_ERROR_STOP on\n\\set QUIET on\n" + _WHOLE
    yield "\\if :{?cdc_session}\n\\else\n" + _PREAMBLE + "\\endif\n"
    yield from _start(contents)
    yield from _stage(contents)
    if contents.rows:
        yield contents.rows.copy_statement


def after_rows(contents: TableContents, dependents: Sequence[DependentContents]) -> Iterator[str]:
    """A table's file from its rows on: what hangs on it, or the merge where it was there already."""
    yield from _settle(contents)
    oid = contents.table.oid
    hanging = [d for d in dependents if oid in d.dependent.tables or oid == d.owner]
    yield "\\if :{?cdc_session}\n\\else\n\\if :cdc_aside\n\\else\nSET CONSTRAINTS ALL IMMEDIATE;\n:cdc_on\n" + _AGAIN
    yield _reattach(contents)
    yield from _if_gone(contents, [*_late(contents), *_foreign_keys(contents)])
    yield from map(_dependent, hanging)
    yield "\\endif\nCOMMIT;\n\\endif\n\\endif\n"


def _defer(tables: Sequence[TableContents]) -> Iterator[str]:
    """Lock the tables that are there, and let foreign keys among them wait until all are back."""
    yield "\\if :cdc_aside\n\\else\n\\set cdc_chosen 0\n"
    for table in tables:
        yield _unless_skipped([table.table.oid], [f"\\set cdc_chosen :cdc_chosen ',{table.table.oid}'\n"])
    names = ", ".join(f"{literal(_name(table))}" for table in tables)
    yield f"SELECT pg_catalog.set_config('cdc.tables', ARRAY[{names}]::pg_catalog.text[]::pg_catalog.text, true)"
    yield " AS cdc_tables \\gset\n"
    yield lock_all([table.table for table in tables]) + defer_keys([table.table for table in tables]) + "\\endif\n"


def _unless_skipped(oids: Sequence[int], lines: Iterable[str]) -> str:
    """Lines for what belongs to these tables, if not all of them are left out."""
    skipped = "".join(f"\\if :{{?cdc_skip_{oid}}}\n" for oid in oids)
    text = "".join(lines)
    return skipped + "".join(f"\\else\n{text}\\endif\n" for _ in oids)


def _whole(contents: TableContents, files: dict[int, str]) -> Iterator[str]:
    """A table in `restore.sql`."""
    if contents.table.oid in files:
        yield f"\\ir {argument(files[contents.table.oid])}\n"
    elif contents.table.kind is Kind.ORDINARY:
        yield from _without_rows(contents)
    else:
        yield "\\if :cdc_aside\n\\else\n"
        yield from _start(contents)
        yield from _if_gone(contents, [*_definition(contents.definition)])
        # Its rows are in its partitions, but the sequence that gave them their numbers is its own.
        yield from (advance(_name(contents), sequence) for sequence in contents.sequences)
        yield "\\endif\n"


def _without_rows(contents: TableContents) -> Iterator[str]:
    """A table that had no rows: where it is there, `missing` has nothing to do."""
    yield from _start(contents)
    load = _variable("load", contents)
    wanted = " OR ".join(f":'{name}'::pg_catalog.bool" for name in (_gone(contents), "cdc_replace", "cdc_aside"))
    yield f"SELECT {wanted} AS {load} \\gset\n"
    yield f"\\if :{{?{delta_variable(contents.table.oid)}}}\n\\set {load} on\n\\endif\n"
    yield f"\\if :{load}\n"
    yield from _stage(contents)
    yield from _settle(contents)
    yield f"\\elif :{{?cdc_report}}\n\\echo cdc: {contents.table.oid} 0 0 0\n\\endif\n"


def _start(contents: TableContents) -> Iterator[str]:
    """What the table needs, and whether it is gone, in a psql variable of its own."""
    yield f"\n-- {one_line(str(contents.table))}\n"
    yield _schema(contents)
    yield from map(_need, contents.needs)
    yield from map(_dependent, contents.functions_before)
    name = literal(_name(contents))
    yield f"SELECT pg_catalog.to_regclass({name}) IS NULL AS {_gone(contents)} \\gset\n"


def _stage(contents: TableContents) -> Iterator[str]:
    """The table without anything on it, under its own name, ready to take the rows.

    Where another has the right to that name, it is UNLOGGED: a publication would send its rows on as that one's.
    """
    gone = _gone(contents)
    yield f"\\if :{gone}\n\\else\n{put_aside(contents.table)}\\endif\n"
    yield from _definition(contents.definition)
    yield f"SELECT NOT :'{gone}'::pg_catalog.bool OR :'cdc_aside'::pg_catalog.bool AS cdc_unlogged \\gset\n"
    yield f"\\if :cdc_unlogged\nALTER TABLE {_name(contents)} SET UNLOGGED;\n\\endif\n"


def _settle(contents: TableContents) -> Iterator[str]:
    """Count the rows that were loaded, and make of them what the mode asks for."""
    table, rows = contents.table, contents.rows.count if contents.rows else 0
    complaint = literal(f"{table}: not all of its {rows} rows were loaded; nothing was changed")
    yield block(
        f"    IF (SELECT pg_catalog.count(*) FROM ONLY {_name(contents)}) <> {rows} THEN\n"
        f"        RAISE EXCEPTION '%', {complaint};\n"
        "    END IF;\n"
    )
    yield _prove(contents)
    yield f"\\set cdc_added {rows}\n\\set cdc_differ 0\n\\set cdc_removed 0\n"
    yield f"\\set cdc_did {argument(f'it was gone and is back, with all {rows} rows of the backup.')}\n"
    yield _with_delta(contents)
    yield "\\if :cdc_aside\n\\set cdc_did 'the rows of the backup are in the other schema.'\n"
    yield leave_aside(contents, _gone(contents))
    yield f"\\elif :{_gone(contents)}\n"
    yield from _details(contents)
    yield f"\\else\n{merge(contents)}"
    yield "\\set cdc_did :cdc_added ' rows of the backup were missing and are back; ' :cdc_differ"
    yield " ' rows differ from the backup and were kept.'\n\\endif\n"
    yield "\\if :{?cdc_report}\n"
    yield f"\\echo cdc: {table.oid} :cdc_added :cdc_differ :cdc_removed\n"
    yield f"\\else\n\\echo {argument(f'{table}:')} :cdc_did\n\\endif\n"


def _with_delta(contents: TableContents) -> str:
    """Add the rows that were saved after the backup, where somebody says in which file they are."""
    variable = delta_variable(contents.table.oid)
    return (
        f"\\if :{{?{variable}}}\n\\ir :{variable}\n"
        f"SELECT pg_catalog.count(*) AS cdc_added FROM ONLY {_name(contents)} \\gset\n"
        "\\set cdc_did 'it was gone and is back, with ' :cdc_added ' rows, those of the delta included.'\n\\endif\n"
    )


def _past_delta(contents: TableContents) -> str:
    """Let the table's sequences go on behind the rows of a delta, which came after the backup saw the sequences.

    A partition's rows, and a child's, have their numbers from the sequence of the table above.
    """
    numbers = {column.name for column in contents.table.columns if column.type in _NUMBERS}
    name = _name(contents)
    return "".join(
        with_sequence(
            name,
            sequence,
            f"""\
    EXECUTE pg_catalog.format(
        'SELECT pg_catalog.setval(%L, r.v) FROM %s AS t, pg_catalog.pg_sequence AS q,
             (SELECT pg_catalog.max(x.%I)::pg_catalog.int8, pg_catalog.min(x.%I)::pg_catalog.int8 FROM %s AS x)
                 AS m (largest, smallest),
             LATERAL (SELECT CASE WHEN q.seqincrement > 0 THEN m.largest ELSE m.smallest END) AS r (v)
         WHERE q.seqrelid = %L::pg_catalog.regclass AND r.v BETWEEN q.seqmin AND q.seqmax
           AND (CASE WHEN q.seqincrement > 0 THEN r.v > t.last_value ELSE r.v < t.last_value END
                OR r.v = t.last_value AND NOT t.is_called)',
        s, s, {literal(sequence.column)}, {literal(sequence.column)}, {literal(name)}, s);
""",
        )
        for sequence in contents.sequences
        if sequence.column in numbers
    )


def _prove(contents: TableContents) -> str:
    """Refuse rows that are not those which the drill has seen."""
    variable = _variable("fingerprint", contents)
    columns = [column.name for column in contents.table.columns]
    computed = fingerprint(contents.table.identifier, columns).as_string(None)
    return (
        f"\\if :{{?{variable}}}\nSELECT {computed} = :'{variable}' AS cdc_proven \\gset\n\\if :cdc_proven\n\\else\n"
        + block(
            f"    RAISE EXCEPTION '% nothing was changed',"
            f" {literal(f'{contents.table}: the rows are not those that were backed up;')};\n"
        )
        + "\\endif\n\\endif\n"
    )


def _definition(entry: Entry) -> Iterator[str]:
    """CREATE TABLE where, and by which access method, the table was kept."""
    if entry.tablespace:
        yield tolerant(f"SET LOCAL default_tablespace = {identifier(entry.tablespace)}")
    if entry.access_method:
        yield f"SET LOCAL default_table_access_method = {identifier(entry.access_method)};\n"
    yield entry.text
    yield block(forget_default_privileges(identifier(entry.schema, entry.tag)))
    if entry.tablespace:
        yield "SET LOCAL default_tablespace = '';\n"


def _details(contents: TableContents) -> Iterator[str]:
    """All that hangs on a table which was gone and has its rows again; the owner and the grants last."""
    yield from map(_dependent, contents.functions_within)
    for entry in contents.details:
        if entry.dump_id in contents.lent:
            yield _need(contents.lent[entry.dump_id])
            yield _take_back(entry)
        elif entry.kind != "SEQUENCE SET" or entry.depends_on[0] not in contents.lent:
            yield tolerant(entry.text) if entry.kind in _QUIET_OR_WORTH_LESS else f"{entry.text.rstrip()}\n"
            if entry.kind == "SEQUENCE":
                yield block(forget_default_privileges(identifier(entry.schema, entry.tag)))
    # Only a sequence that was there already, for the sake of others, is not where it should be.
    yield from (advance(_name(contents), sequence) for sequence in contents.sequences if sequence.name or contents.lent)
    yield from map(tolerant, contents.statistics)
    if contents.table.kind is Kind.ORDINARY:
        # After the indexes: a partition's own ones are recognized when it is attached, others are made.
        yield from _attachments(contents)
    yield tolerant(f"ALTER TABLE {_name(contents)} OWNER TO {identifier(contents.definition.owner)}")
    for entry in contents.grants:
        yield from map(tolerant, statements(entry.text))
    yield from map(tolerant, contents.publications)


def _attachments(contents: TableContents) -> Iterator[str]:
    """What makes a table that was gone a partition again."""
    yield from (tolerant(entry.text) for entry in contents.attachments)


def _reattach(contents: TableContents) -> str:
    """Make a table that was there, but detached, a partition again."""
    if not contents.attachments:
        return ""
    gone, what = _gone(contents), literal(f"attached again: {one_line(str(contents.table))}")
    attached = (
        f"(SELECT relispartition FROM pg_catalog.pg_class WHERE oid = {literal(_name(contents))}::pg_catalog.regclass)"
    )
    return (
        f"\\if :{{?{gone}}}\n\\if :{gone}\n\\else\n"
        + block(
            f"    IF NOT {attached} THEN\n"
            + "".join(attempt(entry.text) for entry in contents.attachments)
            + f"    IF {attached} THEN\n    RAISE WARNING '%', {what};\n    END IF;\n    END IF;\n"
        )
        + "\\endif\n\\endif\n"
    )


def _late(contents: TableContents) -> Iterator[str]:
    """What a table that was gone has to do with its partitioned one."""
    yield from (tolerant(entry.text) for entry in contents.late if entry.kind not in _FOREIGN_KEYS)


def _foreign_keys(contents: TableContents) -> Iterator[str]:
    """The foreign keys of a table that was gone, with their comments."""
    for entry in contents.late:
        if entry.kind in _FOREIGN_KEYS:
            yield _foreign_key(entry.text) if entry.kind == "FK CONSTRAINT" else tolerant(entry.text)


def _if_parent(contents: TableContents, lines: list[str], *, gone: bool) -> Iterator[str]:
    """Lines for a partition whose partitioned table was gone as well, or was not, or is none of the backup's."""
    if not contents.attachments:
        yield from lines if gone else ()
    elif lines:
        variable = f"cdc_gone_{contents.table.parents[0]}"
        yield f"\\set cdc_parent_gone off\n\\if :{{?{variable}}}\n\\set cdc_parent_gone :{variable}\n\\endif\n"
        yield "\\if :cdc_parent_gone\n" + ("" if gone else "\\else\n")
        yield from lines
        yield "\\endif\n"


def _if_gone(contents: TableContents, lines: list[str]) -> Iterator[str]:
    """Lines for a table that was gone; a table that was left out has no such variable."""
    if lines:
        yield from _if_known_to_be_gone(contents.table.oid, lines)


def _if_known_to_be_gone(oid: int, lines: list[str]) -> Iterator[str]:
    gone = f"cdc_gone_{oid}"
    yield f"\\if :{{?{gone}}}\n\\if :{gone}\n"
    yield from lines
    yield "\\endif\n\\endif\n"


def _schema(contents: TableContents) -> str:
    """Make the table's schema where it is gone, with its owner and what was granted on it."""
    schema = contents.table.schema
    return block(
        f"    IF NOT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = {literal(schema)}) THEN\n"
        f"        CREATE SCHEMA {identifier(schema)};\n"
        + "".join(attempt(statement) for statement in contents.schema_statements)
        + "    END IF;\n"
    )


def _need(need: NeedContents) -> str:
    """Make what tables need where it cannot be found."""
    return unless_there(need.need.kind, need.need.names, need.need.arguments, "".join(map(_made, need.entries)))


def _dependent(contents: DependentContents) -> str:
    """Make what hung on the tables where it cannot be found; where it cannot be made, say so and go on."""
    dependent = contents.dependent
    if dependent.kind == "table constraint":
        body = _foreign_key_body(dependent.statements[0]) + "".join(map(attempt, dependent.statements[1:]))
    elif contents.entries:
        body = _all_or_nothing(dependent.identity, "".join(map(_made, contents.entries)))
    else:
        body = "".join(map(attempt, dependent.statements))
    if dependent.kind == "default value":
        body = f"    IF pg_catalog.to_regclass({literal(identifier(*dependent.names[:2]))}) IS NULL THEN\n"
        body += f"        RETURN;\n    END IF;\n{attempt(dependent.statements[0])}"
    text = unless_there(dependent.kind, dependent.names, dependent.arguments, body)
    if dependent.kind == "default value":
        # Where the table whose sequence it draws on is there, somebody has taken the default away on purpose.
        return "".join(line for oid in dependent.tables for line in _if_known_to_be_gone(oid, [text]))
    return text


def _take_back(entry: Entry) -> str:
    """Let a sequence that is there, for the sake of other tables, be owned by a table that was made just now."""
    name = identifier(entry.schema, entry.tag)
    said = literal(f"the sequence {one_line(name)} belongs to another table by now; nothing was changed")
    return block(
        "    IF EXISTS (SELECT FROM pg_catalog.pg_depend WHERE classid = 'pg_catalog.pg_class'::pg_catalog.regclass\n"
        "                   AND refclassid = classid AND deptype IN ('a', 'i')\n"
        f"                   AND objid = {literal(name)}::pg_catalog.regclass) THEN\n"
        f"        RAISE EXCEPTION '%', {said};\n    END IF;\n"
        # OWNED BY demands the same owner, and the table gets its own one later, with all that it owns.
        f"    ALTER SEQUENCE {name} OWNER TO CURRENT_USER;\n"
    )


def _made(entry: Entry) -> str:
    """Inside of a block, the object of the entry, with its owner."""
    if entry.kind == "ACL":
        return "".join(map(attempt, statements(entry.text)))
    made = f"    EXECUTE {dollars(entry.text.strip())};\n"
    if entry.kind in ("SEQUENCE", "VIEW", "MATERIALIZED VIEW"):
        made += forget_default_privileges(identifier(entry.schema, entry.tag))
    if entry.kind == "MATERIALIZED VIEW" and entry.access_method:
        made = f"    SET LOCAL default_table_access_method = {identifier(entry.access_method)};\n{made}"
    if entry.kind in _OWNED and entry.owner:
        # What a DROP calls the object is what an ALTER calls it; pg_restore does it so as well.
        what = entry.drop_statement.strip().removeprefix("DROP ").removesuffix(";")
        made += attempt(f"ALTER {what} OWNER TO {identifier(entry.owner)}")
        if entry.kind in ("FUNCTION", "PROCEDURE") and "SECURITY DEFINER" in entry.text:
            # With the rights of whoever restores it, anybody who may call it would have them.
            made += (
                "    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles"
                f" WHERE rolname = {literal(entry.owner)} AND pg_catalog.pg_has_role(oid, 'MEMBER')) THEN\n"
                f"    EXECUTE {dollars(f'ALTER {what} SECURITY INVOKER')};\n"
                f"    RAISE WARNING 'SECURITY INVOKER, for its owner cannot be set: %', {literal(one_line(what))};\n"
                "    END IF;\n"
            )
    return made


def _all_or_nothing(what: str, body: str) -> str:
    return (
        f"    BEGIN\n{body}    EXCEPTION WHEN {TOLERATED} THEN\n"
        f"    RAISE WARNING 'not brought back: % (%)', {literal(one_line(what))}, SQLERRM;\n    END;\n"
    )


def _foreign_key(statement: str) -> str:
    return block(_foreign_key_body(statement))


def _foreign_key_body(statement: str) -> str:
    """Add the foreign key; unproven where rows that it points to are gone, not at all where the table is."""
    statement = statement.strip().removesuffix(";")
    said = literal(one_line(statement))
    return (
        f"    BEGIN\n    BEGIN\n    EXECUTE {dollars(statement)};\n    EXCEPTION WHEN foreign_key_violation THEN\n"
        f"    EXECUTE {dollars(statement.removesuffix(' NOT VALID') + ' NOT VALID')};\n"
        "    RAISE WARNING 'rows that this foreign key points to are gone, so it came back NOT VALID: %',"
        f" {said};\n    END;\n"
        f"    EXCEPTION WHEN {TOLERATED} OR foreign_key_violation THEN\n"
        f"    RAISE WARNING 'not brought back: % (%)', {said}, SQLERRM;\n    END;\n"
    )


def _name(contents: TableContents) -> str:
    return identifier(contents.table.schema, contents.table.name)


def _gone(contents: TableContents) -> str:
    return _variable("gone", contents)


def _variable(what: str, contents: TableContents) -> str:
    return f"cdc_{what}_{contents.table.oid}"
