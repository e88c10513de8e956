"""What tables need to exist, read from the catalog's dependencies."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from backup.postgres.tables import Address, Connection

_FIRST_NORMAL_OID = 16384
"""`FirstNormalObjectId` in PostgreSQL's `transam.h`: what is below it was made by initdb."""

# Up to what an object needs, and down to what is a part of it (deptypes auto, internal, partition).
_EDGES = """
with frontier as (select * from unnest(%(classes)s::oid[], %(oids)s::oid[]) as f (classid, oid))
select d.classid::int8, d.objid::int8, d.refclassid::int8, d.refobjid::int8
from pg_depend d join frontier f on d.classid = f.classid and d.objid = f.oid
union
select d.refclassid::int8, d.refobjid::int8, d.classid::int8, d.objid::int8
from pg_depend d join frontier f on d.refclassid = f.classid and d.refobjid = f.oid
where d.deptype in ('a', 'i', 'P', 'S')
"""

# A table, a view, or what hangs on one, is a boundary: what lies behind it is not ours to bring. Row types
# and arrays are passed through: they come and go with what they are made from.
_OBJECTS = """
select f.classid::int8, f.oid::int8, a.type, a.object_names, a.object_args,
       case when s.relkind = 'S' then array[n.nspname::text, s.relname::text] end,
       case c.relname
           when 'pg_class' then s.relkind = 'S'
           when 'pg_type' then t.typtype in ('b', 'c', 'd', 'e', 'r') and (t.typtype <> 'c' or r.relkind = 'c')
                               and not (t.typcategory = 'A' and t.typelem <> 0)
           else c.relname in ('pg_am', 'pg_collation', 'pg_extension', 'pg_language', 'pg_namespace', 'pg_opclass',
                              'pg_operator', 'pg_opfamily', 'pg_proc', 'pg_ts_config', 'pg_ts_dict', 'pg_ts_parser',
                              'pg_ts_template')
       end as needed,
       case c.relname
           when 'pg_class' then s.relkind not in ('S', 'c')
           else c.relname in ('pg_policy', 'pg_publication', 'pg_publication_rel', 'pg_rewrite',
                              'pg_statistic_ext', 'pg_trigger')
       end as boundary
from unnest(%(classes)s::oid[], %(oids)s::oid[]) as f (classid, oid)
join pg_class c on c.oid = f.classid
left join pg_class s on f.classid = 'pg_class'::regclass and s.oid = f.oid
left join pg_namespace n on n.oid = s.relnamespace
left join pg_type t on f.classid = 'pg_type'::regclass and t.oid = f.oid
left join pg_class r on r.oid = t.typrelid,
     pg_identify_object_as_address(f.classid, f.oid, 0) as a
"""


# An identity column's sequence is no object that could be made before its table.
_OWNED = """
select 'pg_class'::regclass::int8, s.oid::int8, a.type, a.object_names, a.object_args, n.nspname::text, s.relname::text
from pg_depend d join pg_class s on s.oid = d.objid and s.relkind = 'S' join pg_namespace n on n.oid = s.relnamespace,
     pg_identify_object_as_address('pg_class'::regclass, s.oid, 0) as a
where d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass and d.refobjid = any(%s::oid[])
  and d.deptype = 'a'
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Need:
    """An object that is no table and without which a table cannot exist: a type, a function, a sequence.

    `kind`, `names` and `arguments` find it again by `pg_get_object_address`. `sequence` is its qualified
    name where it is a sequence; pg_dump takes such a one like a table. One that a column of the tables owns
    is a need of the others that use it, such as the partitions of a table with a `serial`.
    """

    address: Address
    kind: str
    names: tuple[str, ...]
    arguments: tuple[str, ...]
    sequence: tuple[str, str] | None


def find_needs(
    connection: Connection, tables: Sequence[int], parts: dict[Address, int], more: Iterable[Address]
) -> tuple[dict[int, tuple[Need, ...]], frozenset[int]]:
    """What each table needs, by its OID; and the OIDs of the other tables and views that are spoken of.

    Args:
        connection: where to look.
        tables: the OIDs of the tables.
        parts: of which table an index, a trigger, … is a part.
        more: further objects whose other tables and views are wanted.
    """
    row = connection.execute("select 'pg_class'::regclass::int8, 'pg_namespace'::regclass::int8").fetchone()
    assert row is not None  # noqa: S101 - a query without FROM has one row
    pg_class, pg_namespace = row
    roots = {table: (pg_class, table) for table in tables}
    reaches: dict[Address, set[Address]] = defaultdict(set)
    needs: dict[Address, Need] = {}
    outside: set[int] = set()
    start = {*roots.values(), *parts, *more}
    frontier, seen = start, start.difference(more)
    while frontier:
        found = set()
        for classid, oid, other_class, other in connection.execute(_EDGES, _unzipped(frontier)):
            # The tables' own schemas are made with them; those of what they need are needs.
            if other >= _FIRST_NORMAL_OID and (other_class != pg_namespace or (classid, oid) not in start):
                reaches[classid, oid].add((other_class, other))
                found.add((other_class, other))
        found -= seen
        seen = seen | found
        frontier = set()
        for classid, oid, kind, names, arguments, sequence, needed, boundary in connection.execute(
            _OBJECTS, _unzipped(found)
        ):
            if not boundary:
                frontier.add((classid, oid))
            elif classid == pg_class:
                outside.add(oid)
            if needed:
                needs[classid, oid] = Need(
                    address=(classid, oid),
                    kind=kind,
                    names=tuple(names),
                    arguments=tuple(arguments),
                    sequence=(sequence[0], sequence[1]) if sequence else None,
                )
    owned = {}
    for classid, oid, kind, names, arguments, schema, name in connection.execute(_OWNED, [list(tables)]):
        owned[classid, oid] = Need(
            address=(classid, oid),
            kind=kind,
            names=tuple(names),
            arguments=tuple(arguments),
            sequence=(schema, name),
        )
    needs |= owned
    by_table = defaultdict(list)
    for address, table in parts.items():
        by_table[table].append(address)
    # A table's own sequences are never come to, for all that is its own is where it begins.
    stop = {*roots.values(), *parts} - owned.keys()
    by_oid = {}
    for table, root in roots.items():
        own = [root, *by_table[table]]
        closure = [a for a in _closure(own, reaches, stop=stop) if a not in own]
        # The table's own sequence too, where a need of it, such as a domain, has it in its default.
        closure += (a for a in own if a in owned and any(a in reaches[c] for c in closure if c in reaches))
        by_oid[table] = tuple(needs[a] for a in closure if a in needs)
    return by_oid, frozenset(outside)


def _unzipped(addresses: Iterable[Address]) -> dict[str, list[int]]:
    classes, oids = zip(*addresses, strict=True) if addresses else ((), ())
    return {"classes": list(classes), "oids": list(oids)}


def _closure(start: Sequence[Address], reaches: dict[Address, set[Address]], *, stop: set[Address]) -> list[Address]:
    """All that can be reached from `start` without passing through `stop`."""
    seen = dict.fromkeys(start)
    waiting = list(start)
    while waiting:
        for address in sorted(reaches.get(waiting.pop(), ())):
            if address not in seen and address not in stop:
                seen[address] = None
                waiting.append(address)
    return list(seen)
