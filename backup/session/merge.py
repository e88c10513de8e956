r"""What psql does with a table that is there already: put it aside, compare, bring in what it lacks.

The psql variable `cdc_mode`, which the setting `cdc.mode` repeats for blocks, says how: `missing` adds rows
that are missing, `replace` makes the table what the backup holds, `aside` leaves it alone and moves the
backup's rows into the schema `cdc_schema`. Who types `psql -f` sets none of them and gets `by hand`, which is
`missing` but refuses where a person should choose.
"""

import hashlib
from collections.abc import Sequence

from backup.postgres.tables import Table
from backup.session.contents import SequenceContents, TableContents
from backup.session.statements import block, identifier, literal

_COMMENT = "pg_catalog.obj_description(oid, 'pg_constraint')"
_PUT_ASIDE = "cdc-backup: put aside"
_LOADED = "cdc-backup: loaded"
_UNCHANGED = "nothing was changed"
_LONGEST = 63
"""Bytes of a name: NAMEDATALEN less its end."""
_ASIDE = "cdc-backup restore --mode aside brings the backup's rows into a schema of their own, to compare and merge."
_WAY_OUT = (
    "cdc-backup restore --mode aside brings the backup's rows into a schema of their own,"
    " --mode replace makes the table what the backup holds."
)


def put_aside(table: Table) -> str:
    """Refuse a table that the rows do not fit, else give it another name for the time being."""
    name = literal(identifier(table.schema, table.name))
    # The columns whose values a row of the backup brings, or computes.
    names, types = ([getattr(column, part) for column in table.columns] for part in ("name", "type"))
    return (
        block(
            f"""\
    IF pg_catalog.current_setting('cdc.mode') = 'aside' THEN
        RETURN;
    END IF;
    IF (SELECT relkind FROM pg_catalog.pg_class WHERE oid = there) <> {literal(table.kind)} THEN
        RAISE EXCEPTION '%', {literal(f"{table} is no table of the same sort any more; {_UNCHANGED}")}
            USING HINT = {literal(_ASIDE)};
    END IF;
    SELECT pg_catalog.string_agg(pg_catalog.format('%I %s', b.name, b.type), ', ') INTO change
    FROM unnest({_array(names)}, {_array(types)}) AS b (name, type)
    WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_attribute AS a
                      WHERE a.attrelid = there AND a.attname = b.name AND a.attnum > 0 AND NOT a.attisdropped
                        AND pg_catalog.format_type(a.atttypid, a.atttypmod) = b.type);
    IF change IS NOT NULL THEN
        RAISE EXCEPTION '% has no such columns any more: %; {_UNCHANGED}', {literal(str(table))}, change
            USING HINT = {literal(_ASIDE)};
    END IF;
    SELECT pg_catalog.string_agg(pg_catalog.quote_ident(a.attname), ', ') INTO change
    FROM pg_catalog.pg_attribute AS a
    WHERE a.attrelid = there AND a.attnum > 0 AND NOT a.attisdropped AND a.attname <> ALL ({_array(names)})
      -- A row that is added gets a default there, or nothing.
      AND (pg_catalog.current_setting('cdc.mode') <> 'missing'
           OR a.attnotnull AND NOT a.atthasdef AND a.attidentity = '');
    IF change IS NOT NULL THEN
        RAISE EXCEPTION '% has columns that the backup does not know: %; {_UNCHANGED}', {literal(str(table))}, change
            USING HINT = {literal(_ASIDE)};
    END IF;
""",
            declarations=f"    there pg_catalog.regclass := {name};\n    change pg_catalog.text;\n",
        )
        + f"ALTER TABLE {identifier(table.schema, table.name)} RENAME TO {identifier(_PUT_ASIDE)};\n"
    )


def aside_name(schema: str, name: str) -> str:
    """What a table is called in the other schema: with its own schema's name before, unless that is `public`.

    Of what is longer than a name may be the end is a hash instead: PostgreSQL would cut it, and make two names one.
    """
    whole = name if schema == "public" else f"{schema}.{name}"
    if len(_bytes(whole)) <= _LONGEST:
        return whole
    end, begin = f"~{hashlib.sha256(_bytes(whole)).hexdigest()[:8]}", whole
    while len(_bytes(begin + end)) > _LONGEST:
        begin = begin[:-1]
    return begin + end


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def leave_aside(contents: TableContents, gone: str) -> str:
    """Move the backup's rows into the other schema; a table that was there gets its name back."""
    table = contents.table
    name = identifier(table.schema, table.name)
    moved = aside_name(table.schema, table.name)
    # The table's own defaults come later, and so not at all; what is kept aside holds on to nobody's sequence.
    defaults = "".join(
        f"ALTER TABLE {name} ALTER COLUMN {identifier(column)} DROP DEFAULT;\n"
        for column in dict.fromkeys(sequence.column for sequence in contents.sequences if sequence.name)
    )
    return (
        defaults
        + block(
            "    FOR parent IN SELECT inhparent::pg_catalog.regclass FROM pg_catalog.pg_inherits\n"
            f"                  WHERE inhrelid = {literal(name)}::pg_catalog.regclass LOOP\n"
            f"        EXECUTE pg_catalog.format({literal(f'ALTER TABLE {name} NO INHERIT '.replace('%', '%%') + '%s')},"
            " parent);\n"
            "    END LOOP;\n"
            "    IF EXISTS (SELECT FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n"
            " ON n.oid = c.relnamespace\n"
            f"               WHERE c.relname = {literal(moved)}::pg_catalog.name"
            " AND n.nspname = pg_catalog.current_setting('cdc.schema')) THEN\n"
            f"        RAISE EXCEPTION '%.% is there already, from another restore; {_UNCHANGED}',\n"
            f"            pg_catalog.current_setting('cdc.schema'), {literal(moved)}\n"
            "            USING HINT = 'Drop that schema, or give it another name.';\n    END IF;\n",
            declarations="    parent pg_catalog.regclass;\n",
        )
        + (f"ALTER TABLE {name} RENAME TO {identifier(moved)};\n" if moved != table.name else "")
        + f'ALTER TABLE {identifier(table.schema, moved)} SET SCHEMA :"cdc_schema";\n'
        # From the copy of what is UNLOGGED nothing is published either.
        + f'ALTER TABLE :"cdc_schema".{identifier(moved)} SET LOGGED;\n'
        + f"\\if :{gone}\n\\else\nALTER TABLE {identifier(table.schema, _PUT_ASIDE)} RENAME TO"
        + f" {identifier(table.name)};\n\\endif\n"
    )


def defer_keys(tables: Sequence[Table]) -> str:
    """Let the foreign keys among the tables wait for the end: rows that they point to may come back later.

    Only those of the psql variable `cdc_chosen`, OIDs in the backup. What undoes it is in `cdc_undefer`.
    """
    names = ", ".join(f"({table.oid}, {literal(identifier(table.schema, table.name))})" for table in tables)
    return f"""\
SELECT coalesce(pg_catalog.string_agg(pg_catalog.format(
           'ALTER TABLE %s ALTER CONSTRAINT %I DEFERRABLE INITIALLY DEFERRED;', c.conrelid::pg_catalog.regclass,
           c.conname), ' '), '') AS cdc_defer,
       coalesce(pg_catalog.string_agg(pg_catalog.format(
           'ALTER TABLE %s ALTER CONSTRAINT %I %s;', c.conrelid::pg_catalog.regclass, c.conname,
           CASE WHEN c.condeferrable THEN 'DEFERRABLE INITIALLY IMMEDIATE' ELSE 'NOT DEFERRABLE' END), ' '),
           '') AS cdc_undefer
FROM pg_catalog.pg_constraint AS c
JOIN (VALUES {names}) AS a (oid, name) ON pg_catalog.to_regclass(a.name) = c.conrelid AND a.oid IN (:cdc_chosen)
JOIN (VALUES {names}) AS b (oid, name) ON pg_catalog.to_regclass(b.name) = c.confrelid AND b.oid IN (:cdc_chosen)
WHERE c.contype = 'f' AND c.conparentid = 0 AND NOT c.condeferred \\gset
:cdc_defer
"""


def undefer_keys() -> str:
    """What `defer_keys` did, undone."""
    return ":cdc_undefer\n"


def merge(contents: TableContents) -> str:
    """Bring the backup's rows into the table that was put aside, past its triggers and rules.

    It gets its name back before: under the name that it has at that moment a publication sends its rows on.

    Sets the psql variables `cdc_added`, `cdc_differ` and `cdc_removed` to numbers of rows, and adds to `cdc_on`
    what switches triggers and rules on again: that has to wait until no deferred constraint is to be checked.
    """
    table = contents.table
    loaded, there = _loaded(table), identifier(table.schema, table.name)
    columns = ", ".join(identifier(column.name) for column in table.columns if not column.generated)
    into = f" ({columns}) OVERRIDING SYSTEM VALUE" if columns else ""
    missing = missing_rows(table, loaded, there)
    return (
        f"ALTER TABLE {there} RENAME TO {identifier(_LOADED)};\n"
        + f"ALTER TABLE {identifier(table.schema, _PUT_ASIDE)} RENAME TO {identifier(table.name)};\n"
        + _switches(table)
        + ":cdc_off\n"
        + _let_in(table)
        + f"\\set cdc_differ 0\n\\set cdc_removed 0\n\\if :cdc_replace\n{_refuse_cascade(table)}"
        + f"""\
DELETE FROM ONLY {there} AS t WHERE {_surplus(table)};
\\set cdc_removed :ROW_COUNT
{_overwrite(table)}INSERT INTO {there}{into} SELECT {columns} {missing};
SELECT :ROW_COUNT + :cdc_overwritten AS cdc_added, :cdc_removed + :cdc_overwritten AS cdc_removed \\gset
"""
        + _refuse_difference(table, both_ways=True)
        + "\\else\n"
        + (_count_differing(table) if table.key else _refuse_by_hand(table))
        + f"INSERT INTO {there}{into} SELECT {columns} {missing};\n"
        + "\\set cdc_added :ROW_COUNT\n"
        + (_refuse_missing(table) if table.key else _refuse_difference(table, both_ways=False))
        + "\\endif\n"
        + "".join(advance(there, sequence) for sequence in contents.sequences)
        + f"DROP TABLE {loaded};\n"
    )


def _switches(table: Table) -> str:
    """Statements, in psql variables, that switch off whatever would fire, hide or refuse rows, and on again."""
    there = literal(identifier(table.schema, table.name))
    return f"""\
SELECT coalesce(pg_catalog.string_agg(pg_catalog.format('ALTER TABLE %s %s;', {there}, off), ' '), '') AS cdc_off,
       pg_catalog.concat_ws(' ', :'cdc_on', pg_catalog.string_agg(
           pg_catalog.format('ALTER TABLE %s %s;', {there}, "on"), ' ')) AS cdc_on
FROM (
    SELECT pg_catalog.format('DISABLE TRIGGER %I', tgname),
           pg_catalog.format('ENABLE%s TRIGGER %I', CASE tgenabled WHEN 'R' THEN ' REPLICA' WHEN 'A' THEN ' ALWAYS' END,
                             tgname)
    FROM pg_catalog.pg_trigger
    WHERE tgrelid = {there}::pg_catalog.regclass AND NOT tgisinternal AND tgenabled <> 'D'
    UNION ALL
    SELECT pg_catalog.format('DISABLE RULE %I', rulename),
           pg_catalog.format('ENABLE%s RULE %I', CASE ev_enabled WHEN 'R' THEN ' REPLICA' WHEN 'A' THEN ' ALWAYS' END,
                             rulename)
    FROM pg_catalog.pg_rewrite WHERE ev_class = {there}::pg_catalog.regclass AND ev_enabled <> 'D'
    UNION ALL
    SELECT 'NO FORCE ROW LEVEL SECURITY', 'FORCE ROW LEVEL SECURITY'
    FROM pg_catalog.pg_class WHERE oid = {there}::pg_catalog.regclass AND relforcerowsecurity
    UNION ALL
    -- What let rows stay that violate it must let them in again.
    SELECT pg_catalog.format('DROP CONSTRAINT %I', conname),
           pg_catalog.format('ADD CONSTRAINT %I %s', conname, pg_catalog.pg_get_constraintdef(oid))
           || (CASE WHEN {_COMMENT} IS NULL THEN '' ELSE pg_catalog.format(
                   '; COMMENT ON CONSTRAINT %I ON %s IS %L', conname, {there}, {_COMMENT}) END)
    FROM pg_catalog.pg_constraint
    WHERE conrelid = {there}::pg_catalog.regclass AND contype IN ('c', 'f') AND NOT convalidated
      AND conislocal AND conparentid = 0
) AS x (off, "on") \\gset
"""


def _let_in(table: Table) -> str:
    """Let in rows whose foreign keys point to rows that are gone, of tables that are not restored with this one.

    The constraint goes, and what brings it back, NOT VALID, adds up in the setting `cdc.again`.
    """
    loaded, there = _loaded(table), identifier(table.schema, table.name)
    return block(
        f"""\
    FOR key IN
        SELECT c.conname, c.confrelid::pg_catalog.regclass AS other,
               pg_catalog.pg_get_constraintdef(c.oid) AS definition,
               pg_catalog.obj_description(c.oid, 'pg_constraint') AS comment,
               (SELECT pg_catalog.string_agg(pg_catalog.format('b.%I IS NOT NULL', a.attname), ' AND ')
                FROM pg_catalog.pg_attribute AS a WHERE a.attrelid = c.conrelid AND a.attnum = ANY (c.conkey)) AS given,
               (SELECT pg_catalog.string_agg(pg_catalog.format('r.%I OPERATOR(%I.%s) b.%I', f.attname, s.nspname,
                                                               o.oprname, a.attname), ' AND ')
                FROM unnest(c.conkey, c.confkey, c.conpfeqop) AS k (conkey, confkey, operator)
                JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.conrelid AND a.attnum = k.conkey
                JOIN pg_catalog.pg_attribute AS f ON f.attrelid = c.confrelid AND f.attnum = k.confkey
                JOIN pg_catalog.pg_operator AS o ON o.oid = k.operator
                JOIN pg_catalog.pg_namespace AS s ON s.oid = o.oprnamespace) AS matches
        FROM pg_catalog.pg_constraint AS c
        WHERE c.conrelid = {literal(there)}::pg_catalog.regclass AND c.contype = 'f' AND c.conparentid = 0
          AND c.confrelid <> c.conrelid
          AND NOT EXISTS (SELECT FROM unnest(coalesce(nullif(pg_catalog.current_setting('cdc.tables', true), ''),
                                                      '{{}}')::pg_catalog.text[]) AS t (name)
                          WHERE pg_catalog.to_regclass(t.name) = c.confrelid)
    LOOP
        EXECUTE pg_catalog.format('SELECT EXISTS (SELECT FROM ONLY %s AS b WHERE %s AND NOT EXISTS (SELECT FROM %s AS r'
                                  ' WHERE %s))', {literal(loaded)}, key.given, key.other, key.matches) INTO dangling;
        IF dangling THEN
            EXECUTE pg_catalog.format('ALTER TABLE %s DROP CONSTRAINT %I', {literal(there)}, key.conname);
            PERFORM pg_catalog.set_config('cdc.again', pg_catalog.concat_ws(' ',
                pg_catalog.current_setting('cdc.again', true),
                pg_catalog.format('ALTER TABLE %s ADD CONSTRAINT %I %s NOT VALID;', {literal(there)}, key.conname,
                                  pg_catalog.regexp_replace(key.definition, ' NOT VALID$', '')),
                pg_catalog.format('COMMENT ON CONSTRAINT %I ON %s IS %L;', key.conname, {literal(there)}, key.comment)),
                true);
            RAISE WARNING 'rows of % that this foreign key of % points to are gone, so it came back NOT VALID: %',
                key.other, {literal(str(table))}, key.conname;
        END IF;
    END LOOP;
""",
        declarations="    key record;\n    dangling pg_catalog.bool;\n",
    )


def lock_all(tables: Sequence[Table]) -> str:
    """Lock those of the tables that are there, in one go and before anything else, or refuse.

    So a restore holds nobody up while it waits, nor for longer than `lock_timeout`.
    """
    names = ", ".join(f"({table.oid}, {literal(identifier(table.schema, table.name))})" for table in tables)
    return f"""\
SELECT coalesce('LOCK TABLE ONLY ' || pg_catalog.string_agg(c.oid::pg_catalog.regclass::pg_catalog.text, ', ONLY ')
                || ' IN ACCESS EXCLUSIVE MODE;', '') AS cdc_lock
FROM (VALUES {names}) AS t (oid, name) JOIN pg_catalog.pg_class AS c ON c.oid = pg_catalog.to_regclass(t.name)
WHERE t.oid IN (:cdc_chosen) AND c.relkind IN ('r', 'p') \\gset
:cdc_lock
"""


def missing_rows(table: Table, source: str, target: str) -> str:
    """FROM and WHERE of the rows of `source` that `target` does not have, called `b`.

    With a key, those whose key it does not have; without, of rows that are alike, as many as it has fewer of.
    """
    if table.key:
        return f"FROM ONLY {source} AS b WHERE NOT EXISTS (SELECT FROM ONLY {target} AS t WHERE {same_key(table)})"
    row = row_text(table)
    return (
        f'FROM (SELECT *, {row} AS "cdc row", row_number() OVER (PARTITION BY {row}) AS "cdc n"'
        f" FROM ONLY {source}) AS b"
        f' LEFT JOIN (SELECT {row} AS "cdc row", count(*) AS "cdc there" FROM ONLY {target} GROUP BY 1) AS t'
        ' USING ("cdc row") WHERE "cdc n" > coalesce("cdc there", 0)'
    )


def _count_differing(table: Table) -> str:
    loaded, there = _loaded(table), identifier(table.schema, table.name)
    return (
        f"SELECT count(*) AS cdc_differ FROM ONLY {there} AS t JOIN ONLY {loaded} AS b ON {same_key(table)}"
        f" WHERE {row_text(table, 't')} <> {row_text(table, 'b')} \\gset\n"
    )


def _refuse_by_hand(table: Table) -> str:
    """Without a key, a row that was changed looks like one that is missing: a person has to say so."""
    loaded, there = _loaded(table), identifier(table.schema, table.name)
    return block(
        "    IF pg_catalog.current_setting('cdc.mode') = 'by hand'\n"
        f"       AND EXISTS (SELECT FROM ONLY {there}) AND EXISTS (SELECT {missing_rows(table, loaded, there)}) THEN\n"
        f"        RAISE EXCEPTION '%', "
        f"{literal(f'{table} has rows, but no key to tell which of them are missing; {_UNCHANGED}')}\n"
        f"            USING HINT = {literal(_WAY_OUT)};\n    END IF;\n"
    )


def _refuse_missing(table: Table) -> str:
    loaded, there = _loaded(table), identifier(table.schema, table.name)
    return block(
        f"    IF EXISTS (SELECT {missing_rows(table, loaded, there)}) THEN\n"
        f"        RAISE EXCEPTION '%', {literal(f'{table}: not all missing rows came back; {_UNCHANGED}')};\n"
        "    END IF;\n"
    )


def _refuse_difference(table: Table, *, both_ways: bool) -> str:
    loaded, there = _loaded(table), identifier(table.schema, table.name)
    lacking = (
        f"EXISTS (SELECT {row_text(table)} FROM ONLY {loaded} EXCEPT ALL SELECT {row_text(table)} FROM ONLY {there})"
    )
    added = (
        f"EXISTS (SELECT {row_text(table)} FROM ONLY {there} EXCEPT ALL SELECT {row_text(table)} FROM ONLY {loaded})"
    )
    return block(
        f"    IF {lacking}{f' OR {added}' if both_ways else ''} THEN\n"
        f"        RAISE EXCEPTION '%', {literal(f'{table}: not all rows came back as they were; {_UNCHANGED}')};\n"
        "    END IF;\n"
    )


def _overwrite(table: Table) -> str:
    """Make the rows that differ what the backup holds, in their place: others may point to them."""
    loaded, there = _loaded(table), identifier(table.schema, table.name)
    settable = [c.name for c in table.columns if not c.generated and not c.always and c.name not in table.key]
    if not table.key or not settable:
        return "\\set cdc_overwritten 0\n"
    values = ", ".join(f"{identifier(column)} = b.{identifier(column)}" for column in settable)
    return (
        f"UPDATE ONLY {there} AS t SET {values} FROM ONLY {loaded} AS b"
        f" WHERE {same_key(table)} AND {row_text(table, 't')} <> {row_text(table, 'b')};\n"
        "\\set cdc_overwritten :ROW_COUNT\n"
    )


def _surplus(table: Table) -> str:
    """The condition of the rows of today, called `t`, that the backup has not, or, without a key, has fewer of."""
    loaded, there = _loaded(table), identifier(table.schema, table.name)
    if table.key:
        return f"NOT EXISTS (SELECT FROM ONLY {loaded} AS b WHERE {same_key(table)})"
    return (
        "t.ctid IN (SELECT s.ctid"
        f" FROM (SELECT ctid, {row_text(table)} AS r, row_number() OVER (PARTITION BY {row_text(table)}) AS n"
        f" FROM ONLY {there}) AS s"
        f" LEFT JOIN (SELECT {row_text(table)} AS r, count(*) AS n FROM ONLY {loaded} GROUP BY 1) AS b USING (r)"
        " WHERE s.n > coalesce(b.n, 0))"
    )


def _refuse_cascade(table: Table) -> str:
    """Refuse to delete rows where that would reach into other tables."""
    there = identifier(table.schema, table.name)
    return block(
        "    SELECT pg_catalog.string_agg(DISTINCT conrelid::pg_catalog.regclass::pg_catalog.text, ', ') INTO others\n"
        f"    FROM pg_catalog.pg_constraint WHERE contype = 'f' AND confrelid = {literal(there)}::pg_catalog.regclass\n"
        "      AND conrelid <> confrelid AND confdeltype IN ('c', 'n', 'd');\n"
        f"    IF others IS NOT NULL AND EXISTS (SELECT FROM ONLY {there} AS t WHERE {_surplus(table)}) THEN\n"
        f"        RAISE EXCEPTION 'rows of % that go would take or change rows of %; {_UNCHANGED}',"
        f" {literal(str(table))}, others\n            USING HINT = {literal(_ASIDE)};\n    END IF;\n",
        declarations="    others pg_catalog.text;\n",
    )


def advance(there: str, sequence: SequenceContents) -> str:
    """Let the column's sequence of today go on where the backup's stood, if it stands before that."""
    value, called = sequence.value, str(sequence.called).lower()
    return with_sequence(
        there,
        sequence,
        f"""\
    EXECUTE pg_catalog.format(
        'SELECT pg_catalog.setval(%L, {value}, {called}) FROM %s AS t, pg_catalog.pg_sequence AS q
         WHERE q.seqrelid = %L::pg_catalog.regclass
           AND (CASE WHEN q.seqincrement > 0 THEN t.last_value < {value} ELSE t.last_value > {value} END
                OR t.last_value = {value} AND {called} AND NOT t.is_called)', s, s, s);
""",
    )


def with_sequence(table: str, sequence: SequenceContents, body: str) -> str:
    """A block that runs `body` with the sequence's name in `s`, where there is one.

    One that is not the table's own may be somebody else's, who does not let it be set: that is said.
    """
    if sequence.name is None:
        return block(
            f"""\
    SELECT pg_catalog.pg_get_serial_sequence({literal(table)}, attname) INTO s FROM pg_catalog.pg_attribute
    WHERE attrelid = pg_catalog.to_regclass({literal(table)}) AND attname = {literal(sequence.column)}
      AND NOT attisdropped;
    IF s IS NULL THEN
        RETURN;
    END IF;
{body}""",
            declarations="    s pg_catalog.text;\n",
        )
    name = literal(identifier(*sequence.name))
    return block(
        f"""\
    IF s IS NULL THEN
        RETURN;
    END IF;
{body}EXCEPTION WHEN insufficient_privilege THEN
    RAISE WARNING 'the sequence % was not set (%)', s, SQLERRM;
""",
        declarations=f"    s pg_catalog.text := (SELECT {name} FROM pg_catalog.pg_class"
        f" WHERE oid = pg_catalog.to_regclass({name}) AND relkind = 'S');\n",
    )


def _loaded(table: Table) -> str:
    return identifier(table.schema, _LOADED)


def same_key(table: Table) -> str:
    """The condition that rows called `t` and `b` have the same key."""
    # The key's own operator: under an empty search path `=` finds none of an extension's, or another type's.
    pairs = zip(table.key, table.key_operators, strict=True)
    return " AND ".join(f"t.{identifier(name)} {operator} b.{identifier(name)}" for name, operator in pairs)


def row_text(table: Table, alias: str = "") -> str:
    """A row's text: sensitive to all that a person could see in it."""
    prefix = f"{alias}." if alias else ""
    columns = ", ".join(f"{prefix}{identifier(column.name)}" for column in table.columns if not column.generated)
    return f"ROW({columns})::pg_catalog.text"


def _array(values: list[str]) -> str:
    return f"ARRAY[{', '.join(map(literal, values))}]::pg_catalog.text[]"
