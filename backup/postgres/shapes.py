"""What decides whether a CDC table takes what is written to it: columns, constraints, sequences, where its rows are."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from psycopg import sql

from backup.postgres.tables import Connection

Name = tuple[str, str]
"""Schema and name of a relation."""

_TABLES = """
select c.oid::int8, n.nspname::text, c.relname::text, c.relpersistence = 'u', c.relrowsecurity, c.relforcerowsecurity,
       array(select array[a.grantee::text, a.privilege_type]
             from aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) a
             where a.privilege_type in ('SELECT', 'INSERT', 'UPDATE', 'DELETE'))
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'p')
  and (n.nspname::text, c.relname::text) in (select * from unnest(%s::text[], %s::text[]))
"""

_COLUMNS = """
select a.attrelid::int8, a.attnum::int4, a.attname::text, a.attnotnull, a.attidentity::text, a.attgenerated <> '',
       case when a.attgenerated = '' then coalesce(pg_get_expr(d.adbin, d.adrelid), t.typdefault) end
from pg_attribute a join pg_type t on t.oid = a.atttypid
left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
where a.attrelid = any(%s::oid[]) and a.attnum > 0 and not a.attisdropped
"""

# What a partition has from its parent is told with the parent's.
_ATTACHED = """
with asked (oid) as (select unnest(%s::oid[]))
select k.conrelid::int8, k.oid::int8, k.conname::text, 'constraint', true,
       format('ALTER TABLE %%I.%%I ADD CONSTRAINT %%I %%s', n.nspname, c.relname, k.conname,
              pg_get_constraintdef(k.oid)),
       format('ALTER TABLE %%I.%%I DROP CONSTRAINT %%I', n.nspname, c.relname, k.conname)
from pg_constraint k join pg_class c on c.oid = k.conrelid join pg_namespace n on n.oid = c.relnamespace
where k.conrelid in (select oid from asked) and k.contype in ('c', 'u', 'p', 'f', 'x') and k.conparentid = 0
union all
select i.indrelid::int8, x.oid::int8, x.relname::text, 'index', i.indisunique, pg_get_indexdef(x.oid),
       format('DROP INDEX %%I.%%I', n.nspname, x.relname)
from pg_index i join pg_class x on x.oid = i.indexrelid join pg_namespace n on n.oid = x.relnamespace
where i.indrelid in (select oid from asked) and not x.relispartition
  and not exists (select from pg_constraint k where k.conindid = x.oid and k.conrelid = i.indrelid)
union all
select distinct d.refobjid::int8, v.oid::int8, v.relname::text, 'view', false,
       format('CREATE %%s %%I.%%I AS %%s', case v.relkind when 'v' then 'VIEW' else 'MATERIALIZED VIEW' end,
              n.nspname, v.relname, rtrim(pg_get_viewdef(v.oid), ';')), ''
from pg_depend d join pg_rewrite r on d.classid = 'pg_rewrite'::regclass and r.oid = d.objid
join pg_class v on v.oid = r.ev_class and v.relkind in ('v', 'm') join pg_namespace n on n.oid = v.relnamespace
where d.refclassid = 'pg_class'::regclass and d.refobjid in (select oid from asked)
"""

_SEQUENCES = """
select d.refobjid::int8, d.refobjsubid::int4, s.seqrelid::int8, n.nspname::text, c.relname::text,
       pg_sequence_last_value(s.seqrelid::regclass), s.seqincrement,
       exists (select from pg_index i where i.indrelid = d.refobjid and i.indisunique and i.indpred is null
               and i.indnkeyatts = 1 and i.indkey[0] = d.refobjsubid)
from pg_sequence s join pg_class c on c.oid = s.seqrelid join pg_namespace n on n.oid = c.relnamespace
join pg_depend d on d.classid = 'pg_class'::regclass and d.objid = s.seqrelid and d.refclassid = 'pg_class'::regclass
where d.deptype in ('a', 'i') and d.refobjid = any(%s::oid[])
"""


@dataclass(frozen=True, kw_only=True)
class ColumnShape:
    """A column, as it is to a writer. `identity` is as in `pg_attribute`; `default` may be its domain's."""

    number: int
    name: str
    not_null: bool
    identity: str
    generated: bool
    default: str | None

    @property
    def is_required(self) -> bool:
        """Whether an INSERT that does not name it fails."""
        return self.not_null and not self.identity and not self.generated and self.default is None

    @property
    def gives(self) -> bool:
        """Whether an INSERT that does not name it has a value there all the same."""
        return bool(self.identity) or self.generated or (self.default or "NULL").partition("::")[0] != "NULL"


@dataclass(frozen=True, kw_only=True)
class Attached:
    """A constraint, index or view on a table. `restricts` says that a row can be refused because of it."""

    oid: int
    name: str
    kind: str
    restricts: bool
    definition: str
    drop: str


@dataclass(frozen=True, kw_only=True)
class OwnedSequence:
    """A sequence that a column owns. `last` is None where it was never called since it was set, or may not be read.

    `unique` says that no two rows may have the same value in the column.
    """

    oid: int
    name: Name
    column: int
    last: int | None
    increment: int
    unique: bool


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A table, as it is to those who write to it; columns by number.

    `rights` are OIDs of roles, 0 for PUBLIC, each with what it may do with all of the table.
    """

    oid: int
    name: Name
    unlogged: bool
    row_security: bool
    forced: bool
    rights: frozenset[tuple[int, str]] = frozenset()
    columns: dict[int, ColumnShape] = field(default_factory=dict)
    attached: tuple[Attached, ...] = ()
    sequences: tuple[OwnedSequence, ...] = ()


def look_at_shapes(connection: Connection, names: Collection[Name]) -> dict[Name, Shape]:
    """The shapes of those of the tables that are there, in as many queries however many they are."""
    tables = connection.execute(_TABLES, [[s for s, _ in names], [t for _, t in names]]).fetchall()
    oids = [table[0] for table in tables]
    columns: dict[int, dict[int, ColumnShape]] = defaultdict(dict)
    for oid, number, name, not_null, identity, generated, default in connection.execute(_COLUMNS, [oids]):
        columns[oid][number] = ColumnShape(
            number=number, name=name, not_null=not_null, identity=identity, generated=generated, default=default
        )
    attached: dict[int, list[Attached]] = defaultdict(list)
    for table, oid, name, kind, restricts, definition, drop in connection.execute(_ATTACHED, [oids]):
        attached[table].append(
            Attached(oid=oid, name=name, kind=kind, restricts=restricts, definition=definition, drop=drop)
        )
    sequences: dict[int, list[OwnedSequence]] = defaultdict(list)
    for table, number, oid, schema, name, last, increment, unique in connection.execute(_SEQUENCES, [oids]):
        sequences[table].append(
            OwnedSequence(oid=oid, name=(schema, name), column=number, last=last, increment=increment, unique=unique)
        )
    return {
        (schema, name): Shape(
            oid=oid,
            name=(schema, name),
            unlogged=unlogged,
            row_security=row_security,
            forced=forced,
            rights=frozenset((int(role), privilege) for role, privilege in rights),
            columns=columns[oid],
            attached=tuple(attached[oid]),
            sequences=tuple(sequences[oid]),
        )
        for oid, schema, name, unlogged, row_security, forced, rights in tables
    }


def find_sequences_behind(
    connection: Connection, owned: Sequence[tuple[Shape, OwnedSequence]]
) -> list[tuple[Shape, OwnedSequence]]:
    """Those whose next value is not above the largest one in their column; one query, which reads the tables."""
    upward = [(shape, sequence) for shape, sequence in owned if sequence.increment > 0]
    if not upward:
        return []
    one = sql.SQL(
        "select {number}::int4 where (select last_value + case when is_called then {step} else 0 end from {sequence})"
        " <= (select max({column}) from {table})"
    )
    behind = connection.execute(
        sql.SQL(" union all ").join(
            one.format(
                number=sql.Literal(number),
                step=sql.Literal(sequence.increment),
                sequence=sql.Identifier(*sequence.name),
                column=sql.Identifier(shape.columns[sequence.column].name),
                table=sql.Identifier(*shape.name),
            )
            for number, (shape, sequence) in enumerate(upward)
        )
    )
    return [upward[number] for (number,) in behind]
