"""Stand-ins for what CDC tables speak of and belong to, for a database that has none of it."""

from collections.abc import Sequence

from backup.postgres.tables import Connection

# Columns of types that not every database has become text: a foreign key points to types that the CDC
# table's own column has, so those are there; a view over others cannot be made then, and that is said.
_STAND_INS = """
with relations as (
    select * from pg_class where oid = any(%(oids)s::oid[]) and relkind in ('r', 'p', 'v', 'm', 'f')
)
select format('CREATE SCHEMA IF NOT EXISTS %%I', n.nspname), 1 as turn, 0 as oid
from pg_namespace n where n.oid in (select relnamespace from relations)
union
select format('CREATE TABLE %%I.%%I (%%s)', n.nspname, c.relname, (
           select string_agg(format('%%I %%s', a.attname,
                                    case when t.typnamespace = 'pg_catalog'::regnamespace or i.attnum is not null
                                         then format_type(a.atttypid, a.atttypmod) else 'text' end),
                             ', ' order by a.attnum)
           from pg_attribute a join pg_type t on t.oid = a.atttypid
           left join (select distinct conkey.attnum from pg_constraint k, unnest(k.confkey) as conkey (attnum)
                      where k.contype = 'f' and k.confrelid = c.oid) i on i.attnum = a.attnum
           where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped)), 2, c.oid::int8
from relations c join pg_namespace n on n.oid = c.relnamespace
union
select format('ALTER TABLE %%I.%%I ADD CONSTRAINT %%I %%s', n.nspname, c.relname, k.conname,
              pg_get_constraintdef(k.oid)),
       3, k.oid::int8
from pg_constraint k join relations c on c.oid = k.conrelid join pg_namespace n on n.oid = c.relnamespace
where k.contype in ('p', 'u')
union
select format('CREATE PUBLICATION %%I', p.pubname), 4, p.oid::int8
from pg_publication p where p.oid in (select prpubid from pg_publication_rel where prrelid = any(%(tables)s::oid[]))
order by turn, oid
"""


def context_statements(connection: Connection, tables: Sequence[int], others: Sequence[int]) -> tuple[str, ...]:
    """Statements that make, without rows, a table of the same name and columns for each of the `others`.

    With its keys, so that foreign keys can point to it; schemas before it, the publications of `tables` last.
    """
    rows = connection.execute(_STAND_INS, {"oids": list(others), "tables": list(tables)})
    return tuple(statement for statement, _, _ in rows)
