"""What makes change data capture work: who writes the CDC tables, who publishes them, by what their rows are told."""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from backup.postgres.tables import Connection
from backup.postgres.unfinished import server_clock

Name = tuple[str, str]
"""Schema and name of a relation."""

_FUNCTIONS = """
select p.oid::int8, n.nspname::text, p.proname::text,
       format('%I.%I(%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid)),
       coalesce(pg_get_function_sqlbody(p.oid), p.prosrc)
from pg_proc p join pg_namespace n on n.oid = p.pronamespace join pg_language l on l.oid = p.prolang
where p.prokind in ('f', 'p') and l.lanname not in ('c', 'internal')
  and n.nspname <> 'information_schema' and not starts_with(n.nspname::text, 'pg_')
"""

_DEFINITIONS = """
select oid::int8, pg_get_functiondef(oid) from pg_proc where oid = any(%s::oid[]) and prokind in ('f', 'p')
"""

# A trigger that a partition has from its parent is told with the parent's. 'O' fires in sessions of applications.
_TRIGGERS = """
select t.oid::int8, c.oid::int8, n.nspname::text, c.relname::text, t.tgname::text, t.tgenabled::text,
       array_remove(array[case when tgtype & 4 <> 0 then 'INSERT' end, case when tgtype & 16 <> 0 then 'UPDATE' end,
                          case when tgtype & 8 <> 0 then 'DELETE' end, case when tgtype & 32 <> 0 then 'TRUNCATE' end],
                    null),
       t.tgfoid::int8, encode(t.tgargs, 'escape'), pg_get_triggerdef(t.oid), 'trigger'
from pg_trigger t join pg_class c on c.oid = t.tgrelid join pg_namespace n on n.oid = c.relnamespace
where not t.tgisinternal and t.tgparentid = 0
union all
select r.oid::int8, c.oid::int8, n.nspname::text, c.relname::text, r.rulename::text, r.ev_enabled::text,
       array[case r.ev_type when '2' then 'UPDATE' when '3' then 'INSERT' else 'DELETE' end],
       0, pg_get_ruledef(r.oid), pg_get_ruledef(r.oid), 'rule'
from pg_rewrite r join pg_class c on c.oid = r.ev_class join pg_namespace n on n.oid = c.relnamespace
where r.ev_type in ('2', '3', '4') and n.nspname <> 'information_schema' and not starts_with(n.nspname::text, 'pg_')
"""

_PUBLICATIONS = """
select p.pubname::text, p.puballtables, p.pubviaroot,
       array_remove(array[case when pubinsert then 'insert' end, case when pubupdate then 'update' end,
                          case when pubdelete then 'delete' end, case when pubtruncate then 'truncate' end], null),
       array(select array[t.schemaname::text, t.tablename::text] from pg_publication_tables t
             where t.pubname = p.pubname)
from pg_publication p
"""

_IDENTITIES = """
select n.nspname::text, c.relname::text,
       case c.relreplident when 'd' then 'DEFAULT' when 'n' then 'NOTHING' when 'f' then 'FULL'
            else coalesce((select format('USING INDEX %%I', x.relname) from pg_index i
                           join pg_class x on x.oid = i.indexrelid where i.indrelid = c.oid and i.indisreplident),
                          'an index that is gone') end
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'p')
  and (n.nspname::text, c.relname::text) in (select * from unnest(%s::text[], %s::text[]))
"""

_THERE = """
select n.nspname::text, c.relname::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
where (n.nspname::text, c.relname::text) in (select * from unnest(%s::text[], %s::text[]))
"""


@dataclass(frozen=True, kw_only=True)
class Trigger:
    """A trigger or a rule; `names` are the CDC tables that it speaks of, itself or through functions.

    `enabled` is as in `pg_trigger`. `function` is 0 where there is none.
    """

    oid: int
    kind: str
    relation: int
    on: Name
    name: str
    enabled: str
    events: tuple[str, ...]
    function: int
    definition: str
    names: frozenset[Name]

    @property
    def fires(self) -> bool:
        """Whether it fires in a session of an application."""
        return self.enabled in ("O", "A")


@dataclass(frozen=True, kw_only=True)
class Function:
    """A function of a trigger, or one that itself speaks of the CDC tables `names`; `definition` makes it again."""

    oid: int
    signature: str
    names: frozenset[Name]
    definition: str


@dataclass(frozen=True, kw_only=True)
class Publication:
    """A publication; `tables` are all that it publishes, also by FOR ALL TABLES and IN SCHEMA."""

    name: str
    all_tables: bool
    via_root: bool
    operations: tuple[str, ...]
    tables: frozenset[Name]


@dataclass(frozen=True, kw_only=True)
class Machinery:
    """Triggers on CDC tables, triggers and functions that speak of them, publications with them, replica identities.

    `moment` is the server's clock. `there` and `relations` are, by name and by OID, the relations that exist of those
    that were asked for.
    """

    moment: datetime
    triggers: tuple[Trigger, ...] = ()
    functions: dict[int, Function] = field(default_factory=dict)
    publications: dict[str, Publication] = field(default_factory=dict)
    identities: dict[Name, str] = field(default_factory=dict)
    there: frozenset[Name] = frozenset()
    relations: frozenset[int] = frozenset()


def look_at_machinery(connection: Connection, names: Collection[Name], earlier: Machinery | None = None) -> Machinery:
    """What makes the CDC tables `names` work; whether these and the tables of `earlier` triggers are there.

    A function speaks of a table that its source names as a word, or that it puts together from a prefix in its
    source and the name of the table that its trigger is on; also by calling another function that does. PostgreSQL
    knows of no such dependency, except of a body that is SQL (BEGIN ATOMIC), which is read as text as well.
    """
    moment = server_clock(connection)
    schemas, tables = zip(*names, strict=True) if names else ((), ())
    functions = connection.execute(_FUNCTIONS).fetchall()
    sources = {oid: _plain(source) for oid, _, _, _, source in functions}
    words = _by_name(names)
    odd = [name for name in words if not re.fullmatch(r"\w+", name)]
    said_by = {oid: _named(source, words, odd) for oid, source in sources.items()}
    reached = _reach({oid: name for oid, _, name, _, _ in functions}, sources, said_by)
    others = earlier.triggers if earlier else ()
    known = {trigger.oid for trigger in others} | {(trigger.on, trigger.name) for trigger in others}
    triggers = []
    for oid, relation, schema, table, name, enabled, events, function, said, definition, kind in connection.execute(
        _TRIGGERS
    ):
        spoken = reached.get(function, frozenset()) | _named(_plain(said), words, odd)
        spoken |= _put_together(sources.get(function, ""), table, names)
        if spoken or (schema, table) in names or {oid, ((schema, table), name)} & known:
            triggers.append(
                Trigger(
                    oid=oid,
                    kind=kind,
                    relation=relation,
                    on=(schema, table),
                    name=name,
                    enabled=enabled,
                    events=tuple(events),
                    function=function,
                    definition=definition.rstrip(";"),
                    names=spoken - {(schema, table)},
                )
            )
    wanted = {oid for oid, spoken in reached.items() if spoken} | {t.function for t in (*triggers, *others)}
    definitions: dict[int, str] = dict(connection.execute(_DEFINITIONS, [list(wanted)]).fetchall())
    asked = [*names, *(trigger.on for trigger in others)]
    return Machinery(
        moment=moment,
        triggers=tuple(triggers),
        functions={
            oid: Function(
                oid=oid,
                signature=signature,
                names=reached[oid],
                definition=definitions[oid].rstrip(),
            )
            for oid, _, _, signature, _ in functions
            if oid in definitions
        },
        publications={
            name: Publication(
                name=name,
                all_tables=all_tables,
                via_root=via_root,
                operations=tuple(operations),
                tables=frozenset((schema, table) for schema, table in published),
            )
            for name, all_tables, via_root, operations, published in connection.execute(_PUBLICATIONS)
        },
        identities={
            (schema, table): identity
            for schema, table, identity in connection.execute(_IDENTITIES, [list(schemas), list(tables)])
        },
        there=frozenset(
            (schema, table)
            for schema, table in connection.execute(_THERE, [[s for s, _ in asked], [t for _, t in asked]])
        ),
        relations=frozenset(
            oid
            for (oid,) in connection.execute(
                "select oid::int8 from pg_class where oid = any(%s::oid[])", [[trigger.relation for trigger in others]]
            )
        ),
    )


def _plain(source: str) -> str:
    """A source in which a quoted name looks like one that is not."""
    return source.replace('"', "").lower()


def _by_name(names: Iterable[Name]) -> dict[str, list[Name]]:
    by_name: dict[str, list[Name]] = defaultdict(list)
    for name in names:
        by_name[name[1].lower()].append(name)
    return dict(by_name)


def _named(plain: str, by_name: Mapping[str, Sequence[Name]], odd: Iterable[str]) -> frozenset[Name]:
    """The tables that a source names; by schema where it names one of theirs. `odd` are the names that are no words."""
    found: set[Name] = set()
    for word in re.finditer(r"\w+", plain):
        if candidates := by_name.get(word[0]):
            schema = re.search(r"(\w+)\s*\.\s*$", plain[: word.start()][-200:])
            found.update([name for name in candidates if schema and name[0].lower() == schema[1]] or candidates)
    for name in odd:
        if name in plain:
            found.update(by_name[name])
    return frozenset(found)


def _put_together(plain: str, table: str, names: Iterable[Name]) -> frozenset[Name]:
    """The tables whose names are a prefix that stands in the source, and then the name of the trigger's table."""
    prefixes = {name: name[1].removesuffix(table).lower() for name in names if name[1].endswith(table)}
    return frozenset(
        name for name, prefix in prefixes.items() if prefix and re.search(rf"(?<!\w){re.escape(prefix)}(?!\w)", plain)
    )


def _reach(
    by_oid: Mapping[int, str], sources: Mapping[int, str], said_by: Mapping[int, frozenset[Name]]
) -> dict[int, frozenset[Name]]:
    """The CDC tables that each function speaks of, by itself and through those that it calls."""
    reached = dict(said_by)
    by_name: dict[str, list[int]] = defaultdict(list)
    for oid, name in by_oid.items():
        by_name[name.lower()].append(oid)
    calls = {
        oid: [g for word in set(re.findall(r"(\w+)\s*\(", plain)) for g in by_name.get(word, ()) if g != oid]
        for oid, plain in sources.items()
    }
    grown = True
    while grown:
        grown = False
        for oid, called in calls.items():
            more = reached[oid].union(*(reached[g] for g in called))
            grown, reached[oid] = grown or more != reached[oid], more
    return reached


def statements_for(trigger: Trigger, functions: Mapping[int, Function]) -> Sequence[str]:
    """The statements that make the trigger again, its function first."""
    function = functions.get(trigger.function)
    return (*([function.definition] if function else ()), trigger.definition)
