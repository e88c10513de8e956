"""What a migration took from the machinery that makes change data capture work: before and after, compared."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import psycopg
from psycopg import sql

from backup.errors import DatabaseError
from backup.migration.verdict import Verdict
from backup.postgres.database import Database
from backup.postgres.machinery import Machinery, Name, Publication, Trigger, look_at_machinery, statements_for
from backup.postgres.tables import Table, find_tables_by


class Part(StrEnum):
    """Which part of the machinery it is about."""

    WRITES_FAIL = "writes fail"
    TRIGGER = "trigger"
    FUNCTION = "function"
    PUBLICATION = "publication"
    REPLICA_IDENTITY = "replica identity"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing that is not as it was, in a sentence; `way_back` are the statements that bring it back, if any do.

    `tables` are the CDC tables that it is about, as they were called. Where it is no loss it is told, and that is all:
    it went with what a person let go.
    """

    part: Part
    sentence: str
    way_back: str = ""
    tables: frozenset[Name] = frozenset()
    is_loss: bool = True


@dataclass(frozen=True)
class _Looks:
    """Both looks. `now` has the name that each CDC table is known by today; what is gone is not in it."""

    before: Machinery
    after: Machinery
    now: Mapping[Name, Name]

    def captured(self) -> set[tuple[int | Name, str, Name]]:
        """What is captured now: a relation's OID as well as its name, the event, the CDC table as it was called."""
        called = {new: old for old, new in self.now.items()}
        return {
            (relation, event, called.get(name, name))
            for trigger in self.after.triggers
            if trigger.fires
            for relation in (trigger.relation, trigger.on)
            for event in trigger.events
            for name in trigger.names
        }


def machinery_before(database: Database, tables: Sequence[Table]) -> Machinery:
    """What makes the tables work, before the migration.

    Raises:
        DatabaseError: it cannot be looked at.
    """
    with database.connect() as connection:
        return look_at_machinery(connection, [(table.schema, table.name) for table in tables])


def find_faults(
    database: Database, before: Machinery, tables: Sequence[Table], verdicts: Sequence[Verdict]
) -> tuple[Fault, ...]:
    """Compare what made `tables` work with what there is now; the worst first.

    Never raises for what the database does: then the one fault is that nobody knows.
    """
    names = [(table.schema, table.name) for table in tables]
    try:
        with database.connect() as connection:
            found = {table.oid: table for table in find_tables_by(connection, [t.oid for t in tables], names)}
            now = {
                (t.schema, t.name): (found[t.oid].schema, found[t.oid].name) if t.oid in found else (t.schema, t.name)
                for t in tables
            }
            after = look_at_machinery(connection, {*names, *now.values()}, before)
    except (DatabaseError, psycopg.Error) as error:
        said = " ".join(str(error).split())
        return (Fault(part=Part.UNKNOWN, sentence=f"What writes the CDC tables could not be looked at again: {said}"),)
    looks = _Looks(before, after, {old: new for old, new in now.items() if new in after.there})
    lost = tuple(_lost_writers(looks))
    told = {function for fault, function in lost if fault.is_loss}
    faults = (
        *_failing_writes(looks, now),
        *(fault for fault, _ in lost),
        *_lost_functions(looks, told),
        *_lost_publications(looks),
        *_changed_identities(looks),
    )
    let_go = {(v.schema, v.name) for v in verdicts if v.announced}
    return tuple(
        replace(fault, is_loss=False)
        if fault.part in (Part.TRIGGER, Part.FUNCTION) and fault.tables and fault.tables <= let_go
        else fault
        for fault in faults
    )


def _failing_writes(looks: _Looks, now: Mapping[Name, Name]) -> Iterator[Fault]:
    """Triggers that fire and speak of a table that is not there: every statement that fires them fails."""
    for trigger in looks.after.triggers:
        gone = sorted(name for name in trigger.names if name in now and name not in looks.after.there)
        if gone and trigger.fires:
            moved = [f"{_show(name)} is {_show(now[name])} now" for name in gone if now[name] != name]
            yield Fault(
                part=Part.WRITES_FAIL,
                sentence=f"The {trigger.kind} {trigger.name} on {_show(trigger.on)} writes to {_list(gone)}, which is "
                f"gone: every {_either(trigger.events)} on {_show(trigger.on)} fails until it is back"
                + (f" ({', '.join(moved)})." if moved else "."),
                tables=frozenset(gone),
            )


def _lost_writers(looks: _Looks) -> Iterator[tuple[Fault, int]]:
    """Triggers that do not write what they wrote, or do not fire on CDC tables; each with its function's OID."""
    captured = looks.captured()
    by_oid = {trigger.oid: trigger for trigger in looks.after.triggers}
    by_name = {(trigger.on, trigger.name): trigger for trigger in looks.after.triggers}
    for trigger in looks.before.triggers:
        if not trigger.fires:
            continue
        own = trigger.on in looks.before.identities  # it is on a CDC table
        on = looks.now.get(trigger.on) if own else trigger.on
        if on is None:
            continue  # the session has what was on it
        same = by_oid.get(trigger.oid) or by_name.get((on, trigger.name))
        missing = {
            (event, name)
            for event in trigger.events
            for name in trigger.names
            if not {(trigger.relation, event, name), (trigger.on, event, name)} & captured
        }
        tables = frozenset(name for _, name in missing) or frozenset([trigger.on])
        if trigger.relation not in looks.after.relations and trigger.on not in looks.after.there:
            yield (
                Fault(
                    part=Part.TRIGGER,
                    sentence=f"{_show(trigger.on)} is gone, and with it its {trigger.kind} {trigger.name}, which wrote "
                    f"to {_list(trigger.names)}.",
                    tables=trigger.names,
                    is_loss=False,
                ),
                trigger.function,
            )
        elif missing or (own and not (same and same.fires)):
            cause, statements = _why(trigger, same, looks)
            events = sorted({event for event, _ in missing}, key=trigger.events.index)
            when = f" on {_either(events)}" if len(events) < len(trigger.events) else ""
            what = (
                f"{_show(trigger.on)} no longer writes to {_list(tables)}{when}"
                if missing
                else f"The {trigger.kind} {trigger.name} on {_show(trigger.on)} no longer fires"
            )
            yield (
                Fault(part=Part.TRIGGER, sentence=f"{what}: {cause}.", way_back=_script(statements), tables=tables),
                trigger.function,
            )


def _why(trigger: Trigger, same: Trigger | None, looks: _Looks) -> tuple[str, Sequence[str]]:
    """Why a trigger does not write any more, and what brings it back."""
    of_function = looks.before.functions.get(trigger.function)
    made = statements_for(trigger, looks.before.functions)
    its = f"its {trigger.kind} {trigger.name}"
    table = sql.SQL("ALTER TABLE {} ").format(sql.Identifier(*trigger.on)).as_string()
    enable = f"{table}ENABLE {'ALWAYS ' if trigger.enabled == 'A' else ''}{trigger.kind.upper()} "
    enable += sql.Identifier(trigger.name).as_string()
    always = [enable] if trigger.enabled == "A" else []
    if same is None:
        there = of_function and any(f.definition == of_function.definition for f in looks.after.functions.values())
        return f"{its} is gone", [*(made[-1:] if there else made), *always]
    if not same.fires:
        return f"{its} is disabled", [enable]
    if trigger.names - same.names and of_function and same.definition == trigger.definition:
        return f"{its} is there, and its function {of_function.signature} does not speak of it any more", made[:1]
    drop = f"DROP {trigger.kind.upper()} {sql.Identifier(trigger.name).as_string()} ON "
    return f"{its} was changed", [drop + sql.Identifier(*trigger.on).as_string(), *made, *always]


def _lost_functions(looks: _Looks, told: set[int]) -> Iterator[Fault]:
    """Functions that spoke of CDC tables and are gone; those of triggers that are told of are told with these."""
    speaking = [function for function in looks.after.functions.values() if function.names]
    for function in looks.before.functions.values():
        here = any(function.oid == now.oid or function.signature == now.signature for now in speaking)
        if function.names and function.oid not in told and not here:
            yield Fault(
                part=Part.FUNCTION,
                sentence=f"The function {function.signature}, which speaks of {_list(function.names)}, is gone, or "
                "does not speak of any CDC table now.",
                way_back=_script([function.definition]),
                tables=function.names,
            )


def _lost_publications(looks: _Looks) -> Iterator[Fault]:
    """Publications that are gone, or do not send on what they sent; a restored table is in its own again."""
    for before in looks.before.publications.values():
        its = {name for name in before.tables if name in looks.before.identities}
        after = looks.after.publications.get(before.name)
        if not its:
            continue
        if after is None:
            yield Fault(
                part=Part.PUBLICATION,
                sentence=f"The publication {before.name}, which sent {_list(its)}, is gone.",
                way_back=_script([_make_publication(before)]),
                tables=frozenset(its),
            )
            continue
        alter = sql.SQL("ALTER PUBLICATION {} ").format(sql.Identifier(before.name)).as_string()
        out = {n for n in its if n in looks.now and looks.now[n] not in after.tables}
        if out and after.via_root == before.via_root:
            yield Fault(
                part=Part.PUBLICATION,
                sentence=f"The publication {before.name} no longer contains {_list(out)}.",
                way_back=_script([f"{alter}ADD TABLE {_identifiers(looks.now[n] for n in out)}"]),
                tables=frozenset(out),
            )
        if silent := [o.upper() for o in before.operations if o not in after.operations]:
            yield Fault(
                part=Part.PUBLICATION,
                sentence=f"The publication {before.name}, with {_list(its)} in it, no longer publishes "
                f"{' and '.join(silent)}.",
                way_back=_script([f"{alter}SET (publish = '{', '.join(before.operations)}')"]),
                tables=frozenset(its),
            )


def _make_publication(publication: Publication) -> str:
    """The statement that makes it; its row filters, its columns and its schemas as such it does not have."""
    name = sql.Identifier(publication.name).as_string()
    tables = "ALL TABLES" if publication.all_tables else f"TABLE {_identifiers(publication.tables)}"
    options = f"publish = '{', '.join(publication.operations)}', publish_via_partition_root = {publication.via_root}"
    return f"CREATE PUBLICATION {name} FOR {tables} WITH ({options.lower()})"


def _changed_identities(looks: _Looks) -> Iterator[Fault]:
    for name, before in looks.before.identities.items():
        after = looks.after.identities.get(looks.now.get(name, name))
        if after and after != before:
            alter = sql.SQL("ALTER TABLE {} REPLICA IDENTITY ").format(sql.Identifier(*looks.now[name])).as_string()
            yield Fault(
                part=Part.REPLICA_IDENTITY,
                sentence=f"The replica identity of {_show(name)} was {before} and is {after}.",
                way_back=_script([alter + before]),
                tables=frozenset([name]),
            )


def _show(name: Name) -> str:
    return ".".join(name)


def _either(events: Sequence[str]) -> str:
    return " or ".join(filter(None, (", ".join(events[:-1]), events[-1])))


def _list(names: Iterable[Name]) -> str:
    return ", ".join(map(_show, sorted(names)))


def _identifiers(names: Iterable[Name]) -> str:
    return ", ".join(sql.Identifier(*name).as_string() for name in sorted(names))


def _script(statements: Iterable[str]) -> str:
    return "\n".join(f"{statement};" for statement in statements)
