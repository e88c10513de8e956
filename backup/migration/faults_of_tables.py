"""What a migration changed in CDC tables that are there still: what they take, and what is as safe as it was."""

import re
from collections import defaultdict
from collections.abc import Iterator

from psycopg import sql

from backup.migration.fault import Fault, Looks, Part, alter, script, show
from backup.postgres.machinery import Function
from backup.postgres.shapes import ColumnShape, Name, OwnedSequence, Shape


def failing_inserts(looks: Looks) -> Iterator[Fault]:
    """Columns because of which what is written fails, or may.

    It is certain, and a loss, where a function of a trigger that fires has an INSERT with a list of columns: that one
    names a column that is gone, or does not name one that is required now and that no trigger can fill.
    """
    for name, before, after in looks.shapes():
        lists = list(_lists(looks, name))
        there = {column.name.lower() for column in after.columns.values()}
        for column in before.columns.values():
            now = _same(column, before, after)
            if column.name.lower() in there:
                continue
            certain = [f.signature for f, columns in lists if column.name.lower() in columns]
            speaking = [f.signature for f in _writers(looks, name) if _speaks(f, column.name)]
            if certain or speaking:
                is_now = f"called {now.name} now" if now else "gone"
                rename = f"RENAME COLUMN {_quoted(now.name)} TO {_quoted(column.name)}" if now else ""
                yield Fault(
                    part=Part.WRITES_FAIL,
                    sentence=f"The column {column.name} of {show(name)} is {is_now}, and "
                    f"{', '.join(certain or speaking)} names it: what that writes {_fails(certain)}.",
                    way_back=script([alter(after.name, rename)] if rename else []),
                    tables=frozenset([name]),
                    is_loss=bool(certain),
                )
        filled = any(t.on == after.name and t.is_before for t in looks.after.triggers)
        for column in after.columns.values():
            was = _same(column, after, before)
            if not column.not_null or (was and (was.is_required or (was.not_null and not column.is_required))):
                continue
            leaving = [f.signature for f, columns in lists if column.name.lower() not in columns]
            certain = leaving if column.is_required and not filled else []
            if was is None and not column.is_required:
                continue
            what = "is NOT NULL and has no default" if column.is_required else "is NOT NULL"
            leave = f", and {', '.join(certain)} does not name it: what that writes" if certain else ": what is written"
            yield Fault(
                part=Part.WRITES_FAIL,
                sentence=f"The column {column.name} of {show(name)} {what} now{leave} {_fails(certain)}.",
                way_back=script(_filled_again(after, column, was)),
                tables=frozenset([name]),
                is_loss=bool(certain),
            )


def _fails(certain: object) -> str:
    return "fails" if certain else "may fail"


def _writers(looks: Looks, name: Name) -> Iterator[Function]:
    """Functions that speak of the table, where a trigger fires that does."""
    now = looks.now[name]
    by = {trigger.function for trigger in looks.after.triggers if trigger.fires and now in trigger.names}
    if by:
        yield from (f for oid, f in looks.after.functions.items() if now in f.names or oid in by)


def _lists(looks: Looks, name: Name) -> Iterator[tuple[Function, set[str]]]:
    """The lists of columns in INSERTs into the table; not where it shares its name with another CDC table."""
    schema, table = (part.lower() for part in looks.now[name])
    if sum(other[1].lower() == table for other in looks.now.values()) > 1:
        return
    into = rf"insert\s+into\s+(?:{re.escape(schema)}\s*\.\s*)?{re.escape(table)}\s*(?:as\s+\w+\s*)?\(([^()]*)\)"
    for function in _writers(looks, name):
        for found in re.finditer(into, function.source):
            yield function, {column.strip() for column in found[1].split(",")}


def _speaks(function: Function, column: str) -> bool:
    return bool(re.search(rf"(?<!\w){re.escape(column.lower())}(?!\w)", function.source))


def _same(column: ColumnShape, of: Shape, within: Shape) -> ColumnShape | None:
    """The same column in another look: by number while the table is the same, else by name."""
    if of.oid == within.oid:
        return within.columns.get(column.number)
    return next((other for other in within.columns.values() if other.name == column.name), None)


def _filled_again(shape: Shape, now: ColumnShape, was: ColumnShape | None) -> list[str]:
    column = f"ALTER COLUMN {_quoted(now.name)} "
    if was is None or not was.not_null:
        return [alter(shape.name, f"{column}DROP NOT NULL")]
    if was.identity:
        always = "ALWAYS" if was.identity == "a" else "BY DEFAULT"
        return [alter(shape.name, f"{column}ADD GENERATED {always} AS IDENTITY"), _set_on(shape, now)]
    return [alter(shape.name, f"{column}SET DEFAULT {was.default}")]


def _set_on(shape: Shape, column: ColumnShape) -> str:
    """The statement that sets a column's sequence to the largest value."""
    table = sql.Identifier(*shape.name)
    query = sql.SQL("SELECT setval(pg_get_serial_sequence({}, {}), max({})) FROM {}")
    return query.format(
        sql.Literal(table.as_string()), sql.Literal(column.name), sql.Identifier(column.name), table
    ).as_string()


def sequences_set_back(looks: Looks) -> list[tuple[Shape, OwnedSequence]]:
    """Sequences that are others now or went back, which those that are only used never do."""
    before = {sequence.oid: sequence for _, shape, _ in looks.shapes() for sequence in shape.sequences}
    return [
        (after, now)
        for _, _, after in looks.shapes()
        for now in after.sequences
        if (was := before.get(now.oid)) is None or (was.last is not None and (now.last is None or now.last < was.last))
    ]


def sequence_behind(looks: Looks, shape: Shape, sequence: OwnedSequence) -> Fault:
    """A sequence that gives values that its column has."""
    name = next(old for old, new in looks.now.items() if new == shape.name)
    column = shape.columns[sequence.column]
    fails = "what is written fails" if sequence.unique else "values come twice"
    return Fault(
        part=Part.WRITES_FAIL if sequence.unique else Part.TABLE,
        sentence=f"The sequence {show(sequence.name)} stands behind the largest {column.name} in {show(name)}: "
        f"{fails}.",
        way_back=script([_set_on(shape, column)]),
        tables=frozenset([name]),
        is_loss=sequence.unique,
    )


def changed_tables(looks: Looks) -> Iterator[Fault]:
    """What else is not as it was in tables that are there: where their rows are, who may see them, what is on them."""
    for name, before, after in looks.shapes():
        its = frozenset([name])
        if after.unlogged and not before.unlogged:
            yield Fault(
                part=Part.TABLE,
                sentence=f"{show(name)} is UNLOGGED now: its rows are gone after the next crash, and nothing is "
                "sent on.",
                way_back=script([alter(after.name, "SET LOGGED")]),
                tables=its,
            )
        for new, said, undo in (
            (after.row_security and not before.row_security, "enabled", "DISABLE"),
            (after.forced and not before.forced, "forced, also for its owner", "NO FORCE"),
        ):
            if new:
                yield Fault(
                    part=Part.TABLE,
                    sentence=f"Row security of {show(name)} is {said} now: who writes to it may be refused.",
                    way_back=script([alter(after.name, f"{undo} ROW LEVEL SECURITY")]),
                    tables=its,
                    is_loss=False,
                )
        yield from _revoked(looks, name, before, after)
        for column in before.columns.values():
            now = _same(column, before, after)
            if now and column.default and column.gives and not (now.gives or now.not_null):
                yield Fault(
                    part=Part.TABLE,
                    sentence=f"The column {now.name} of {show(name)} has no default now: what does not name it is NULL "
                    "there.",
                    way_back=script([alter(after.name, f"ALTER {_quoted(now.name)} SET DEFAULT {column.default}")]),
                    tables=its,
                    is_loss=False,
                )
        yield from _changed_attached(name, before, after)


def _revoked(looks: Looks, name: Name, before: Shape, after: Shape) -> Iterator[Fault]:
    """What roles that are there may not do any more with the whole table; they may have it by another role."""
    gone = defaultdict[str, list[str]](list)
    for oid, privilege in sorted(before.rights - after.rights):
        if oid in looks.after.roles:
            gone[looks.after.roles[oid]].append(privilege)
    for role, privileges in gone.items():
        table = sql.Identifier(*after.name).as_string()
        yield Fault(
            part=Part.TABLE,
            sentence=f"{role} has lost the right to {', '.join(privileges)} on {show(name)}.",
            way_back=script([f"GRANT {', '.join(privileges)} ON {table} TO {role}"]),
            tables=frozenset([name]),
            is_loss=False,
        )


def _changed_attached(name: Name, before: Shape, after: Shape) -> Iterator[Fault]:
    """Constraints, indexes and views that are gone, and new ones by which a row may be refused."""
    had = {a.oid for a in before.attached} | {a.definition for a in before.attached}
    has = {a.oid for a in after.attached} | {a.definition for a in after.attached}
    for gone in before.attached:
        if not {gone.oid, gone.definition} & has:
            yield Fault(
                part=Part.TABLE,
                sentence=f"The {gone.kind} {gone.name} on {show(name)} is gone.",
                way_back=script([gone.definition]),
                tables=frozenset([name]),
                is_loss=False,
            )
    for new in after.attached:
        if new.restricts and not {new.oid, new.definition} & had:
            yield Fault(
                part=Part.WRITES_FAIL,
                sentence=f"The {new.kind} {new.name} on {show(name)} is new: what is written may fail by it.",
                way_back=script([new.drop]),
                tables=frozenset([name]),
                is_loss=False,
            )


def _quoted(name: str) -> str:
    return sql.Identifier(name).as_string()
