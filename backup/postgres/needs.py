"""What tables are made of and what they need to exist, read from the catalog's dependencies."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from psycopg import sql

from backup.postgres.tables import Connection, Table

Address = tuple[int, int]
"""The OIDs of a catalog and of an object in it, as in `pg_depend`."""

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

# A table, a view, or what hangs on one, is a boundary: what lies behind it is not ours to bring. Row types
# and arrays are passed through: they come and go with what they are made from.
_OBJECTS = """
select f.classid::int8, f.oid::int8, a.type, a.object_names, a.object_args,
       case when s.relkind = 'S' then array[n.nspname::text, s.relname::text] end,
       case c.relname
           when 'pg_class' then s.relkind = 'S'
           when 'pg_type' then t.typtype in ('b', 'c', 'd', 'e', 'r') and (t.typtype <> 'c' or r.relkind = 'c')
                               and not (t.typcategory = 'A' and t.typelem <> 0)
           else c.relname in ('pg_am', 'pg_collation', 'pg_extension', 'pg_language', 'pg_opclass', 'pg_operator',
                              'pg_opfamily', 'pg_proc', 'pg_ts_config', 'pg_ts_dict', 'pg_ts_parser',
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

_SCHEMAS = """
select n.nspname::text, r.rolname::text,
       (select array_agg(x.privilege_type || ' ' || coalesce(g.rolname, '')) from aclexplode(n.nspacl) x
        left join pg_roles g on g.oid = x.grantee where x.grantee <> n.nspowner)
from pg_namespace n join pg_roles r on r.oid = n.nspowner where n.nspname = any(%s)
"""

_STATISTICS = """
select stxrelid::int8, pg_get_statisticsobjdef(oid) from pg_statistic_ext where stxrelid = any(%s::oid[]) order by oid
"""

_PUBLICATIONS = """
select r.prrelid::int8, p.pubname::text, {columns}, {filter}
from pg_publication_rel r join pg_publication p on p.oid = r.prpubid
where r.prrelid = any(%s::oid[]) order by p.pubname
"""


@dataclass(frozen=True, kw_only=True)
class Need:
    """An object that is no table and without which a table cannot exist: a type, a function, a sequence.

    `kind`, `names` and `arguments` find it again by `pg_get_object_address`. `sequence` is its qualified
    name where it is a sequence that no column owns; pg_dump takes such a one like a table.
    """

    address: Address
    kind: str
    names: tuple[str, ...]
    arguments: tuple[str, ...]
    sequence: tuple[str, str] | None


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What belongs to tables and what they need, all by the table's OID.

    `parts` tells the table of an index, a constraint, a default, a trigger, a rule, a policy, an owned
    sequence. `statistics` and `publications` are statements, for pg_dump -t leaves both out.
    """

    parts: dict[Address, int]
    needs: dict[int, tuple[Need, ...]]
    schemas: dict[str, tuple[str, ...]]
    statistics: dict[int, tuple[str, ...]]
    publications: dict[int, tuple[str, ...]]


def look_around(connection: Connection, tables: Sequence[Table]) -> Surroundings:
    """What belongs to `tables` and what they need, some five queries however many tables there are."""
    oids = [table.oid for table in tables]
    parts = {(c, o): table for c, o, table in connection.execute(_PARTS, {"t": oids})}
    return Surroundings(
        parts=parts,
        needs=_needs(connection, oids, parts),
        schemas=_schemas(connection, sorted({table.schema for table in tables})),
        statistics=_grouped(connection.execute(_STATISTICS, [oids])),
        publications=_publications(connection, tables),
    )


def _needs(connection: Connection, tables: Sequence[int], parts: dict[Address, int]) -> dict[int, tuple[Need, ...]]:
    row = connection.execute("select 'pg_class'::regclass::int8, 'pg_namespace'::regclass::int8").fetchone()
    assert row is not None  # noqa: S101 - a query without FROM has one row
    pg_class, pg_namespace = row
    roots = {table: (pg_class, table) for table in tables}
    reaches: dict[Address, set[Address]] = defaultdict(set)
    needs: dict[Address, Need] = {}
    frontier = seen = {*roots.values(), *parts}
    while frontier:
        found = set()
        for classid, oid, other_class, other in connection.execute(_EDGES, _unzipped(frontier)):
            if other >= _FIRST_NORMAL_OID and other_class != pg_namespace:
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
            if needed:
                needs[classid, oid] = Need(
                    address=(classid, oid),
                    kind=kind,
                    names=tuple(names),
                    arguments=tuple(arguments),
                    sequence=(sequence[0], sequence[1]) if sequence else None,
                )
    by_table = defaultdict(list)
    for address, table in parts.items():
        by_table[table].append(address)
    return {
        table: tuple(
            needs[address]
            for address in _closure([root, *by_table[table]], reaches, stop={*roots.values(), *parts})
            if address in needs
        )
        for table, root in roots.items()
    }


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


def _schemas(connection: Connection, names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The statements that give each schema to its owner and grant what was granted on it."""
    statements: dict[str, tuple[str, ...]] = {}
    for name, owner, grants in connection.execute(_SCHEMAS, [list(names)]):
        schema = sql.Identifier(name)
        made = [sql.SQL("ALTER SCHEMA {} OWNER TO {}").format(schema, sql.Identifier(owner))]
        for grant in grants or ():
            privilege, _, role = grant.partition(" ")
            grantee = sql.Identifier(role) if role else sql.SQL("PUBLIC")
            made.append(sql.SQL("GRANT {} ON SCHEMA {} TO {}").format(sql.SQL(privilege), schema, grantee))
        statements[name] = tuple(statement.as_string(connection) for statement in made)
    return statements


def _publications(connection: Connection, tables: Sequence[Table]) -> dict[int, tuple[str, ...]]:
    """The statements that make each table a member of its publications again."""
    by_oid = {table.oid: table for table in tables}
    listed = connection.info.server_version >= 150000  # column lists and row filters exist since then
    query = sql.SQL(_PUBLICATIONS).format(
        columns=sql.SQL(
            "(select array_agg(a.attname::text order by a.attnum) from pg_attribute a"
            " where a.attrelid = r.prrelid and a.attnum = any(r.prattrs::int2[]))"
            if listed
            else "null"
        ),
        filter=sql.SQL("pg_get_expr(r.prqual, r.prrelid)" if listed else "null"),
    )
    statements = []
    for oid, publication, columns, condition in connection.execute(query, [list(by_oid)]):
        statement = sql.SQL("ALTER PUBLICATION {} ADD TABLE ONLY {}{}{}").format(
            sql.Identifier(publication),
            by_oid[oid].identifier,
            sql.SQL(" ({})").format(sql.SQL(", ").join(map(sql.Identifier, columns))) if columns else sql.SQL(""),
            # The server's own text of the condition, which it printed to be read again.
            sql.SQL(" WHERE ({})").format(sql.SQL(condition)) if condition else sql.SQL(""),
        )
        statements.append((oid, statement.as_string(connection)))
    return _grouped(statements)


def _grouped(rows: Iterable[tuple[int, str]]) -> dict[int, tuple[str, ...]]:
    grouped = defaultdict(list)
    for oid, statement in rows:
        grouped[oid].append(statement)
    return {oid: tuple(statements) for oid, statements in grouped.items()}
