"""CDC tables in the catalog: which there are, what they look like, what keeps them from being read."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any, Literal, LiteralString

import psycopg
from psycopg import sql
from psycopg.rows import class_row

Connection = psycopg.Connection[tuple[Any, ...]]
Address = tuple[int, int]
"""The OIDs of a catalog and of an object in it, as in `pg_depend`."""

Schemas = tuple[str, ...] | Literal["*"]


class Kind(StrEnum):
    """What `pg_class.relkind` calls a table that can be a CDC table or a part of one."""

    ORDINARY = "r"
    PARTITIONED = "p"
    FOREIGN = "f"


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """A column: its number in the table, which outlives a renaming, and what its values are.

    `generated` values are computed from others; `always` are identities that no UPDATE may set.
    """

    number: int
    name: str
    type: str
    generated: bool
    always: bool
    float: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A CDC table, or a partition or an inheritance child of one.

    `key` holds the columns of the primary key, else of a unique constraint or index that no two rows can
    share (all columns NOT NULL, no predicate, no expression); it is empty when there is none.
    `key_operators` are the operators by which its index tells values apart, qualified. `parents`
    are the OIDs of the tables that it is a partition or an inheritance child of.
    """

    oid: int
    schema: str
    name: str
    kind: Kind
    unlogged: bool
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    key_operators: tuple[str, ...]
    parents: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"

    @property
    def identifier(self) -> sql.Identifier:
        """The qualified name for composition."""
        return sql.Identifier(self.schema, self.name)


@dataclass(frozen=True, kw_only=True)
class Obstacle:
    """Why a table cannot be backed up; `remedy` is the statement that takes the obstacle away, where there is one."""

    table: Table
    cause: str
    remedy: str = ""


_BY_PREFIX = """
with recursive cdc (oid) as (
    select c.oid
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'p') and c.relpersistence <> 't'
      and starts_with(c.relname::text, %(prefix)s)
      and case when %(schemas)s::text[] is null
          then n.nspname <> 'information_schema' and not starts_with(n.nspname::text, 'pg_')
          else n.nspname = any(%(schemas)s) end
  union
    select i.inhrelid from pg_inherits i join cdc on cdc.oid = i.inhparent
)
"""

_PASSED_OVER = """
select n.nspname::text, c.relname::text, starts_with(c.relname::text, %(prefix)s)
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'p') and c.relpersistence <> 't' and not c.relispartition
  and starts_with(lower(c.relname::text), lower(%(prefix)s))
  and n.nspname <> 'information_schema' and not starts_with(n.nspname::text, 'pg_')
  -- what a restore put aside is no table that anybody writes to
  and n.nspname !~ '^restored_[0-9]{4}-[0-9]{2}-[0-9]{2}T'
  and c.oid not in (select oid from cdc)
order by 1, 2
"""

_BY_IDENTITY = """
with cdc (oid) as (
    select c.oid
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'p', 'f') and (
          c.oid = any(%(oids)s::oid[])
          or (n.nspname::text, c.relname::text) in (select * from unnest(%(schemas)s::text[], %(names)s::text[])))
)
"""

_OTHERS = """
select n.nspname::text, c.relname::text, (pg_identify_object('pg_class'::regclass, c.oid, 0)).type
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind not in ('r', 'p', 'f')
  and (n.nspname::text, c.relname::text) in (select * from unnest(%s::text[], %s::text[]))
"""

_TABLES = """
select c.oid::int8, n.nspname::text as schema, c.relname::text as name, c.relkind::text as kind,
       c.relpersistence = 'u' as unlogged,
       coalesce(keys.names, '{}') as key, coalesce(keys.operators, '{}') as key_operators,
       array(select i.inhparent::int8 from pg_inherits i where i.inhrelid = c.oid) as parents
from cdc join pg_class c using (oid) join pg_namespace n on n.oid = c.relnamespace
left join lateral (
           select array_agg(a.attname::text order by k.place) as names,
                  array_agg(format('OPERATOR(%%I.%%s)', s.nspname, o.oprname) order by k.place) as operators
           from (select i.indkey::int2[] as columns, i.indclass::oid[] as classes, i.indnkeyatts as width
                 from pg_index i
                 where i.indrelid = c.oid and i.indisunique and i.indisvalid and i.indimmediate
                   and i.indpred is null and i.indexprs is null
                   -- By another collation than the column's, other rows are the same than by its own.
                   and not exists (select from unnest(i.indkey::int2[], i.indcollation::oid[]) as k (attnum, coll)
                                   join pg_attribute a on a.attrelid = c.oid and a.attnum = k.attnum
                                   where a.attcollation <> k.coll)
                   and not exists (select from pg_attribute a
                                   where a.attrelid = c.oid and not a.attnotnull
                                     and a.attnum = any((i.indkey::int2[])[0:i.indnkeyatts - 1]))
                 order by not i.indisprimary, i.indnkeyatts, i.indexrelid limit 1) best,
                unnest(best.columns[0:best.width - 1], best.classes[0:best.width - 1])
                    with ordinality as k (attnum, opclass, place)
           join pg_attribute a on a.attrelid = c.oid and a.attnum = k.attnum
           join pg_opclass oc on oc.oid = k.opclass
           -- 3 is equality in every btree operator family.
           join pg_amop m on m.amopfamily = oc.opcfamily and m.amopstrategy = 3
               and m.amoplefttype = oc.opcintype and m.amoprighttype = oc.opcintype
           join pg_operator o on o.oid = m.amopopr join pg_namespace s on s.oid = o.oprnamespace
) keys on true
where c.oid <> all(%(known)s::oid[])
order by n.nspname, c.relname
"""

# A domain shows as the type that it stands for, as it does in what the server tells pg_dump.
_COLUMNS = """
with recursive base (oid, type) as (
    select oid, oid from pg_type where oid in ('float4'::regtype, 'float8'::regtype)
  union all
    select t.oid, base.type from pg_type t join base on t.typbasetype = base.oid where t.typtype = 'd'
)
select a.attrelid::int8, a.attnum::int, a.attname::text, format_type(a.atttypid, a.atttypmod),
       a.attgenerated <> '', a.attidentity = 'a', exists (select from base where base.oid = a.atttypid)
from pg_attribute a
where a.attrelid = any(%s::oid[]) and a.attnum > 0 and not a.attisdropped
order by a.attrelid, a.attnum
"""

_NAMES = """
select concat_ws(' ', (select count(*)::text from pg_class where relkind in ('r', 'p', 'f')),
       (select sum(hashtext(concat_ws(' ', oid, relnamespace, relname)))::text
        from pg_class where relkind in ('r', 'p', 'f')),
       (select sum(hashtext(concat_ws(' ', inhrelid, inhparent)))::text from pg_inherits),
       (select sum(hashtext(concat_ws(' ', oid, nspname)))::text from pg_namespace))
"""

_SHAPES = """
select attrelid::int8, array_agg(attname::text), array_agg(format_type(atttypid, atttypmod))
from pg_attribute where attrelid = any(%s::oid[]) and attnum > 0 and not attisdropped group by attrelid
"""

_OBSTACLES = """
select c.oid::int8, o.cause, o.remedy
from pg_class c
join pg_namespace n on n.oid = c.relnamespace
left join pg_depend d on d.classid = 'pg_class'::regclass and d.objid = c.oid and d.objsubid = 0
                     and d.refclassid = 'pg_extension'::regclass and d.deptype = 'e'
left join pg_extension e on e.oid = d.refobjid
cross join lateral (
    select format('belongs to the extension %%s, so pg_dump writes none of its rows', e.extname) as cause, '' as remedy
    where e.extname is not null
  union all
    select format('the role %%s has no USAGE on its schema', current_user),
           format('GRANT USAGE ON SCHEMA %%I TO %%I;', n.nspname, current_user)
    where not has_schema_privilege(n.oid, 'USAGE')
  union all
    select format('the role %%s has no SELECT on it', current_user),
           format('GRANT SELECT ON %%I.%%I TO %%I;', n.nspname, c.relname, current_user)
    where c.relkind <> 'f' and not has_table_privilege(c.oid, 'SELECT')
  union all
    select format('row security hides rows of it from the role %%s', current_user),
           format('ALTER ROLE %%I BYPASSRLS;', current_user)
    where row_security_active(c.oid)
) o
where c.oid = any(%s::oid[])
order by n.nspname, c.relname
"""

# What pg_dump reads of a table besides its rows: where the sequences stand that a column owns or draws on.
_SEQUENCES = """
with drawn (relation, sequence) as (
    select d.refobjid, d.objid from pg_depend d
    where d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass and d.deptype in ('a', 'i')
      and d.refobjid = any(%(oids)s::oid[])
  union
    select f.adrelid, d.refobjid from pg_attrdef f
    join pg_depend d on d.classid = 'pg_attrdef'::regclass and d.objid = f.oid and d.refclassid = 'pg_class'::regclass
    where f.adrelid = any(%(oids)s::oid[])
)
select drawn.relation::int8, o.cause, o.remedy
from drawn join pg_class s on s.oid = drawn.sequence and s.relkind = 'S'
join pg_namespace n on n.oid = s.relnamespace
cross join lateral (
    select format('the role %%s has no USAGE on the schema of its sequence %%s.%%s', current_user, nspname, relname),
           format('GRANT USAGE ON SCHEMA %%I TO %%I;', nspname, current_user)
    where not has_schema_privilege(n.oid, 'USAGE')
  union all
    select format('the role %%s has no SELECT on its sequence %%s.%%s', current_user, nspname, relname),
           format('GRANT SELECT ON SEQUENCE %%I.%%I TO %%I;', nspname, relname, current_user)
    where not has_sequence_privilege(s.oid, 'SELECT')
) o (cause, remedy)
order by n.nspname, s.relname, drawn.relation
"""

_MISSING_SCHEMAS = "select s from unnest(%s::text[]) s where not exists (select from pg_namespace where nspname = s)"


def find_tables(
    connection: Connection, known: Collection[int] = (), *, prefix: str, schemas: Schemas
) -> tuple[Table, ...]:
    """All CDC tables of the database: by exact prefix in the schemas, with their partitions and children.

    Partitions and inheritance children belong to a CDC table whatever their names and schemas. Views,
    materialized views, temporary tables and tables that are foreign by themselves do not count. Those whose OIDs are
    `known` are left out.
    """
    # `starts_with`, because in a LIKE pattern the prefix's underscores would match any character.
    named = None if schemas == "*" else list(schemas)
    return _read(connection, _BY_PREFIX, {"prefix": prefix, "schemas": named, "known": list(known)})


def find_passed_over(connection: Connection, *, prefix: str, schemas: Schemas) -> tuple[tuple[str, str, bool], ...]:
    """The tables that look like CDC tables and are none: schema, name, whether the prefix is exact.

    It is exact in a schema that is not named; elsewhere it has another case.
    """
    named = None if schemas == "*" else list(schemas)
    rows = connection.execute(_BY_PREFIX + _PASSED_OVER, {"prefix": prefix, "schemas": named})
    return tuple((schema, name, exact) for schema, name, exact in rows)


def find_tables_by(connection: Connection, oids: Sequence[int], names: Sequence[tuple[str, str]]) -> tuple[Table, ...]:
    """What there is under the OIDs, and under the names (schema, name)."""
    schemas, tables = zip(*names, strict=True) if names else ((), ())
    parameters = {"oids": list(oids), "schemas": list(schemas), "names": list(tables), "known": []}
    return _read(connection, _BY_IDENTITY, parameters)


def begins_with(connection: Connection, schema: str, beginning: str) -> set[int]:
    """The OIDs of all that a pattern of pg_dump's takes, whose name in the schema begins so."""
    found = connection.execute(
        "select c.oid::int8 from pg_class c join pg_namespace n on n.oid = c.relnamespace"
        " where n.nspname = %s and starts_with(c.relname::text, %s) and c.relkind in ('r', 'S', 'v', 'm', 'f', 'p')",
        [schema, beginning],
    )
    return {oid for (oid,) in found}


def digest_names(connection: Connection) -> str:
    """Of all tables of the database and what they are called: another one when `find_tables` may find others."""
    [(digest,)] = connection.execute(_NAMES).fetchall()
    return str(digest)


def find_shapes(connection: Connection, oids: Collection[int]) -> dict[int, frozenset[tuple[str, str]]]:
    """The `shape` of tables, by OID."""
    found = connection.execute(_SHAPES, [list(oids)])
    shapes = {oid: frozenset(zip(names, types, strict=True)) for oid, names, types in found}
    return {oid: shapes.get(oid, frozenset()) for oid in oids}


def shape(table: Table) -> frozenset[tuple[str, str]]:
    """A table's columns by name, each with its type."""
    return frozenset((column.name, column.type) for column in table.columns)


def find_others_by(connection: Connection, names: Sequence[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """What there is under the names (schema, name) that is no table: `view`."""
    schemas, relations = zip(*names, strict=True) if names else ((), ())
    rows = connection.execute(_OTHERS, [list(schemas), list(relations)])
    return {(schema, name): kind for schema, name, kind in rows}


def find_obstacles(connection: Connection, tables: tuple[Table, ...]) -> tuple[Obstacle, ...]:
    """What keeps the connection's role from reading every row of `tables`; empty when nothing does."""
    by_oid = {table.oid: table for table in tables}
    rows = connection.execute(_OBSTACLES, [list(by_oid)]).fetchall()
    return tuple(Obstacle(table=by_oid[oid], cause=cause, remedy=remedy) for oid, cause, remedy in rows)


def find_closed_sequences(connection: Connection, tables: tuple[Table, ...]) -> tuple[Obstacle, ...]:
    """The sequences of `tables` that the connection's role may not read: pg_dump fails where it may not."""
    by_oid = {table.oid: table for table in tables}
    rows = connection.execute(_SEQUENCES, {"oids": list(by_oid)}).fetchall()
    return tuple(Obstacle(table=by_oid[oid], cause=cause, remedy=remedy) for oid, cause, remedy in rows)


def missing_schemas(connection: Connection, schemas: Schemas) -> tuple[str, ...]:
    """The configured schemas that the database does not have."""
    if schemas == "*":
        return ()
    return tuple(name for (name,) in connection.execute(_MISSING_SCHEMAS, [list(schemas)]))


def _read(connection: Connection, which: LiteralString, parameters: dict[str, Any]) -> tuple[Table, ...]:
    with connection.cursor(row_factory=class_row(_Found)) as cursor:
        found = cursor.execute(which + _TABLES, parameters).fetchall()
    columns: dict[int, list[Column]] = {table.oid: [] for table in found}
    for oid, number, name, type_, generated, always, float_ in connection.execute(_COLUMNS, [list(columns)]):
        columns[oid].append(_column(number, name, type_, generated, always, float_))
    return tuple(
        Table(
            oid=table.oid,
            schema=table.schema,
            name=table.name,
            kind=Kind(table.kind),
            unlogged=table.unlogged,
            columns=tuple(columns[table.oid]),
            key=tuple(table.key),
            key_operators=tuple(table.key_operators),
            parents=tuple(table.parents),
        )
        for table in found
    )


@lru_cache(maxsize=1024)
def _column(number: int, name: str, type_: str, generated: bool, always: bool, float_: bool) -> Column:
    """One for all tables that have such a one: CDC tables are much alike."""
    return Column(number=number, name=name, type=type_, generated=generated, always=always, float=float_)


@dataclass(frozen=True)
class _Found:
    oid: int
    schema: str
    name: str
    kind: str
    unlogged: bool
    key: list[str]
    key_operators: list[str]
    parents: list[int]
