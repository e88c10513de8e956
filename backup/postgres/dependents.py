"""What hangs on tables: the objects that DROP TABLE … CASCADE takes with it."""

from collections.abc import Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

from backup.postgres.tables import Address, Connection, Table

FUNCTIONS = frozenset({"aggregate", "function", "procedure"})
"""What `pg_identify_object` calls functions of every sort."""

# Views over views as well, and what takes a row of a table or view as an argument. Whatever speaks of a relation does
# so by itself, its row type or an array of that; found out first, so that each table is not compared with each rule.
_DEPENDENTS = """
with recursive spoken (oid, classid, objid) as materialized (
    select case d.refclassid when 'pg_class'::regclass then d.refobjid
                             else coalesce(nullif(t.typrelid, 0), e.typrelid) end,
           d.classid, d.objid
    from pg_depend d
    left join pg_type t on d.refclassid = 'pg_type'::regclass and t.oid = d.refobjid
    left join pg_type e on e.oid = t.typelem and e.typarray = t.oid
    where d.deptype = 'n' and d.refclassid in ('pg_class'::regclass, 'pg_type'::regclass)
      and d.classid in ('pg_proc'::regclass, 'pg_rewrite'::regclass, 'pg_policy'::regclass)
), relations (oid, root) as (
    select oid, oid from pg_class where oid = any(%(t)s::oid[])
  union
    select w.ev_class, r.root
    from relations r
    join spoken d on d.oid = r.oid and d.classid = 'pg_rewrite'::regclass
    join pg_rewrite w on w.oid = d.objid and w.ev_type = '1'
    where w.ev_class <> all(%(t)s::oid[])
), hanging (classid, oid, root) as (
    select 'pg_class'::regclass::oid, oid, root from relations where oid <> all(%(t)s::oid[])
  union
    select 'pg_constraint'::regclass, c.oid, c.confrelid
    from pg_constraint c
    where c.contype = 'f' and c.conparentid = 0 and c.confrelid = any(%(t)s::oid[]) and c.conrelid <> c.confrelid
  union
    select 'pg_attrdef'::regclass, f.oid, o.refobjid
    from pg_depend o join pg_class s on s.oid = o.objid and s.relkind = 'S'
    join pg_depend d on d.refclassid = 'pg_class'::regclass and d.refobjid = s.oid and d.deptype = 'n'
    join pg_attrdef f on d.classid = 'pg_attrdef'::regclass and f.oid = d.objid and f.adrelid <> o.refobjid
    where o.classid = 'pg_class'::regclass and o.refclassid = 'pg_class'::regclass and o.deptype in ('a', 'i')
      and o.refobjid = any(%(t)s::oid[])
  union
    select d.classid, d.objid, r.root
    from relations r
    join spoken d on d.oid = r.oid
    where not exists (select from pg_rewrite w where d.classid = 'pg_rewrite'::regclass and w.oid = d.objid
                      and (w.ev_type = '1' or w.ev_class = r.oid))
      and not exists (select from pg_policy p where d.classid = 'pg_policy'::regclass and p.oid = d.objid
                      and p.polrelid = r.oid)
)
select h.classid::int8, h.oid::int8, a.type, a.object_names, a.object_args, i.type || ' ' || i.identity,
       array_agg(distinct h.root::int8),
       case h.classid
           when 'pg_constraint'::regclass then (
               select array[
                   format('ALTER TABLE %%s ADD CONSTRAINT %%I %%s', c.conrelid::regclass, c.conname,
                          pg_get_constraintdef(c.oid)),
                   format('COMMENT ON CONSTRAINT %%I ON %%s IS %%L', c.conname, c.conrelid::regclass, d.comment)]
               from pg_constraint c where c.oid = h.oid)
           when 'pg_attrdef'::regclass then (
               select array[
                   format('ALTER TABLE ONLY %%s ALTER COLUMN %%I SET DEFAULT %%s', f.adrelid::regclass, t.attname,
                          pg_get_expr(f.adbin, f.adrelid))]
               from pg_attrdef f join pg_attribute t on t.attrelid = f.adrelid and t.attnum = f.adnum
               where f.oid = h.oid)
           when 'pg_rewrite'::regclass then (
               select array[
                   pg_get_ruledef(w.oid),
                   case w.ev_enabled
                       when 'D' then format('ALTER TABLE %%s DISABLE RULE %%I', w.ev_class::regclass, w.rulename)
                       when 'R' then format('ALTER TABLE %%s ENABLE REPLICA RULE %%I', w.ev_class::regclass, w.rulename)
                       when 'A' then format('ALTER TABLE %%s ENABLE ALWAYS RULE %%I', w.ev_class::regclass, w.rulename)
                   end,
                   format('COMMENT ON RULE %%I ON %%s IS %%L', w.rulename, w.ev_class::regclass, d.comment)]
               from pg_rewrite w where w.oid = h.oid)
           when 'pg_policy'::regclass then (
               select array[
                   format('CREATE POLICY %%I ON %%s AS %%s FOR %%s TO %%s', p.polname, p.polrelid::regclass,
                          case when p.polpermissive then 'PERMISSIVE' else 'RESTRICTIVE' end,
                          case p.polcmd when 'r' then 'SELECT' when 'a' then 'INSERT' when 'w' then 'UPDATE'
                                        when 'd' then 'DELETE' else 'ALL' end,
                          (select string_agg(coalesce(quote_ident(g.rolname), 'PUBLIC'), ', ')
                           from unnest(p.polroles) r left join pg_roles g on g.oid = r))
                      || coalesce(' USING (' || pg_get_expr(p.polqual, p.polrelid) || ')', '')
                      || coalesce(' WITH CHECK (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')', ''),
                   format('COMMENT ON POLICY %%I ON %%s IS %%L', p.polname, p.polrelid::regclass, d.comment)]
               from pg_policy p where p.oid = h.oid)
       end,
       case when h.classid = 'pg_class'::regclass then (
           select array[n.nspname::text, c.relname::text]
           from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = h.oid)
       end
from hanging h, pg_identify_object_as_address(h.classid, h.oid, 0) a, pg_identify_object(h.classid, h.oid, 0) i,
     obj_description(h.oid, (select relname from pg_class where oid = h.classid)) as d (comment)
group by h.classid, h.oid, a.type, a.object_names, a.object_args, i.type, i.identity, d.comment
order by h.oid, h.classid
"""

# What a view needs is what its rule needs; a row type and an array of it stand for their table or view.
_EDGES = """
with hanging as (select * from unnest(%(classes)s::oid[], %(oids)s::oid[]) as h (classid, oid))
select h.classid::int8, h.oid::int8, o.classid::int8, o.oid::int8
from hanging h
left join pg_rewrite w on h.classid = 'pg_class'::regclass and w.ev_class = h.oid
join pg_depend d on d.classid = h.classid and d.objid = h.oid or d.classid = 'pg_rewrite'::regclass and d.objid = w.oid
left join pg_type t on d.refclassid = 'pg_type'::regclass and t.oid = d.refobjid
left join pg_type e on e.oid = t.typelem
join hanging o on o.classid = d.refclassid and o.oid = d.refobjid
    or o.classid = 'pg_class'::regclass and o.oid in (t.typrelid, e.typrelid)
where (h.classid, h.oid) <> (o.classid, o.oid)
"""


# A table's own things hang on it by deptypes other than 'n', save those that a partition has of its parent.
_OTHERS = """
with taken (classid, oid) as (
    select 'pg_class'::regclass::oid, unnest(%(t)s::oid[])
  union
    select 'pg_type'::regclass, unnest(array[t.oid, t.typarray])
    from pg_type t where t.typrelid = any(%(t)s::oid[])
  union
    select 'pg_class'::regclass, d.objid
    from pg_depend d join pg_class s on s.oid = d.objid and s.relkind = 'S'
    where d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass
      and d.refobjid = any(%(t)s::oid[]) and d.deptype in ('a', 'i')
)
select distinct i.type || ' ' || i.identity
from taken join pg_depend d on d.refclassid = taken.classid and d.refobjid = taken.oid and d.deptype = 'n'
left join pg_attrdef f on d.classid = 'pg_attrdef'::regclass and f.oid = d.objid
left join pg_rewrite w on d.classid = 'pg_rewrite'::regclass and w.oid = d.objid
left join pg_constraint c on d.classid = 'pg_constraint'::regclass and c.oid = d.objid
left join pg_trigger g on d.classid = 'pg_trigger'::regclass and g.oid = d.objid
left join pg_policy p on d.classid = 'pg_policy'::regclass and p.oid = d.objid,
     pg_identify_object(d.classid, d.objid, d.objsubid) i
where not (d.classid, d.objid) in (select * from unnest(%(classes)s::oid[], %(oids)s::oid[]))
  and not (d.classid = 'pg_rewrite'::regclass
           and ('pg_class'::regclass::oid, w.ev_class) in (select * from unnest(%(classes)s::oid[], %(oids)s::oid[])))
  and coalesce(f.adrelid, w.ev_class, c.conrelid, g.tgrelid, p.polrelid,
               case when d.classid = 'pg_class'::regclass then d.objid else 0 end) <> all(%(t)s::oid[])
  and not coalesce(g.tgisinternal, false)
order by 1
"""


@dataclass(frozen=True, kw_only=True)
class Dependent:
    """An object that goes when one of `tables` (by OID) is dropped with CASCADE.

    `kind`, `names` and `arguments` find it again by `pg_get_object_address`; `identity` is for people.
    `statements` make it, the first alone or with a comment and the like, save for a view or a function, which
    pg_dump writes: `view` is a view's qualified name.
    """

    address: Address
    kind: str
    names: tuple[str, ...]
    arguments: tuple[str, ...]
    identity: str
    tables: tuple[int, ...]
    statements: tuple[str, ...]
    view: tuple[str, str] | None


def find_dependents(connection: Connection, tables: Sequence[Table]) -> tuple[Dependent, ...]:
    """What goes with the tables, in an order in which it can be made.

    Views and materialized views over them, foreign keys into them, rules and policies that speak of them, or
    of such a view, functions, and defaults that draw on a sequence which a column of theirs owns. A table's own
    are among these where another one of the tables takes them.
    """
    rows = connection.execute(_DEPENDENTS, {"t": [table.oid for table in tables]})
    found = [
        Dependent(
            address=(classid, oid),
            kind=kind,
            names=tuple(names),
            arguments=tuple(arguments),
            identity=identity,
            tables=tuple(roots),
            # Of a comment that is none nothing is left but NULL.
            statements=tuple(s for s in statements or () if s is not None and not s.endswith(" IS NULL")),
            view=(view[0], view[1]) if view else None,
        )
        for classid, oid, kind, names, arguments, identity, roots, statements, view in rows
    ]
    return _ordered(connection, {dependent.address: dependent for dependent in found})


def find_others(connection: Connection, tables: Sequence[Table], dependents: Sequence[Dependent]) -> tuple[str, ...]:
    """What would go with the tables as well and is none of the dependents, in words: it cannot be brought back."""
    parameters = {
        "t": [table.oid for table in tables],
        "classes": [dependent.address[0] for dependent in dependents],
        "oids": [dependent.address[1] for dependent in dependents],
    }
    return tuple(identity for (identity,) in connection.execute(_OTHERS, parameters))


def _ordered(connection: Connection, found: dict[Address, Dependent]) -> tuple[Dependent, ...]:
    """Each after those that it needs: CREATE OR REPLACE makes the order of the OIDs worth nothing."""
    needed: dict[Address, set[Address]] = {address: set() for address in found}
    addresses = {"classes": [classid for classid, _ in found], "oids": [oid for _, oid in found]}
    for classid, oid, other_class, other in connection.execute(_EDGES, addresses):
        needed[classid, oid].add((other_class, other))
    try:
        return tuple(found[address] for address in TopologicalSorter(needed).static_order())
    except CycleError:  # a view may use a function that takes its rows; what cannot be made says so
        return tuple(found.values())
