"""The tables that given ones refer to, step by step: what is deleted, emptied or dropped there strikes them too."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from psycopg import sql

from backup.postgres.tables import Connection, Table, find_tables_by

Name = tuple[str, str]
"""Schema and name."""

_EDGES = """
with recursive edges (child, parent, inherits, deletes) as (
    select conrelid, confrelid, false, confdeltype = 'c' from pg_constraint where contype = 'f'
    union all
    select inhrelid, inhparent, true, true from pg_inherits
), reached (oid) as (
    select unnest(%s::oid[])
  union
    select edges.parent from edges join reached on reached.oid = edges.child
), names as (
    select c.oid, n.nspname::text as schema, c.relname::text as name
    from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.relkind in ('r', 'p')
)
select distinct c.schema, c.name, p.schema, p.name, e.inherits, e.deletes
from edges e join reached r on r.oid = e.child join names c on c.oid = e.child join names p on p.oid = e.parent
where e.child <> e.parent
order by 1, 2, 3, 4, 5, 6
"""


class Reference(NamedTuple):
    """A table's reference to another, as a partition or child of it (`inherits`) or by foreign key.

    `deletes`: where a row of the other goes, rows of this one go too.
    """

    to: Name
    inherits: bool
    deletes: bool


@dataclass(frozen=True, kw_only=True)
class References:
    """What each table refers to, and of all tables at the other ends the OID and whether it has rows."""

    of: Mapping[Name, tuple[Reference, ...]]
    state: Mapping[Name, tuple[int, bool]]

    def deleting(self, table: Name) -> set[Name]:
        """The tables in which a DELETE takes rows of this one along."""
        found: set[Name] = set()
        todo = [table]
        while todo:
            new = {reference.to for reference in self.of.get(todo.pop(), ()) if reference.deletes} - found
            found |= new
            todo += new
        return found

    def source(self, table: Name, after: Mapping[Name, tuple[int, bool]], *, dropped: bool) -> Name | None:
        """The farthest table that was struck and passed it on to this one; None where nothing tells of one.

        Args:
            table: the table that was dropped, or emptied in whole or part.
            after: the state of the other tables afterwards.
            dropped: by DROP, which takes partitions and children along; a foreign key only passes on loss of rows.
        """
        todo, struck = [table], [table]
        while todo:
            for reference in self.of.get(todo.pop(0), ()):
                if reference.to not in struck and (reference.inherits or not dropped):
                    oid, filled = self.state[reference.to]
                    now_oid, now_filled = after.get(reference.to, (0, False))
                    if oid != now_oid or (filled and not now_filled):
                        struck.append(reference.to)
                        todo.append(reference.to)
        return struck[-1] if len(struck) > 1 else None


def find_references(connection: Connection, tables: Sequence[Table]) -> References:
    """What the tables refer to, directly and through others."""
    found: dict[Name, tuple[Reference, ...]] = {}
    for schema, name, to_schema, to_name, inherits, deletes in connection.execute(_EDGES, [[t.oid for t in tables]]):
        reference = Reference((to_schema, to_name), inherits, deletes)
        found[schema, name] = (*found.get((schema, name), ()), reference)
    ends = {reference.to for references in found.values() for reference in references}
    return References(of=found, state=find_state(connection, ends))


def find_state(connection: Connection, names: "set[Name] | Mapping[Name, object]") -> dict[Name, tuple[int, bool]]:
    """OID, and whether it has rows, of each of the tables that is there."""
    state = {}
    for table in find_tables_by(connection, [], list(names)):
        row = connection.execute(sql.SQL("select exists (select from {})").format(table.identifier)).fetchone()
        state[table.schema, table.name] = (table.oid, bool(row and row[0]))
    return state
