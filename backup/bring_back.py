"""A restore from end to end: look how the tables stand, say what will be done, ask, do it, tell."""

from collections.abc import Sequence
from datetime import UTC, datetime

from backup.errors import CDCBackupError, DeclinedError, RestoreError, UsageError
from backup.lock import locked
from backup.postgres.clients import find_clients
from backup.postgres.database import Database
from backup.postgres.snapshot import count_rows
from backup.postgres.tables import Table, find_tables_by
from backup.report import Report, plural
from backup.result import Result, State, Status, TablePlan
from backup.session.folder import SavedTable, Session
from backup.session.restore import Restored, RestoreMode, restore_schema, restore_session, verify_session
from backup.session.sidecar import Drill, Restore


def restore_into(
    database: Database,
    session: Session,
    names: Sequence[str],
    *,
    mode: RestoreMode,
    plan_only: bool,
    even_renamed: bool,
    ask: bool,
    report: Report,
    result: Result,
) -> None:
    """Bring the session's tables, or those that are named, back into the database; see `CDCBackup.restore`."""
    result.session = session
    manifest = session.manifest
    chosen = _choose(session, names)
    report.say(f"{session.name}: {manifest.database} on {manifest.host}, {manifest.created:%Y-%m-%d %H:%M:%S} UTC")
    try:
        plan, server_version = _look(database, chosen)
        result.plan = plan
        _announce(database, session, plan, mode, report)
        _refuse(plan, mode, even_renamed=even_renamed)
        if plan_only:
            result.status = Status.DRY_RUN
            return
        _ask(plan, mode, ask=ask, report=report)
        with locked(session.path), report.step("Restoring", sum(table.bytes or 0 for table in chosen)):
            verify_session(session)
            drill = Drill.read(session.path)
            done, warnings = restore_session(
                session,
                database=database,
                clients=find_clients(database, server_version),
                mode=mode,
                oids=frozenset(table.oid for table in chosen),
                fingerprints=_fingerprints(session, drill),
            )
            if mode is not RestoreMode.ASIDE and (database.host, database.name) == (manifest.host, manifest.database):
                _keep(session, chosen)
    except (RestoreError, UsageError, DeclinedError):
        raise
    except CDCBackupError as error:
        # Whatever keeps a restore from being done is a failed restore.
        raise RestoreError(error.what, untouched="Nothing was restored.", remedy=error.remedy) from error
    for table in plan:
        table.done = done.get(table.saved.oid, Restored(added=0, differ=0, removed=0))
    _tell(plan, mode, session, report, proven=drill is not None and not drill.problem)
    for line in warnings.splitlines():
        report.warn(f"  {line}")
    result.status = Status.RESTORED


def _keep(session: Session, chosen: Sequence[SavedTable]) -> None:
    """Put beside the session that these tables are where they were: prune may then let it go one day."""
    before = Restore.read(session.path)
    back = dict.fromkeys((f"{table.schema_name}.{table.name}" for table in chosen), datetime.now(UTC))
    Restore(tables={**(before.tables if before else {}), **back}).write(session.path)


def _choose(session: Session, names: Sequence[str]) -> tuple[SavedTable, ...]:
    tables = session.manifest.tables
    known = {name for t in tables for name in (t.name, f"{t.schema_name}.{t.name}")}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UsageError(
            f"{session.name} holds no table called {', '.join(map(repr, unknown))}.", untouched="Nothing was restored."
        )
    return tuple(t for t in tables if not names or t.name in names or f"{t.schema_name}.{t.name}" in names)


def _look(database: Database, chosen: Sequence[SavedTable]) -> tuple[tuple[TablePlan, ...], str]:
    """How each table stands in the database today; and the server's version."""
    with database.connect() as connection:
        connection.execute("set row_security = off")
        found = find_tables_by(connection, [t.oid for t in chosen], [(t.schema_name, t.name) for t in chosen])
        counts = {oid: count.rows for oid, count in count_rows(connection, found).items()}
        version = connection.info.parameter_status("server_version") or "0"
    by_name = {(table.schema, table.name): table for table in found}
    by_oid = {table.oid: table for table in found}
    return tuple(_plan(t, by_name.get((t.schema_name, t.name)), by_oid.get(t.oid), counts) for t in chosen), version


def _plan(saved: SavedTable, there: Table | None, same: Table | None, counts: dict[int, int]) -> TablePlan:
    if there is None:
        # In another database the OID may be any table's; the same columns under the same numbers are no chance.
        if same is not None and tuple((c.number, c.name, c.type) for c in same.columns) == saved.columns:
            return TablePlan(saved=saved, state=State.RENAMED, rows_today=counts.get(same.oid), detail=str(same))
        return TablePlan(saved=saved, state=State.GONE, rows_today=None)
    today = {column.name: column.type for column in there.columns}
    lacking = [f"{name} {type_}" for _, name, type_ in saved.columns if today.get(name) != type_]
    if lacking:
        return TablePlan(
            saved=saved, state=State.CHANGED, rows_today=counts.get(there.oid), detail=f"lacks {', '.join(lacking)}"
        )
    return TablePlan(saved=saved, state=State.THERE, rows_today=counts.get(there.oid))


def _announce(
    database: Database, session: Session, plan: Sequence[TablePlan], mode: RestoreMode, report: Report
) -> None:
    report.say(f"Into {database}, mode {mode}:")
    report.table(
        ("table", "today", "#rows today", "#rows in the backup", "what will be done"),
        [
            (
                f"{p.saved.schema_name}.{p.saved.name}",
                f"{p.state}: {p.detail}" if p.detail else p.state,
                "-" if p.rows_today is None else f"{p.rows_today:,}",
                f"{p.saved.rows:,}",
                _will_do(p, mode, session),
            )
            for p in plan
        ],
    )


def _will_do(plan: TablePlan, mode: RestoreMode, session: Session) -> str:
    match mode, plan.state:
        case RestoreMode.ASIDE, _:
            return f"restored as {restore_schema(session)}.{plan.saved.name}"
        case _, State.GONE:
            return "brought back"
        case _, State.RENAMED:
            return "refused: it is there under another name"
        case _, State.CHANGED:
            return "refused: its columns have changed"
        case RestoreMode.REPLACE, _:
            return "made what the backup holds"
        case _:
            return "missing rows are added"


def _refuse(plan: Sequence[TablePlan], mode: RestoreMode, *, even_renamed: bool) -> None:
    if mode is RestoreMode.ASIDE:
        return
    renamed = [p for p in plan if p.state is State.RENAMED and not even_renamed]
    changed = [p for p in plan if p.state is State.CHANGED and (p.saved.rows or mode is RestoreMode.REPLACE)]
    if renamed:
        raise RestoreError(
            "The migration did not drop, it renamed: "
            + ", ".join(f"{p.saved.schema_name}.{p.saved.name} is {p.detail} now" for p in renamed)
            + ".",
            untouched="Nothing was restored: that would have made a double.",
            remedy="ALTER TABLE … RENAME TO … gives it back its name; --even-renamed restores beside it.",
        )
    if changed:
        raise RestoreError(
            "The columns have changed since: "
            + "; ".join(f"{p.saved.schema_name}.{p.saved.name} {p.detail}" for p in changed)
            + ".",
            untouched="Nothing was restored.",
            remedy="--mode aside brings the rows into a schema of their own, to compare and merge.",
        )


def _ask(plan: Sequence[TablePlan], mode: RestoreMode, *, ask: bool, report: Report) -> None:
    """`replace` alone takes anything away."""
    at_stake = sum(p.rows_today or 0 for p in plan)
    if mode is not RestoreMode.REPLACE or not ask or not at_stake:
        return
    if not report.attended:
        raise UsageError(
            f"--mode replace would let go of up to {plural(at_stake, 'row')} of today, and nobody is here to be asked.",
            untouched="Nothing was restored.",
            remedy="Say --yes if that is what you want.",
        )
    if not report.ask(
        f"Of the {plural(at_stake, 'row')} of today, those that the backup does not hold will go. Go on?"
    ):
        raise DeclinedError("The answer was no.", untouched="Nothing was restored.")


def _fingerprints(session: Session, drill: Drill | None) -> dict[int, str]:
    """What the drill saw of each table, by the OID that the session gives it."""
    if drill is None or drill.problem:
        return {}
    seen = {(table.schema_name, table.name): table.fingerprint for table in drill.tables}
    oids = {(table.schema_name, table.name): table.oid for table in session.manifest.tables}
    return {oids[name]: fingerprint for name, fingerprint in seen.items() if name in oids}


def _tell(plan: Sequence[TablePlan], mode: RestoreMode, session: Session, report: Report, *, proven: bool) -> None:
    for p in plan:
        name = f"{p.saved.schema_name}.{p.saved.name}"
        assert p.done is not None  # noqa: S101 - every plan was given what was done
        if mode is RestoreMode.ASIDE:
            report.say(f"  {restore_schema(session)}.{p.saved.name}: {plural(p.done.added, 'row')}")
        elif p.state in (State.GONE, State.RENAMED):
            report.say(f"  {name}: is back, with {plural(p.done.added, 'row')}")
        else:
            told = [f"{plural(p.done.added, 'row')} came back" if p.done.added else "nothing was missing"]
            told += [f"{plural(p.done.removed, 'row')} went"] if p.done.removed else []
            told += [f"{plural(p.done.differ, 'row')} differ from the backup and were kept"] if p.done.differ else []
            report.say(f"  {name}: {', '.join(told)}")
    how = "and their rows have the fingerprints that the drill saw" if proven else "counted; the session is not drilled"
    report.say(f"Restored {plural(len(plan), 'table')} in one transaction, {how}.", "bold green")
