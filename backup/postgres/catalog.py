"""The whole catalog in one value, to tell whether a migration changed anything at all."""

from backup.postgres.tables import Connection

# What a migration makes, in words rather than in OIDs and transaction numbers: those change also when
# nothing does, by VACUUM FULL or by a statement that was rolled back and tried again.
_DIGEST = """
with schemas as (
    select oid, nspname::text from pg_namespace
    where nspname <> 'information_schema' and not starts_with(nspname::text, 'pg_')
), lines (line) as (
    select 'schema ' || nspname from schemas
    union all
    select concat_ws(' ', 'relation', s.nspname, c.relname, c.relkind, c.relrowsecurity, c.relforcerowsecurity, c.oid)
    from pg_class c join schemas s on s.oid = c.relnamespace
    union all
    select concat_ws(' ', 'column', a.attrelid, a.attnum, a.attname, format_type(a.atttypid, a.atttypmod),
                     a.attnotnull, a.attidentity, a.attgenerated, pg_get_expr(d.adbin, d.adrelid))
    from pg_attribute a
    join pg_class c on c.oid = a.attrelid
    join schemas s on s.oid = c.relnamespace
    left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
    where a.attnum > 0 and not a.attisdropped and c.relkind in ('r', 'p', 'v', 'm', 'f', 'c')
    union all
    select concat_ws(' ', 'constraint', c.conrelid, c.contypid, c.conname, pg_get_constraintdef(c.oid))
    from pg_constraint c join schemas s on s.oid = c.connamespace
    union all
    select concat_ws(' ', 'index', pg_get_indexdef(i.indexrelid))
    from pg_index i join pg_class c on c.oid = i.indexrelid join schemas s on s.oid = c.relnamespace
    union all
    select concat_ws(' ', 'type', s.nspname, t.typname, t.typtype,
                     (select string_agg(quote_literal(e.enumlabel), ',' order by e.enumsortorder)
                      from pg_enum e where e.enumtypid = t.oid))
    from pg_type t join schemas s on s.oid = t.typnamespace
    union all
    select concat_ws(' ', 'view', c.oid, pg_get_viewdef(c.oid))
    from pg_class c join schemas s on s.oid = c.relnamespace where c.relkind in ('v', 'm')
    union all
    select concat_ws(' ', 'function', p.oid, p.proname, md5(p.prosrc), pg_get_function_identity_arguments(p.oid))
    from pg_proc p join schemas s on s.oid = p.pronamespace
    union all
    select concat_ws(' ', 'trigger', t.tgrelid, t.tgenabled, pg_get_triggerdef(t.oid))
    from pg_trigger t where not t.tgisinternal
    union all
    select concat_ws(' ', 'policy', p.polrelid, p.polname, p.polcmd, p.polroles::text,
                     pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid))
    from pg_policy p
)
select md5(coalesce(string_agg(line, E'\\n' order by line collate "C"), '')) from lines
"""


def digest_catalog(connection: Connection) -> str:
    """A digest that differs when any table, constraint, index, type, view, function, trigger or policy does."""
    row = connection.execute(_DIGEST).fetchone()
    return str(row[0]) if row else ""
