"""Which of pg_dump's entries belong to which table, and when in a restore their turn is."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

from backup.errors import BackupError
from backup.postgres.archive import Entry
from backup.postgres.dependents import Dependent
from backup.postgres.needs import Need
from backup.postgres.surroundings import Surroundings
from backup.postgres.tables import Address, Table
from backup.session.dump import Dump, Rows

_TABLES = frozenset({"TABLE", "FOREIGN TABLE"})
_VIEWS = frozenset({"VIEW", "MATERIALIZED VIEW"})
_OF_NO_TABLE = frozenset({"ENCODING", "STDSTRINGS", "SEARCHPATH", "DATABASE", "DATABASE PROPERTIES"})
_ELSEWHERE = _TABLES | _OF_NO_TABLE | {"TABLE DATA", "STATISTICS DATA"}
_UPON = frozenset({"ACL", "COMMENT", "SECURITY LABEL", "SEQUENCE SET"})
_LATE = frozenset({"FK CONSTRAINT", "INDEX ATTACH"})
_OF_OTHERS_TOO = frozenset({"RULE", "POLICY"})
_SETVAL = re.compile(r"setval\('.*', (-?\d+), (true|false)\);", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class NeedContents:
    """Something that tables need: how to find it, and the statements that make it."""

    need: Need
    entries: tuple[Entry, ...]


@dataclass(frozen=True, kw_only=True)
class SequenceContents:
    """A sequence that a column has its values from: where it stood, and whether that value had been used.

    `name` is its qualified name; None where the column owns it, and so tells which it is.
    """

    column: str
    name: tuple[str, str] | None
    value: int
    called: bool


@dataclass(kw_only=True)
class DependentContents:
    """What hangs on tables and goes with them: pg_dump's entries where there are any.

    `owner` is the OID of the one of the tables that it is a part of, such as a foreign key; else None.
    """

    dependent: Dependent
    owner: int | None
    entries: list[Entry] = field(default_factory=list)


@dataclass(kw_only=True)
class TableContents:
    """A table and all that comes back with it, each part in the order of its restore.

    `functions_before` and `functions_within` hang on tables, and the table needs them: for its definition,
    or, where they take its own rows, for what follows those.

    `details` follow the rows: sequences, defaults, constraints, indexes, triggers, rules, policies,
    comments. `late` needs other tables to be back: foreign keys, an index's place in a partitioned one,
    whether a trigger that a partition has from its parent fires.
    `sequences` are those that its columns own, or have their defaults from. `lent` are those of its own that
    others need as well, by the dump ID of their entry.
    `statistics` and `publications` are statements, for which pg_dump has no entry.
    """

    table: Table
    definition: Entry
    rows: Rows | None
    needs: tuple[NeedContents, ...]
    functions_before: tuple[DependentContents, ...]
    functions_within: tuple[DependentContents, ...]
    schema_statements: tuple[str, ...]
    details: list[Entry] = field(default_factory=list)
    attachments: list[Entry] = field(default_factory=list)
    late: list[Entry] = field(default_factory=list)
    grants: list[Entry] = field(default_factory=list)
    sequences: list[SequenceContents] = field(default_factory=list)
    lent: dict[int, NeedContents] = field(default_factory=dict)
    statistics: tuple[str, ...] = ()
    publications: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Contents:
    """All that a session holds, in the order in which it can be restored: dependents after all tables."""

    tables: tuple[TableContents, ...]
    dependents: tuple[DependentContents, ...]


def sort_contents(tables: Sequence[Table], surroundings: Surroundings, dump: Dump) -> Contents:
    """The tables with all that comes back with each, and with what hangs on them.

    Raises:
        BackupError: pg_dump wrote an entry that belongs to none of the tables.
    """
    by_oid = {table.oid: table for table in tables}
    dependents = {
        d.address: DependentContents(dependent=d, owner=surroundings.parts.get(d.address) if not d.view else None)
        for d in surroundings.dependents
    }
    needs = _needs(surroundings, dump, dependents.keys())
    contents = {
        entry.oid: TableContents(
            table=by_oid[entry.oid],
            definition=entry,
            rows=dump.rows.get(entry.oid),
            needs=tuple(
                sorted(
                    (needs[n.address][1] for n in surroundings.needs[entry.oid] if n.address in needs),
                    key=lambda n: needs[n.need.address][0],
                )
            ),
            functions_before=tuple(
                d for d in _functions(entry.oid, surroundings, dependents) if not _takes(d, entry.oid)
            ),
            functions_within=tuple(d for d in _functions(entry.oid, surroundings, dependents) if _takes(d, entry.oid)),
            schema_statements=surroundings.schemas.get(by_oid[entry.oid].schema, ()),
            publications=surroundings.publications.get(entry.oid, ()),
        )
        for entry in dump.entries
        if entry.kind in _TABLES and entry.oid in by_oid
    }
    views = {d.dependent.address[1]: d for d in dependents.values() if d.dependent.view}
    owner_of = _Owners(dump.entries, by_oid, frozenset(views), surroundings)
    entries = {entry.dump_id: entry for entry in dump.entries}
    functions = {entry.dump_id: entry for entry in dump.need_entries}
    for entry in dump.need_entries:
        subject = _subject(entry, functions)
        if (subject.catalog, subject.oid) in dependents:
            dependents[subject.catalog, subject.oid].entries.append(entry)
    for entry in dump.entries:
        if entry.kind in _ELSEWHERE:
            continue
        oid = owner_of(entry)
        subject = _subject(entry, entries)
        if oid in views:
            views[oid].entries.append(entry)
        elif (subject.catalog, subject.oid) in dependents and entry.kind != "DEFAULT":
            dependents[subject.catalog, subject.oid].entries.append(entry)
        elif oid is not None:
            _place(contents[oid], entry, subject)
            if (entry.catalog, entry.oid) in needs:
                contents[oid].lent[entry.dump_id] = needs[entry.catalog, entry.oid][1]
        value = _SETVAL.search(entry.text) if entry.kind == "SEQUENCE SET" else None
        if value is not None:
            called = value[2] == "true"
            if oid is not None:
                own = SequenceContents(
                    column=surroundings.sequences[subject.oid], name=None, value=int(value[1]), called=called
                )
                contents[oid].sequences.append(own)
            for table, column in surroundings.drawn.get(subject.oid, ()):
                name = (subject.schema, subject.tag)
                drawn = SequenceContents(column=column, name=name, value=int(value[1]), called=called)
                contents[table].sequences.append(drawn)
    for oid, statements in surroundings.statistics.items():
        if not any(entry.kind == "STATISTICS" for entry in contents[oid].details):
            contents[oid].statistics = statements
    return Contents(tables=tuple(contents.values()), dependents=tuple(dependents.values()))


def definition_digest(contents: TableContents) -> str:
    """SHA-256 over all that makes the table what it is, save what other tables and roles have a part in."""
    entries = [contents.definition, *contents.details, *contents.attachments]
    texts = [f"{e.kind} {e.schema} {e.tag} {e.text}" for e in entries if e.kind not in _OF_OTHERS_TOO]
    return hashlib.sha256("\0".join(sorted([*texts, *contents.statistics])).encode("utf-8", "replace")).hexdigest()


def _subject(entry: Entry, entries: dict[int, Entry]) -> Entry:
    """What a comment or the like speaks of; any other entry itself."""
    return entries.get(entry.depends_on[0], entry) if entry.kind in _UPON and entry.depends_on else entry


def _functions(
    oid: int, surroundings: Surroundings, dependents: dict[Address, DependentContents]
) -> Iterator[DependentContents]:
    """Those of the dependents that the table needs, in the order of the dependents."""
    needed = {need.address for need in surroundings.needs[oid]}
    return (d for address, d in dependents.items() if address in needed)


def _takes(contents: DependentContents, oid: int) -> bool:
    return oid in contents.dependent.tables


def _place(contents: TableContents, entry: Entry, subject: Entry) -> None:
    """Put an entry, a comment with its `subject`, to the others of its time."""
    # A partition's trigger that its parent's made is only switched, once it is attached and the parent's is back.
    switched = entry.kind == "TRIGGER" and entry.text.lstrip().startswith("ALTER TABLE")
    if subject.kind in _LATE or switched:
        contents.late.append(entry)
    elif entry.kind == "TABLE ATTACH":
        contents.attachments.append(entry)
    elif entry.kind == "ACL":
        contents.grants.append(entry)
    else:
        contents.details.append(entry)


class _Owners:
    """Tells an entry's table by catalog OID, and of what has none by the entry that it speaks of."""

    def __init__(
        self, entries: tuple[Entry, ...], tables: dict[int, Table], views: frozenset[int], surroundings: Surroundings
    ) -> None:
        self._entries = {entry.dump_id: entry for entry in entries}
        self._tables = tables
        self._relations = views.union(tables)
        self._parts = surroundings.parts
        self._needs = {need.address for needs in surroundings.needs.values() for need in needs}

    def __call__(self, entry: Entry) -> int | None:
        """The OID of the entry's table or view; None where it belongs to what they need, or to the database."""
        if entry.kind in _OF_NO_TABLE:
            return None
        if entry.kind in ("TABLE ATTACH", "INDEX ATTACH"):
            relations = (self(self._entries[d]) for d in entry.depends_on if d in self._entries)
            line = {oid for oid in relations if oid is not None and oid in self._tables}
            # It depends on all further up as well: its own is the table that is nobody's parent among them.
            return next(iter(line.difference(*(self._tables[oid].parents for oid in line))))
        if entry.oid in self._relations and (entry.kind in _TABLES | _VIEWS or not entry.catalog):
            return entry.oid
        if (entry.catalog, entry.oid) in self._parts:
            return self._parts[entry.catalog, entry.oid]
        if (entry.catalog, entry.oid) in self._needs:
            return None
        for dependency in entry.depends_on:
            if not entry.catalog and dependency in self._entries:
                return self(self._entries[dependency])
        raise BackupError(
            f"pg_dump wrote a {entry.kind} {entry.tag!r} that belongs to none of the tables.",
            untouched="No session was written.",
            remedy="Please report this, with the object's definition.",
        )


def _needs(
    surroundings: Surroundings, dump: Dump, dependents: Collection[Address]
) -> dict[Address, tuple[tuple[int, int], NeedContents]]:
    """What pg_dump wrote of each need that is no dependent as well, and its place in the order.

    A member of an extension has no text of its own and is not here: it comes with the extension.
    """
    wanted = {need.address: need for needs in surroundings.needs.values() for need in needs}
    found: dict[Address, tuple[tuple[int, int], NeedContents]] = {}
    for entries in (dump.need_entries, dump.entries):
        upon = defaultdict(list)
        for entry in entries:
            if entry.kind in _UPON and entry.depends_on:
                upon[entry.depends_on[0]].append(entry)
        for entry in entries:
            need = wanted.get((entry.catalog, entry.oid))
            if need is not None and need.address not in found and need.address not in dependents:
                # A domain may have its default from a sequence, and a sequence needs no more than its schema.
                turn = 0 if entry.kind == "SCHEMA" else 1 if entry.kind == "SEQUENCE" else 2
                found[need.address] = (
                    (turn, len(found)),
                    NeedContents(need=need, entries=(entry, *upon[entry.dump_id])),
                )
    return found
