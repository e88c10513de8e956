"""What makes change data capture work: who writes the CDC tables, who publishes them, by what their rows are told."""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from backup.postgres.shapes import Name, Shape, look_at_shapes
from backup.postgres.tables import Connection
from backup.postgres.unfinished import server_clock

_FUNCTIONS = """
select p.oid::int8, n.nspname::text, p.proname::text,
       format('%I.%I(%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid)),
       coalesce(pg_get_function_sqlbody(p.oid), p.prosrc), l.lanname in ('sql', 'plpgsql'),
       md5(format('%s %s %s %s', coalesce(p.prosqlbody::text, p.prosrc), p.proconfig, p.prosecdef, l.lanname))
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
       t.tgfoid::int8, encode(t.tgargs, 'escape'), pg_get_triggerdef(t.oid), 'trigger',
       array(select array[a.attnum::text, a.attname::text] from pg_attribute a
             where a.attrelid = c.oid and a.attnum = any(t.tgattr)),
       coalesce(md5(t.tgqual::text), ''),
       format('%s %s %s %s %s', tgtype & 67, encode(t.tgargs, 'escape'), tginitdeferred, tgoldtable, tgnewtable)
from pg_trigger t join pg_class c on c.oid = t.tgrelid join pg_namespace n on n.oid = c.relnamespace
where not t.tgisinternal and t.tgparentid = 0
union all
select r.oid::int8, c.oid::int8, n.nspname::text, c.relname::text, r.rulename::text, r.ev_enabled::text,
       array[case r.ev_type when '2' then 'UPDATE' when '3' then 'INSERT' else 'DELETE' end],
       0, pg_get_ruledef(r.oid), pg_get_ruledef(r.oid), 'rule', array[]::text[], '', ''
from pg_rewrite r join pg_class c on c.oid = r.ev_class join pg_namespace n on n.oid = c.relnamespace
where r.ev_type in ('2', '3', '4') and n.nspname <> 'information_schema' and not starts_with(n.nspname::text, 'pg_')
"""

_PUBLICATIONS = """
select p.pubname::text, p.puballtables, p.pubviaroot,
       array_remove(array[case when pubinsert then 'insert' end, case when pubupdate then 'update' end,
                          case when pubdelete then 'delete' end, case when pubtruncate then 'truncate' end], null)
from pg_publication p
"""

# Row filters and lists of columns are in the catalog since PostgreSQL 15; as JSON, what is not there is null.
_PUBLISHED = """
select t.pubname::text, t.schemaname::text, t.tablename::text, to_jsonb(t) ->> 'rowfilter',
       array(select jsonb_array_elements_text(nullif(to_jsonb(t) -> 'attnames', 'null'))),
       exists (select from pg_publication_rel r join pg_publication p on p.oid = r.prpubid
               join pg_class c on c.oid = r.prrelid join pg_namespace n on n.oid = c.relnamespace
               where p.pubname = t.pubname and n.nspname = t.schemaname and c.relname = t.tablename
                 and to_jsonb(r) ->> 'prattrs' is not null)
from pg_publication_tables t
"""

# Where it is 'replica', triggers that are not ENABLE ALWAYS do not fire (Server Configuration, Statement Behavior).
_REPLICA = """
select concat(case when s.setrole <> 0 then format('ALTER ROLE %I', r.rolname)
                   when s.setdatabase = 0 then 'ALTER ROLE ALL' else format('ALTER DATABASE %I', d.datname) end,
              case when s.setrole <> 0 and s.setdatabase <> 0 then format(' IN DATABASE %I', d.datname) end,
              ' RESET session_replication_role')
from pg_db_role_setting s left join pg_database d on d.oid = s.setdatabase left join pg_roles r on r.oid = s.setrole
where 'session_replication_role=replica' = any(s.setconfig) and (d.oid is null or d.datname = current_database())
"""

_ROLES = """
select oid::int8, quote_ident(rolname) from pg_roles where not rolsuper union all select 0, 'PUBLIC'
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

    `enabled` is as in `pg_trigger`. `function` is 0 where there is none. `columns` are those of UPDATE OF, by number;
    `condition` is a hash of its WHEN, which outlives the renaming of what it names; `manner` is when, how often and
    with which arguments it fires.
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
    columns: Mapping[int, str] = field(default_factory=dict)
    condition: str = ""
    manner: str = ""

    @property
    def fires(self) -> bool:
        """Whether it fires in a session of an application."""
        return self.enabled in ("O", "A")

    @property
    def is_before(self) -> bool:
        """Whether it fires before a row is written, and can change it."""
        return " BEFORE " in self.definition

    @property
    def when(self) -> str:
        """Its WHEN, as PostgreSQL writes it; empty without one."""
        found = re.search(r" WHEN \((.*)\) EXECUTE ", self.definition, re.DOTALL) if self.condition else None
        return found[1] if found else ""


@dataclass(frozen=True, kw_only=True)
class Function:
    """A function of a trigger, or one that itself speaks of the CDC tables `names`; `definition` makes it again.

    `source` is its body in small letters, without quotes around names and without comments. `content` is a hash of the
    body and the settings, which outlives another name of the function.
    """

    oid: int
    signature: str
    names: frozenset[Name]
    definition: str
    source: str
    content: str


@dataclass(frozen=True, kw_only=True)
class Published:
    """What of a table a publication sends; `listed` says that its columns were listed, or new ones come by themselves.

    Before PostgreSQL 15 that is all of it, and `columns` is empty.
    """

    filter: str
    columns: tuple[str, ...]
    listed: bool


@dataclass(frozen=True, kw_only=True)
class Publication:
    """A publication; `tables` are all that it publishes, also by FOR ALL TABLES and IN SCHEMA."""

    name: str
    all_tables: bool
    via_root: bool
    operations: tuple[str, ...]
    tables: Mapping[Name, Published]


@dataclass(frozen=True, kw_only=True)
class Machinery:
    """Triggers on CDC tables, triggers and functions that speak of them, publications with them, replica identities.

    `moment` is the server's clock. `there` and `relations` are, by name and by OID, the relations that exist of those
    that were asked for. `replica` are the statements that take back session_replication_role = replica, where the
    database or a role has it. `roles` are those that are no superusers, quoted where they must be, and PUBLIC, by OID.
    """

    moment: datetime
    triggers: tuple[Trigger, ...] = ()
    functions: dict[int, Function] = field(default_factory=dict)
    publications: dict[str, Publication] = field(default_factory=dict)
    identities: dict[Name, str] = field(default_factory=dict)
    there: frozenset[Name] = frozenset()
    relations: frozenset[int] = frozenset()
    shapes: dict[Name, Shape] = field(default_factory=dict)
    replica: frozenset[str] = frozenset()
    roles: dict[int, str] = field(default_factory=dict)


def look_at_machinery(connection: Connection, names: Collection[Name], earlier: Machinery | None = None) -> Machinery:
    """What makes the CDC tables `names` work; whether these and the tables of `earlier` triggers are there.

    A function speaks of a table that its source names as a word, or that it puts together from a prefix in its
    source and the name of the table that its trigger is on; also by calling another function that does. PostgreSQL
    knows of no such dependency, except of a body that is SQL (BEGIN ATOMIC), which is read as text as well.
    """
    moment = server_clock(connection)
    schemas, tables = zip(*names, strict=True) if names else ((), ())
    functions = connection.execute(_FUNCTIONS).fetchall()
    sources = {oid: _plain(_told(source) if is_sql else source) for oid, _, _, _, source, is_sql, _ in functions}
    words = _by_name(names)
    odd = [name for name in words if not re.fullmatch(r"\w+", name)]
    said_by = {oid: _named(source, words, odd) for oid, source in sources.items()}
    reached = _reach({oid: name for oid, _, name, *_ in functions}, sources, said_by)
    others = earlier.triggers if earlier else ()
    known = {trigger.oid for trigger in others} | {(trigger.on, trigger.name) for trigger in others}
    triggers = []
    for row in connection.execute(_TRIGGERS):
        oid, relation, schema, table, name, enabled, events, function, said, definition, kind, columns, *rest = row
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
                    columns={int(number): column for number, column in columns},
                    condition=rest[0],
                    manner=rest[1],
                )
            )
    wanted = {oid for oid, spoken in reached.items() if spoken} | {t.function for t in (*triggers, *others)}
    definitions: dict[int, str] = dict(connection.execute(_DEFINITIONS, [list(wanted)]).fetchall())
    asked = [*names, *(trigger.on for trigger in others)]
    published: dict[str, dict[Name, Published]] = defaultdict(dict)
    for publication, schema, table, rows, columns, listed in connection.execute(_PUBLISHED):
        published[publication][schema, table] = Published(filter=rows or "", columns=tuple(columns), listed=listed)
    return Machinery(
        moment=moment,
        triggers=tuple(triggers),
        functions={
            oid: Function(
                oid=oid,
                signature=signature,
                names=reached[oid],
                definition=definitions[oid].rstrip(),
                source=sources[oid],
                content=content,
            )
            for oid, _, _, signature, _, _, content in functions
            if oid in definitions
        },
        publications={
            name: Publication(
                name=name,
                all_tables=all_tables,
                via_root=via_root,
                operations=tuple(operations),
                tables=published[name],
            )
            for name, all_tables, via_root, operations in connection.execute(_PUBLICATIONS)
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
        shapes=look_at_shapes(connection, names),
        replica=frozenset(statement for (statement,) in connection.execute(_REPLICA)),
        roles=dict(connection.execute(_ROLES).fetchall()),
    )


def _told(source: str) -> str:
    """A source in SQL or PL/pgSQL without its comments: what only they name, nobody writes."""
    return re.sub(r"('(?:[^']|'')*')|--[^\n]*|/\*.*?\*/", lambda found: found[1] or " ", source, flags=re.DOTALL)


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
