"""A restore from end to end: look how the tables stand, say what will be done, ask, do it, tell."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime

from backup.errors import BackupError, CDCBackupError, DeclinedError, RestoreError, UsageError
from backup.lock import locked
from backup.postgres.clients import Clients
from backup.postgres.database import Database
from backup.postgres.snapshot import count_rows, identify
from backup.postgres.tables import Table, find_obstacles, find_others_by, find_tables_by
from backup.report import Report, plural, visible
from backup.result import Result, State, Status, TablePlan
from backup.session.delta_parts import Delta, aside_files, read_delta, verify_delta
from backup.session.folder import SavedTable, Session
from backup.session.merge import aside_name
from backup.session.plain import plain_files
from backup.session.restore import Restored, RestoreMode, restore_schema, restore_session
from backup.session.sidecar import Drill, Restore


def restore_into(
    database: Database,
    session: Session,
    names: Sequence[str],
    *,
    mode: RestoreMode,
    plan_only: bool,
    even_renamed: bool,
    without_delta: bool = False,
    ask: bool,
    lock_timeout: float,
    clients: Callable[[], Clients],
    report: Report,
    result: Result,
) -> None:
    """Bring the session's tables, or those that are named, back into the database; see `CDCBackup.restore`."""
    result.session = session
    manifest = session.manifest
    chosen = _choose(session, names)
    report.say(f"{session.name}: {manifest.database} on {manifest.host}, {manifest.created:%Y-%m-%d %H:%M:%S} UTC")
    with _held(session, report):
        delta = None if without_delta else _delta(session, chosen, report)
        plan, here = _look(database, session, chosen)
        result.plan = plan
        full = {table.oid for table in (delta.tables if delta else ())}
        for p in plan if mode is RestoreMode.MISSING else ():
            p.idle = p.state is State.CHANGED and not p.saved.rows and p.saved.oid not in full
        _announce(database, session, plan, mode, report, even_renamed=even_renamed)
        _refuse(plan, mode, even_renamed=even_renamed)
        if plan_only:
            result.status = Status.DRY_RUN
            return
        _refuse_standby(database)
        _ask(plan, mode, ask=ask, report=report)
        drill = _proof(session, report)
        oids = frozenset(table.oid for table in chosen)
        with report.step("Restoring"), plain_files(session, oids) as files:
            done, warnings = restore_session(
                session,
                files=files,
                database=database,
                clients=clients(),
                mode=mode,
                oids=oids,
                fingerprints=_fingerprints(session, drill),
                lock_timeout=lock_timeout,
                delta=delta,
            )
        for table in plan:
            table.done = done.get(table.saved.oid, Restored(added=0, differ=0, removed=0))
        _tell(plan, mode, session, report, proven=drill is not None)
        result.not_restored = tuple(warnings.splitlines())
        for line in result.not_restored:
            report.warn(f"  {line}")
        if mode is not RestoreMode.ASIDE:
            try:
                _keep(database, here, session, plan, report, without_delta=without_delta)
            except (OSError, BackupError) as error:
                report.warn(f"It could not be noted beside the session that it was restored: {error}")
        result.status = Status.RESTORED


@contextmanager
def _held(session: Session, report: Report) -> Iterator[None]:
    """Keep prune, and another restore, away from the session; whatever fails in here is a failed restore."""
    with ExitStack() as held:
        try:
            try:
                held.enter_context(locked(session.path, wait=False))
            except BlockingIOError:
                report.say(f"Another restore of {session.name} is running; waiting for its end.")
                held.enter_context(locked(session.path))
            yield
        except (RestoreError, UsageError, DeclinedError):
            raise
        except CDCBackupError as error:
            raise RestoreError(error.what, untouched="Nothing was restored.", remedy=error.remedy) from error
        except OSError as error:
            raise RestoreError(f"{error.filename}: {error.strerror}.", untouched="Nothing was restored.") from error


def _delta(session: Session, chosen: Sequence[SavedTable], report: Report) -> Delta | None:
    """What was saved of the chosen tables after the session, proven to be what was written; it is told."""
    for file in aside_files(session.path):
        report.warn(f"  not brought back: the rows in {file}, whose table was made or changed after the backup")
    delta = read_delta(session.path)
    if delta is None:
        return None
    known, oids = {table.oid for table in session.manifest.tables}, {table.oid for table in chosen}
    verify_delta(session, delta, oids)
    for table in delta.tables:
        if table.oid not in known:
            report.warn(f"  {table.qualified} is not in the session; what was saved of it is in {table.parts[-1].file}")
        for part in table.parts if table.oid in oids else ():
            what = "written after the backup" if part.kind == "newer" else "as they were when the migration took it"
            report.say(f"  and {plural(part.rows, 'row')} of {table.qualified} {what},")
            report.say("  saved when the migration took the table")
    return delta


def _proof(session: Session, report: Report) -> Drill | None:
    """The drill that the session passed; None where it has none, or one that nobody can read."""
    try:
        drill = Drill.read(session.path)
    except BackupError as error:
        report.warn(f"What the drill saw is not known: {error.what}")
        return None
    if drill is not None and drill.problem:
        report.warn(f"This session was drilled, and is no proof: {drill.problem}")
        return None
    return drill


def _keep(
    database: Database, here: str, session: Session, plan: Sequence[TablePlan], report: Report, *, without_delta: bool
) -> None:
    """Put beside the session which tables are what they were, where they were: prune may then let it go one day.

    A copy of the database, made by copying its files, has the same identifier, and another database that answers at
    the same address has another one: it has to be both.
    """
    manifest = session.manifest
    at_home = manifest.is_at(database.host, database.name)
    if not at_home or (here and manifest.database_id and here != manifest.database_id):
        report.warn(
            f"It is not noted as restored: the session is of {manifest.database} on {manifest.host}, and by its"
            f" {'identifier' if at_home else 'address'} this may be another database."
        )
        return
    delta = read_delta(session.path) if without_delta else None
    passed_over = {table.oid for table in delta.tables} if delta else set()
    back = [
        p.saved.qualified
        for p in plan
        if p.done and not p.done.differ and not p.idle and p.saved.oid not in passed_over
    ]
    before = Restore.read(session.path)
    now = dict.fromkeys(back, datetime.now(UTC))
    Restore(tables={**(before.tables if before else {}), **now}).write(session.path)


def _choose(session: Session, names: Sequence[str]) -> tuple[SavedTable, ...]:
    tables = session.manifest.tables
    known = {name for t in tables for name in (t.name, f"{t.schema_name}.{t.name}")}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UsageError(
            f"{session.name} holds no table called {', '.join(map(repr, unknown))}.", untouched="Nothing was restored."
        )
    chosen = {t.qualified for t in tables if not names or t.name in names or t.qualified in names}
    # A partitioned table has its rows in its partitions, and a partition its place in that.
    while more := {t.qualified for t in tables if chosen.intersection(t.parents)} - chosen:
        chosen |= more
    while more := {p for t in tables if t.qualified in chosen for p in t.parents} - chosen:
        chosen |= more
    return tuple(t for t in tables if t.qualified in chosen)


def _look(database: Database, session: Session, chosen: Sequence[SavedTable]) -> tuple[tuple[TablePlan, ...], str]:
    """How each table stands in the database today, and which database in the world that is, as `identify` has it."""
    names = [(t.schema_name, t.name) for t in chosen]
    with database.connect() as connection:
        connection.execute("set row_security = off")
        found = find_tables_by(connection, [t.oid for t in chosen], names)
        others = find_others_by(connection, names)
        by_name = {(table.schema, table.name): table for table in found}
        by_oid = {table.oid: table for table in found}
        here = identify(connection)
        same_database = session.manifest.database_id == here != ""
        plan = tuple(
            _plan(saved, by_name.get(name), by_oid.get(saved.oid), others.get(name), same_database=same_database)
            for saved, name in zip(chosen, names, strict=True)
        )
        # A restore gets by without the rows of today, so that it matters to nobody whether they can be counted.
        hidden = {obstacle.table.oid for obstacle in find_obstacles(connection, found)}
        today = [by_oid[p.oid] for p in plan if p.oid is not None and p.oid not in hidden]
        counts = count_rows(connection, today)
    for p in plan:
        p.rows_today = counts[p.oid].rows if p.oid in counts else None
    return plan, here


def _plan(
    saved: SavedTable, there: Table | None, same: Table | None, other: str | None, *, same_database: bool
) -> TablePlan:
    """How a table stands: from what has its name today, and what has its OID, which says nothing elsewhere."""
    columns = None if same is None else tuple((c.number, c.name, c.type) for c in same.columns)
    if (
        same is not None
        and str(same) != saved.qualified
        and (same_database or (columns == saved.columns and not there))
    ):
        also = f", and another {other or 'table'} has its name" if there or other else ""
        return TablePlan(saved=saved, state=State.RENAMED, oid=same.oid, detail=f"{same}{also}")
    if other is not None:
        return TablePlan(saved=saved, state=State.CHANGED, detail=f"is a {other} now")
    if there is None:
        return TablePlan(saved=saved, state=State.GONE)
    today = {column.name: column.type for column in there.columns}
    change = [f"lacks {name} {type_}" for _, name, type_ in saved.columns if today.get(name) != type_]
    if not change and same_database and there.oid == saved.oid:
        numbers = {column.name: column.number for column in there.columns}
        change = [f"has another column called {name}" for number, name, _ in saved.columns if numbers[name] != number]
    if change:
        return TablePlan(saved=saved, state=State.CHANGED, oid=there.oid, detail=", ".join(change))
    return TablePlan(saved=saved, state=State.THERE, oid=there.oid)


def _announce(
    database: Database,
    session: Session,
    plan: Sequence[TablePlan],
    mode: RestoreMode,
    report: Report,
    *,
    even_renamed: bool,
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
                "nothing: the backup has no rows of it"
                if p.idle
                else _will_do(p, mode, session, even_renamed=even_renamed),
            )
            for p in plan
        ],
    )


def _will_do(plan: TablePlan, mode: RestoreMode, session: Session, *, even_renamed: bool) -> str:
    match mode, plan.state:
        case RestoreMode.ASIDE, _:
            return f"restored as {restore_schema(session)}.{aside_name(plan.saved.schema_name, plan.saved.name)}"
        case _, State.GONE:
            return "brought back"
        case _, State.RENAMED if even_renamed:
            return "brought back beside it"
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
    changed = [p for p in plan if p.state is State.CHANGED and not p.idle]
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


def _refuse_standby(database: Database) -> None:
    with database.connect() as connection:
        if connection.execute("select pg_is_in_recovery()").fetchone() == (True,):
            raise RestoreError(
                f"{database} is a standby, where nothing can be written.",
                untouched="Nothing was restored.",
                remedy="Use the primary's address, or target_session_attrs=read-write; what is back there comes here.",
            )


def _ask(plan: Sequence[TablePlan], mode: RestoreMode, *, ask: bool, report: Report) -> None:
    """`replace` alone takes anything away."""
    there = [p for p in plan if p.state is State.THERE and p.saved.kind == "table"]
    rows = sum(p.rows_today or 0 for p in there)
    uncounted = any(p.rows_today is None for p in there)
    if mode is not RestoreMode.REPLACE or not ask or not (rows or uncounted):
        return
    at_stake = f"{plural(rows, 'row')} of today" + (" and those that cannot be counted" if uncounted else "")
    if not report.attended:
        raise UsageError(
            f"--mode replace would let go of up to {at_stake}, and nobody is here to be asked.",
            untouched="Nothing was restored.",
            remedy="Say --yes if that is what you want.",
        )
    if not report.ask(f"Of the {at_stake}, those that the backup does not hold will go. Go on?", default=False):
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
        if p.idle:
            report.say(f"  {name}: left as it is: it {p.detail}, and the backup has no rows of it")
        elif mode is RestoreMode.ASIDE:
            aside = aside_name(p.saved.schema_name, p.saved.name)
            report.say(f"  {restore_schema(session)}.{aside}: {plural(p.done.added, 'row')}{_of_delta(p.done)}")
        elif p.state in (State.GONE, State.RENAMED):
            report.say(f"  {name}: is back, with {plural(p.done.added, 'row')}{_of_delta(p.done)}")
        else:
            told = [f"{plural(p.done.added, 'row')} came back" if p.done.added else "nothing was missing"]
            told[0] += _of_delta(p.done)
            told += [f"{plural(p.done.removed, 'row')} went"] if p.done.removed else []
            told += [f"{plural(p.done.differ, 'row')} differ from the backup and were kept"] if p.done.differ else []
            report.say(f"  {name}: {', '.join(told)}")
    differ = [p.saved.qualified for p in plan if p.done and p.done.differ and mode is not RestoreMode.ASIDE]
    whose = "the backup's" if differ else "their"
    proof = f"and {whose} rows have the fingerprints that the drill saw"
    how = proof if proven else "counted; the session is not drilled"
    report.say(f"Restored {plural(sum(not p.idle for p in plan), 'table')} in one transaction, {how}.", "bold green")
    if differ:
        report.warn(
            f"Not what they were: {', '.join(map(visible, differ))}. --mode aside brings the backup's rows beside those"
            " of today, --mode replace in their place."
        )


def _of_delta(done: Restored) -> str:
    """How many of the rows to bring back the delta held, and the session not."""
    told = [f"{done.newer:,} of them written after the backup"] if done.newer else []
    told += [f"{done.updated:,} in the version that the delta has"] if done.updated else []
    return f" ({', '.join(told)})" if told else ""
