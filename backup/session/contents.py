"""Which of pg_dump's entries belong to which table, and when in a restore their turn is."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Sequence
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


@dataclass(kw_only=True)
class TableContents:
    """A table and all that comes back with it, each part in the order of its restore.

    `details` follow the rows: sequences, defaults, constraints, indexes, triggers, rules, policies,
    comments. `late` needs other tables to be back: foreign keys, an index's place in a partitioned one.
    `sequences` are the columns that own one, with where it stood and whether it had been used.
    `statistics` and `publications` are statements, for which pg_dump has no entry.
    """

    table: Table
    definition: Entry
    rows: Rows | None
    needs: tuple[NeedContents, ...]
    schema_statements: tuple[str, ...]
    details: list[Entry] = field(default_factory=list)
    attachments: list[Entry] = field(default_factory=list)
    late: list[Entry] = field(default_factory=list)
    grants: list[Entry] = field(default_factory=list)
    sequences: list[tuple[str, int, bool]] = field(default_factory=list)
    statistics: tuple[str, ...] = ()
    publications: tuple[str, ...] = ()


@dataclass(kw_only=True)
class DependentContents:
    """What hangs on tables and goes with them: pg_dump's entries where it is a view, else its statement."""

    dependent: Dependent
    entries: list[Entry] = field(default_factory=list)


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
    needs = _needs(surroundings, dump)
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
            schema_statements=surroundings.schemas.get(by_oid[entry.oid].schema, ()),
            publications=surroundings.publications.get(entry.oid, ()),
        )
        for entry in dump.entries
        if entry.kind in _TABLES and entry.oid in by_oid
    }
    dependents = {d.address: DependentContents(dependent=d) for d in surroundings.dependents}
    views = {d.dependent.address[1]: d for d in dependents.values() if d.dependent.view}
    owner_of = _Owners(dump.entries, by_oid, frozenset(views), surroundings)
    entries = {entry.dump_id: entry for entry in dump.entries}
    for entry in dump.entries:
        if entry.kind in _ELSEWHERE:
            continue
        oid = owner_of(entry)
        if oid in views:
            views[oid].entries.append(entry)
        elif oid is not None:
            _place(contents[oid], entry)
            value = _SETVAL.search(entry.text) if entry.kind == "SEQUENCE SET" else None
            if value is not None:
                column = surroundings.sequences[entries[entry.depends_on[0]].oid]
                contents[oid].sequences.append((column, int(value[1]), value[2] == "true"))
    for oid, statements in surroundings.statistics.items():
        if not any(entry.kind == "STATISTICS" for entry in contents[oid].details):
            contents[oid].statistics = statements
    return Contents(tables=tuple(contents.values()), dependents=tuple(dependents.values()))


def definition_digest(contents: TableContents) -> str:
    """SHA-256 over all that makes the table what it is, save what other tables and roles have a part in."""
    entries = [contents.definition, *contents.details, *contents.attachments]
    texts = [f"{e.kind} {e.schema} {e.tag} {e.text}" for e in entries if e.kind not in _OF_OTHERS_TOO]
    return hashlib.sha256("\0".join(sorted([*texts, *contents.statistics])).encode("utf-8", "replace")).hexdigest()


def _place(contents: TableContents, entry: Entry) -> None:
    if entry.kind in _LATE:
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
        if entry.kind == "TABLE ATTACH":
            both = {self._entries[d].oid for d in entry.depends_on if d in self._entries} & self._tables.keys()
            return next(oid for oid in both if len(both) == 1 or both.intersection(self._tables[oid].parents))
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


def _needs(surroundings: Surroundings, dump: Dump) -> dict[Address, tuple[int, NeedContents]]:
    """What pg_dump wrote of each need, and its place in the order.

    A member of an extension has no text of its own and is not here: it comes with the extension.
    """
    wanted = {need.address: need for needs in surroundings.needs.values() for need in needs}
    found: dict[Address, tuple[int, NeedContents]] = {}
    for entries in (dump.need_entries, dump.entries):
        upon = defaultdict(list)
        for entry in entries:
            if entry.kind in _UPON and entry.depends_on:
                upon[entry.depends_on[0]].append(entry)
        for entry in entries:
            need = wanted.get((entry.catalog, entry.oid))
            if need is not None and need.address not in found:
                found[need.address] = (
                    len(found),
                    NeedContents(need=need, entries=(entry, *upon[entry.dump_id])),
                )
    return found
