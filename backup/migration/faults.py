"""What a migration took from the machinery that makes change data capture work: before and after, compared."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

import psycopg
from psycopg import sql

from backup.errors import DatabaseError
from backup.migration.fault import Fault, Looks, Part, alter, either, listed, script, show
from backup.migration.faults_of_tables import changed_tables, failing_inserts, sequence_behind, sequences_set_back
from backup.migration.faults_published import changed_identities, lost_publications
from backup.migration.verdict import Verdict
from backup.postgres.database import Database
from backup.postgres.machinery import Machinery, Trigger, look_at_machinery, statements_for
from backup.postgres.shapes import Name, find_sequences_behind
from backup.postgres.tables import Table, find_tables_by

_LOCK_WAIT = "10s"

__all__ = ["Fault", "Part", "find_faults", "machinery_before"]


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
            # The text of a default or a view waits for who has its table for himself, which may be for ever.
            connection.execute("select set_config('lock_timeout', %s, false)", [_LOCK_WAIT])
            found = {table.oid: table for table in find_tables_by(connection, [t.oid for t in tables], names)}
            now = {
                (t.schema, t.name): (found[t.oid].schema, found[t.oid].name) if t.oid in found else (t.schema, t.name)
                for t in tables
            }
            after = look_at_machinery(connection, {*names, *now.values()}, before)
            looks = Looks(before, after, {old: new for old, new in now.items() if new in after.there})
            behind = find_sequences_behind(connection, sequences_set_back(looks))
    except (DatabaseError, psycopg.Error) as error:
        said = " ".join(str(error).split())
        return (Fault(part=Part.UNKNOWN, sentence=f"What writes the CDC tables could not be looked at again: {said}"),)
    lost = tuple(_lost_writers(looks))
    told = {function for fault, function in lost if fault.is_loss}
    faults = (
        *_failing_writes(looks, now),
        *failing_inserts(looks),
        *(sequence_behind(looks, *one) for one in behind),
        *(fault for fault, _ in lost),
        *_lost_functions(looks, told),
        *lost_publications(looks),
        *changed_identities(looks),
        *_silenced(looks),
        *_new_obstacles(looks),
        *changed_tables(looks),
    )
    let_go = {(v.schema, v.name) for v in verdicts if v.announced}
    return tuple(
        replace(fault, is_loss=False)
        if fault.part in (Part.TRIGGER, Part.FUNCTION) and fault.tables and fault.tables <= let_go
        else fault
        for fault in faults
    )


def _failing_writes(looks: Looks, now: Mapping[Name, Name]) -> Iterator[Fault]:
    """Triggers that fire and speak of a table that is not there: every statement that fires them fails."""
    for trigger in looks.after.triggers:
        gone = sorted(name for name in trigger.names if name in now and name not in looks.after.there)
        if gone and trigger.fires:
            moved = [f"{show(name)} is {show(now[name])} now" for name in gone if now[name] != name]
            yield Fault(
                part=Part.WRITES_FAIL,
                sentence=f"The {trigger.kind} {trigger.name} on {show(trigger.on)} writes to {listed(gone)}, which is "
                f"gone: every {either(trigger.events)} on {show(trigger.on)} fails until it is back"
                + (f" ({', '.join(moved)})." if moved else "."),
                tables=frozenset(gone),
            )


def _lost_writers(looks: Looks) -> Iterator[tuple[Fault, int]]:
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
            if not {(trigger.relation, event, name), (trigger.on, event, name)} & captured.keys()
        }
        tables = frozenset(name for _, name in missing) or frozenset([trigger.on])
        if same and not own:
            yield from ((fault, 0) for fault in _left_behind(trigger, same, captured, looks))
        if trigger.relation not in looks.after.relations and trigger.on not in looks.after.there:
            yield (
                Fault(
                    part=Part.TRIGGER,
                    sentence=f"{show(trigger.on)} is gone, and with it its {trigger.kind} {trigger.name}, which wrote "
                    f"to {listed(trigger.names)}.",
                    tables=trigger.names,
                    is_loss=False,
                ),
                trigger.function,
            )
        elif missing or (own and not (same and same.fires)):
            cause, statements = _why(trigger, same, looks)
            events = sorted({event for event, _ in missing}, key=trigger.events.index)
            when = f" on {either(events)}" if len(events) < len(trigger.events) else ""
            what = (
                f"{show(trigger.on)} no longer writes to {listed(tables)}{when}"
                if missing
                else f"The {trigger.kind} {trigger.name} on {show(trigger.on)} no longer fires"
            )
            yield (
                Fault(part=Part.TRIGGER, sentence=f"{what}: {cause}.", way_back=script(statements), tables=tables),
                trigger.function,
            )
        elif same and (less := _less(trigger, captured)):
            yield (
                Fault(
                    part=Part.TRIGGER,
                    sentence=f"{show(trigger.on)} writes less to {listed(trigger.names)}: {less}.",
                    way_back=script(_anew(trigger, same, looks)),
                    tables=trigger.names or frozenset([trigger.on]),
                ),
                0,
            )
        elif same and _is_another(trigger, same):
            yield (
                Fault(
                    part=Part.TRIGGER,
                    sentence=f"The {trigger.kind} {trigger.name} on {show(trigger.on)} is another now: "
                    f"{same.definition}.",
                    way_back=script(_anew(trigger, same, looks)),
                    tables=trigger.names or frozenset([trigger.on]),
                    is_loss=False,
                ),
                0,
            )


def _left_behind(
    trigger: Trigger, same: Trigger, captured: Mapping[tuple[int | Name, str, Name], Sequence[Trigger]], looks: Looks
) -> Iterator[Fault]:
    """What is not written because the trigger went along with its table, whose name another table has now."""
    lost = {name for name in trigger.names for e in trigger.events if not captured.get((trigger.on, e, name))}
    if same.on != trigger.on and trigger.on in looks.after.there and lost:
        yield Fault(
            part=Part.TRIGGER,
            sentence=f"{show(trigger.on)} is another table now, and nothing writes its changes to {listed(lost)}: "
            f"the {trigger.kind} {trigger.name} is on {show(same.on)}.",
            way_back=script([trigger.definition]) if same.name == trigger.name and trigger.kind == "trigger" else "",
            tables=frozenset(lost),
        )


def _less(trigger: Trigger, captured: Mapping[tuple[int | Name, str, Name], Sequence[Trigger]]) -> str:
    """What provably is not written any more although triggers fire: a new WHEN, fewer columns in UPDATE OF."""
    for event in trigger.events:
        for name in trigger.names:
            now = {
                t.oid: t for on in (trigger.relation, trigger.on) for t in captured.get((on, event, name), ())
            }.values()
            if len(now) == 1 and not trigger.condition and (only := next(iter(now))).condition:
                return f"its {only.kind} {only.name} fires only WHEN ({only.when})"
            if event == "UPDATE" and all(t.columns for t in now) and not (trigger.columns and _covers(trigger, now)):
                columns = sorted({column for t in now for column in t.columns.values()})
                return f"it is written only on UPDATE OF {', '.join(columns)}"
    return ""


def _covers(trigger: Trigger, now: Collection[Trigger]) -> bool:
    """Whether their UPDATE OF has all the columns of the trigger's; by number, while the table is the same."""
    return all(
        any(number in t.columns if t.relation == trigger.relation else name in t.columns.values() for t in now)
        for number, name in trigger.columns.items()
    )


def _is_another(before: Trigger, now: Trigger) -> bool:
    """Whether the trigger fires at other times or with other arguments; another name is nothing."""
    return before.manner != now.manner or (before.condition != now.condition and before.when != now.when)


def _why(trigger: Trigger, same: Trigger | None, looks: Looks) -> tuple[str, Sequence[str]]:
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
    return f"{its} was changed", _anew(trigger, same, looks)


def _anew(trigger: Trigger, same: Trigger, looks: Looks) -> Sequence[str]:
    """The statements that make a trigger that was changed what it was."""
    kind = f"{trigger.kind.upper()} "
    drop = f"DROP {kind}{sql.Identifier(same.name).as_string()} ON {sql.Identifier(*same.on).as_string()}"
    enable = alter(trigger.on, f"ENABLE ALWAYS {kind}{sql.Identifier(trigger.name).as_string()}")
    return [drop, *statements_for(trigger, looks.before.functions), *([enable] if trigger.enabled == "A" else [])]


def _lost_functions(looks: Looks, told: set[int]) -> Iterator[Fault]:
    """Functions that spoke of CDC tables and are gone, or say something else; those of triggers are told with these."""
    renamed = {old[1]: new[1] for old, new in looks.now.items() if old[1] != new[1]}
    speaking = [function for function in looks.after.functions.values() if function.names]
    for function in looks.before.functions.values():
        if not function.names or function.oid in told:
            continue
        here = [now for now in speaking if function.oid == now.oid or function.signature == now.signature]
        if not here:
            yield Fault(
                part=Part.FUNCTION,
                sentence=f"The function {function.signature}, which speaks of {listed(function.names)}, is gone, or "
                "does not speak of any CDC table now.",
                way_back=script([function.definition]),
                tables=function.names,
            )
            continue
        meant = function.definition
        for old, new in renamed.items():
            meant = re.sub(rf"(?<!\w){re.escape(old)}(?!\w)", new, meant)
        if all(now.content != function.content and now.definition not in (function.definition, meant) for now in here):
            yield Fault(
                part=Part.FUNCTION,
                sentence=f"The function {function.signature}, which writes to {listed(function.names)}, is another "
                "now.",
                way_back=script([function.definition]),
                tables=function.names,
                is_loss=False,
            )


def _new_obstacles(looks: Looks) -> Iterator[Fault]:
    """Rules and BEFORE triggers that are new on a CDC table, and by which what is written may go nowhere."""
    before = {trigger.oid for trigger in looks.before.triggers}
    known = {(t.on, t.name) for t in looks.before.triggers}
    called = looks.called
    for trigger in looks.after.triggers:
        name = called.get(trigger.on)
        if name is None or not trigger.fires or trigger.oid in before or (name, trigger.name) in known:
            continue
        instead = trigger.is_before or (trigger.kind == "rule" and " DO INSTEAD " in trigger.definition)
        if instead and "INSERT" in trigger.events:
            drop = f"DROP {trigger.kind.upper()} {sql.Identifier(trigger.name).as_string()} ON "
            yield Fault(
                part=Part.WRITES_FAIL,
                sentence=f"The {trigger.kind} {trigger.name} on {show(name)} is new: what is written may be changed by "
                "it, or go nowhere.",
                way_back=script([drop + sql.Identifier(*trigger.on).as_string()]),
                tables=frozenset([name]),
                is_loss=False,
            )


def _silenced(looks: Looks) -> Iterator[Fault]:
    """Settings by which no trigger fires that is not ENABLE ALWAYS."""
    names = frozenset(name for t in looks.before.triggers if t.enabled == "O" for name in t.names)
    for reset in sorted(looks.after.replica - looks.before.replica) if names else ():
        whose = reset.removeprefix("ALTER ").removesuffix(" RESET session_replication_role")
        yield Fault(
            part=Part.SETTING,
            sentence=f"session_replication_role is replica for {whose}: in its new connections nothing is written to "
            f"{listed(names)}.",
            way_back=script([reset]),
            tables=names,
        )
