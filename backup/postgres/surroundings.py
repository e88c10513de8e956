"""All that the catalog tells about tables: what they are made of, what they need, what hangs on them."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from backup.postgres.context import context_statements
from backup.postgres.dependents import Dependent, find_dependents, find_others
from backup.postgres.left_out import publication_statements, schema_statements, statistics_statements
from backup.postgres.needs import Need, find_needs
from backup.postgres.tables import Address, Connection, Table

# pg_depend answers "whose is it?" in several ways; the catalogs' own columns in one.
_PARTS = """
select 'pg_class'::regclass::int8, indexrelid::int8, indrelid::int8 from pg_index where indrelid = any(%(t)s::oid[])
union all
select 'pg_constraint'::regclass::int8, oid::int8, conrelid::int8 from pg_constraint where conrelid = any(%(t)s::oid[])
union all
select 'pg_attrdef'::regclass::int8, oid::int8, adrelid::int8 from pg_attrdef where adrelid = any(%(t)s::oid[])
union all
select 'pg_rewrite'::regclass::int8, oid::int8, ev_class::int8 from pg_rewrite where ev_class = any(%(t)s::oid[])
union all
select 'pg_trigger'::regclass::int8, oid::int8, tgrelid::int8 from pg_trigger where tgrelid = any(%(t)s::oid[])
union all
select 'pg_policy'::regclass::int8, oid::int8, polrelid::int8 from pg_policy where polrelid = any(%(t)s::oid[])
union all
select 'pg_class'::regclass::int8, d.objid::int8, d.refobjid::int8
from pg_depend d join pg_class s on s.oid = d.objid and s.relkind = 'S'
where d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass
  and d.refobjid = any(%(t)s::oid[]) and d.deptype in ('a', 'i')
"""

_SEQUENCES = """
select d.objid::int8, a.attname::text
from pg_depend d join pg_class s on s.oid = d.objid and s.relkind = 'S'
join pg_attribute a on a.attrelid = d.refobjid and a.attnum = d.refobjsubid
where d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass
  and d.refobjid = any(%s::oid[]) and d.deptype in ('a', 'i')
"""

_DRAWN = """
select d.refobjid::int8, f.adrelid::int8, a.attname::text
from pg_attrdef f join pg_attribute a on a.attrelid = f.adrelid and a.attnum = f.adnum
join pg_depend d on d.classid = 'pg_attrdef'::regclass and d.objid = f.oid and d.refclassid = 'pg_class'::regclass
join pg_class s on s.oid = d.refobjid and s.relkind = 'S'
where f.adrelid = any(%(t)s::oid[])
  and not exists (select from pg_depend o where o.classid = 'pg_class'::regclass and o.objid = s.oid
                  and o.refclassid = 'pg_class'::regclass and o.refobjid = f.adrelid and o.deptype in ('a', 'i'))
union
select d.objid::int8, p.relid::oid::int8, a.attname::text
from pg_depend d join pg_class t on t.oid = d.refobjid and t.relkind = 'p'
join pg_class s on s.oid = d.objid and s.relkind = 'S'
join pg_attribute a on a.attrelid = d.refobjid and a.attnum = d.refobjsubid,
     pg_partition_tree(t.oid) as p
where d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass and d.deptype = 'i'
  and p.relid = any(%(t)s::oid[]) and p.relid <> t.oid
order by 1, 2, 3
"""


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What belongs to tables, what they need and what hangs on them; by the table's OID, where not said otherwise.

    `parts` tells the table of an index, a constraint, a default, a trigger, a rule, a policy, an owned
    sequence, by its address. `sequences` tells the column that owns a sequence, by the sequence's OID;
    `drawn` tells tables and their columns that have their numbers from a sequence of others or of nobody: by
    their default, or, in a partition, because the column is an identity column of the table above.
    `schemas` (by name), `statistics` and `publications` are statements, for pg_dump -t leaves them out.
    `others` are what would go with the tables too, and is not kept. `context` are statements that make
    stand-ins, without rows, of other tables that are spoken of.
    """

    parts: dict[Address, int]
    sequences: dict[int, str]
    drawn: dict[int, tuple[tuple[int, str], ...]]
    needs: dict[int, tuple[Need, ...]]
    dependents: tuple[Dependent, ...]
    others: tuple[str, ...]
    schemas: dict[str, tuple[str, ...]]
    statistics: dict[int, tuple[str, ...]]
    publications: dict[int, tuple[str, ...]]
    context: tuple[str, ...]


def look_around(connection: Connection, tables: Sequence[Table]) -> Surroundings:
    """What is around `tables`: some ten queries and some more a level of dependencies, however many tables."""
    oids = [table.oid for table in tables]
    dependents = find_dependents(connection, tables)
    views = [dependent.address[1] for dependent in dependents if dependent.view]
    parts = {(c, o): table for c, o, table in connection.execute(_PARTS, {"t": oids + views})}
    drawn = defaultdict(list)
    for sequence, table, column in connection.execute(_DRAWN, {"t": oids}):
        drawn[sequence].append((table, column))
    needs, outside = find_needs(connection, oids, parts, [dependent.address for dependent in dependents])
    return Surroundings(
        parts=parts,
        sequences=dict(connection.execute(_SEQUENCES, [oids]).fetchall()),
        drawn={sequence: tuple(columns) for sequence, columns in drawn.items()},
        needs=needs,
        dependents=dependents,
        others=find_others(connection, tables, dependents),
        schemas=schema_statements(connection, tables),
        statistics=statistics_statements(connection, tables),
        publications=publication_statements(connection, tables),
        context=context_statements(connection, oids, sorted(outside.difference(oids, views))),
    )
