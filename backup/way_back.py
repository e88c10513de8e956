"""The verdict in words: one sentence at the end, and what a person types to get back what was lost."""

import shlex
from collections.abc import Collection, Iterator, Sequence

from backup.migration.faults import Fault, Part
from backup.migration.verdict import Change, Verdict
from backup.report import plural, visible
from backup.session.folder import Session
from backup.session.statements import identifier


def sentence_of(verdicts: Sequence[Verdict], faults: Sequence[Fault]) -> str:
    """What a migration did to the CDC tables and to what makes them work; empty where there are none."""
    lost = [v for v in verdicts if v.is_loss]
    destroyed = [v for v in lost if not v.announced and v.change is not Change.UNKNOWN]
    unknown = [v for v in lost if v.change is Change.UNKNOWN]
    announced = [v for v in lost if v.announced]
    broken = [fault for fault in faults if fault.is_loss]
    added = sum(max(0, (v.rows_after or 0) - v.rows_before) for v in verdicts if not v.is_loss)
    clauses = []
    if destroyed:
        clauses.append(f"the migration destroyed CDC data: {_list(destroyed)}")
    if unknown:
        clauses.append(f"nobody knows what became of CDC tables: {_list(unknown)}")
    if announced:
        clauses.append(
            f"{'what was announced is gone as well' if clauses else 'gone as announced'}: {_list(announced)}"
        )
    if any(fault.part is Part.WRITES_FAIL for fault in broken):
        clauses.append("the application's own writes fail")
    if any(fault.part is not Part.WRITES_FAIL for fault in broken):
        clauses.append("changes are no longer captured or published as before")
    if verdicts and not clauses:
        clauses.append("no CDC table, row or column was lost")
    if added:
        clauses.append(f"{plural(added, 'row')} {'was' if added == 1 else 'were'} written to CDC tables meanwhile")
    text = "; ".join(clauses)
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def ways_back(
    verdicts: Sequence[Verdict],
    faults: Sequence[Fault],
    session: Session | None,
    *,
    restore: str,
    named: Sequence[str],
    unguarded: Collection[str] = (),
) -> str:
    """What brings back what was lost and not announced: commands, each with its tables unless it is the session's all.

    `restore` is what a person types to restore, `named` the options that lead to the same configuration. Of the tables
    (`schema.name`) that were `unguarded`, rows that were written after the backup may be nowhere. Statements follow.
    """
    lost = [v for v in verdicts if v.is_loss and not v.announced]
    ways = list(restores(lost, session, restore=restore, named=named)) if session else []
    if doubtful := [name for v in lost if (name := f"{v.schema}.{v.name}") in unguarded]:
        ways.append(
            f"Rows that were written to {', '.join(map(visible, doubtful))} after the backup may be missing then."
        )
    if lost and session is None:
        ways.append("There is no backup of it: --without-backup was given.")
    if renamed := [_rename(v, *v.moved_to) for v in lost if v.moved_to]:
        ways.append("\n".join(("What has another name is there; these give it back its own:", *renamed)))
    if replaced := [visible(f"{v.schema}.{v.name}") for v in lost if v.change is Change.REPLACED and v.in_place]:
        ways.append(
            f"Into {', '.join(replaced)}, the table of today, come rows alone. Keys, defaults, indexes and grants come"
            " back as they were where it has another name, or is dropped, before that."
        )
    statements = dict.fromkeys(fault.way_back for fault in faults if fault.way_back)
    if statements:
        first = "Once its tables are back, these" if lost else "These"
        ways.append("\n".join((f"{first} statements bring back what no session holds:", *statements)))
    return "\n".join(ways)


def restores(lost: Sequence[Verdict], session: Session, *, restore: str, named: Sequence[str]) -> Iterator[str]:
    """The commands that bring tables back, each with what it does; none of what was only renamed."""
    changed = [v for v in lost if v.in_place and _is_changed(v)]
    gone = [v for v in lost if v.in_place and v not in changed]
    elsewhere = [v for v in lost if not v.in_place and v.change is not Change.RENAMED]

    def command(verdicts: Sequence[Verdict], *options: str) -> str:
        words, names = [*options, *named], [f"{v.schema}.{v.name}" for v in verdicts]
        # Without names it would lock, load and compare the others too.
        for name in names if {table.qualified for table in session.manifest.tables}.difference(names) else ():
            words += ["--table", name]
        return f"\n  {restore} {shlex.join(['--session', session.name, *words])}"

    if gone:
        yield f"This brings it back:{command(gone)}"
    if aside := elsewhere + changed:
        yield f"This brings it back beside what is there, to compare:{command(aside, '--mode', 'aside')}"
    if changed:
        yield f"This makes it what it was, and rows of today go:{command(changed, '--mode', 'replace')}"


def _rename(verdict: Verdict, schema: str, name: str) -> str:
    """What gives a table, which is called so now, its schema and name again, once nothing else has them."""
    statements = []
    if schema != verdict.schema:
        statements.append(f"ALTER TABLE {identifier(schema, name)} SET SCHEMA {identifier(verdict.schema)};")
    if name != verdict.name:
        statements.append(f"ALTER TABLE {identifier(verdict.schema, name)} RENAME TO {identifier(verdict.name)};")
    first = (
        f"  -- another table is called {visible(f'{verdict.schema}.{verdict.name}')} now: rename or drop that first\n"
    )
    return (first if verdict.namesake else "") + "  " + " ".join(statements)


def _is_changed(verdict: Verdict) -> bool:
    """Whether rows of the backup are there with other values, which a restore of what is missing keeps."""
    fewer = verdict.rows_before - (verdict.rows_after or 0)
    match verdict.change:
        case Change.ROWS_LOST:
            return (verdict.rows_changed or 0) > fewer
        case Change.UNKNOWN:  # it was rewritten; what could not be read has no rows
            return verdict.rows_after is not None
        case change:
            return change is Change.ROWS_CHANGED


def _list(verdicts: Sequence[Verdict]) -> str:
    return ", ".join(f"{visible(f'{v.schema}.{v.name}')} ({v.change})" for v in verdicts)
