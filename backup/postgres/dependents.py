"""What hangs on tables: the objects that DROP TABLE … CASCADE takes with it."""

from collections.abc import Sequence
from dataclasses import dataclass

from backup.postgres.tables import Address, Connection, Table

# Views over views as well, and what takes a row of a table or view as an argument.
_DEPENDENTS = """
with recursive relations (oid, root) as (
    select oid, oid from pg_class where oid = any(%(t)s::oid[])
  union
    select w.ev_class, r.root
    from relations r
    join pg_type t on t.typrelid = r.oid
    join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.deptype = 'n'
        and ((d.refclassid = 'pg_class'::regclass and d.refobjid = r.oid)
             or (d.refclassid = 'pg_type'::regclass and d.refobjid in (t.oid, t.typarray)))
    join pg_rewrite w on w.oid = d.objid and w.ev_type = '1'
    where w.ev_class <> all(%(t)s::oid[])
), hanging (classid, oid, root) as (
    select 'pg_class'::regclass::oid, oid, root from relations where oid <> all(%(t)s::oid[])
  union
    select 'pg_constraint'::regclass, c.oid, c.confrelid
    from pg_constraint c
    where c.contype = 'f' and c.conparentid = 0 and c.confrelid = any(%(t)s::oid[]) and c.conrelid <> all(%(t)s::oid[])
  union
    select d.classid, d.objid, r.root
    from relations r
    join pg_type t on t.typrelid = r.oid
    join pg_depend d on d.deptype = 'n'
        and d.classid in ('pg_proc'::regclass, 'pg_rewrite'::regclass, 'pg_policy'::regclass)
        and ((d.refclassid = 'pg_class'::regclass and d.refobjid = r.oid)
             or (d.refclassid = 'pg_type'::regclass and d.refobjid in (t.oid, t.typarray)))
    where not exists (select from pg_rewrite w where d.classid = 'pg_rewrite'::regclass and w.oid = d.objid
                      and (w.ev_type = '1' or w.ev_class = any(%(t)s::oid[])))
      and not exists (select from pg_policy p where d.classid = 'pg_policy'::regclass and p.oid = d.objid
                      and p.polrelid = any(%(t)s::oid[]))
)
select h.classid::int8, h.oid::int8, a.type, a.object_names, a.object_args, i.type || ' ' || i.identity,
       array_agg(distinct h.root::int8),
       case h.classid
           when 'pg_constraint'::regclass then (
               select format('ALTER TABLE %%s ADD CONSTRAINT %%I %%s', c.conrelid::regclass, c.conname,
                             pg_get_constraintdef(c.oid))
               from pg_constraint c where c.oid = h.oid)
           when 'pg_proc'::regclass then (
               select pg_get_functiondef(p.oid) from pg_proc p where p.oid = h.oid and p.prokind <> 'a')
           when 'pg_rewrite'::regclass then pg_get_ruledef(h.oid)
           when 'pg_policy'::regclass then (
               select format('CREATE POLICY %%I ON %%s AS %%s FOR %%s TO %%s', p.polname, p.polrelid::regclass,
                             case when p.polpermissive then 'PERMISSIVE' else 'RESTRICTIVE' end,
                             case p.polcmd when 'r' then 'SELECT' when 'a' then 'INSERT' when 'w' then 'UPDATE'
                                           when 'd' then 'DELETE' else 'ALL' end,
                             (select string_agg(coalesce(quote_ident(g.rolname), 'PUBLIC'), ', ')
                              from unnest(p.polroles) r left join pg_roles g on g.oid = r))
                      || coalesce(' USING (' || pg_get_expr(p.polqual, p.polrelid) || ')', '')
                      || coalesce(' WITH CHECK (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')', '')
               from pg_policy p where p.oid = h.oid)
       end,
       case when h.classid = 'pg_class'::regclass then (
           select array[n.nspname::text, c.relname::text]
           from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = h.oid)
       end
from hanging h, pg_identify_object_as_address(h.classid, h.oid, 0) a, pg_identify_object(h.classid, h.oid, 0) i
group by h.classid, h.oid, a.type, a.object_names, a.object_args, i.type, i.identity
order by h.oid, h.classid
"""


@dataclass(frozen=True, kw_only=True)
class Dependent:
    """An object that goes when one of `tables` (by OID) is dropped with CASCADE.

    `kind`, `names` and `arguments` find it again by `pg_get_object_address`; `identity` is for people.
    `statement` makes it, save for a view, which pg_dump writes: `view` is then its qualified name.
    """

    address: Address
    kind: str
    names: tuple[str, ...]
    arguments: tuple[str, ...]
    identity: str
    tables: tuple[int, ...]
    statement: str
    view: tuple[str, str] | None


def find_dependents(connection: Connection, tables: Sequence[Table]) -> tuple[Dependent, ...]:
    """What goes with the tables, in the order in which it was made.

    Views and materialized views over them, foreign keys of other tables into them, rules and policies of
    other tables and functions that speak of them.
    """
    rows = connection.execute(_DEPENDENTS, {"t": [table.oid for table in tables]})
    return tuple(
        Dependent(
            address=(classid, oid),
            kind=kind,
            names=tuple(names),
            arguments=tuple(arguments),
            identity=identity,
            tables=tuple(roots),
            statement=statement or "",
            view=(view[0], view[1]) if view else None,
        )
        for classid, oid, kind, names, arguments, identity, roots, statement, view in rows
    )
