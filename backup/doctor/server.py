"""What the server tells: the database, its CDC tables, the rights, the clients that serve it, the drill's place."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass

from backup.errors import CDCBackupError, DatabaseError
from backup.postgres.blindness import passed_over, refuse_blindness
from backup.postgres.database import Database
from backup.postgres.scratch import find_place
from backup.postgres.serving import ServingClients
from backup.postgres.snapshot import Snapshot, take_snapshot
from backup.postgres.text_size import estimate_text
from backup.reach import Reach
from backup.report import plural, size
from backup.result import Finding, Health
from backup.settings import Settings

_NAMED = 10
"""So many tables are told one by one, the largest: more would not stay on one screen."""


@dataclass(frozen=True, kw_only=True)
class Looked:
    """The bytes of each CDC table's rows as text, and the clients; None where they are not known."""

    texts: Sequence[int] | None = None
    clients: ServingClients | None = None


def look_at_server(database: Database, settings: Settings, reach: Reach) -> Generator[Finding, None, Looked]:
    """Each of these; returns what further looks need to know."""
    try:
        version = database.login.server_version
    except DatabaseError as error:
        yield _missing("database", error, f"Start the server, or correct what {database.source} says.")
        return Looked()
    yield Finding(
        check="database",
        health=Health.OK,
        detail=f"{database}, PostgreSQL {version.split()[0]}; named by {database.source}",
    )
    texts = None
    try:
        with take_snapshot(
            database,
            prefix=settings.prefix,
            schemas=settings.schemas,
            names=(),
            lock_timeout=settings.lock_timeout,
        ) as snapshot:
            sizes = list(estimate_text(snapshot).values())
            others = passed_over(snapshot, prefix=settings.prefix, schemas=settings.schemas)
        refuse_blindness(database, snapshot, prefix=settings.prefix, schemas=settings.schemas)
    except CDCBackupError as error:
        yield _missing("tables", error)
    else:
        texts = sizes
        yield _tables(snapshot, settings)
        if others:
            yield Finding(
                check="other tables",
                health=Health.WARNING,
                detail=others,
                remedy="If they are CDC tables: name their schemas in backup.schemas; one prefix has one case.",
            )
        if snapshot.tables:
            yield Finding(
                check="rights",
                health=Health.OK,
                detail=f"{database.user} may read all of them, and row security hides no row",
            )
    clients = None
    try:
        clients = reach.clients()
        detail = (
            f"pg_dump, pg_restore and psql {clients.version} in {clients.place} (backup.clients: {settings.clients})"
        )
        yield Finding(check="clients", health=Health.OK, detail=detail)
    except CDCBackupError as error:
        yield _missing("clients", error)
    yield _drill(database, settings, clients)
    return Looked(texts=texts, clients=clients)


def _tables(snapshot: Snapshot, settings: Settings) -> Finding:
    where = "any schema" if settings.schemas == "*" else f"the schemas {', '.join(settings.schemas)}"
    if not snapshot.tables:
        return Finding(
            check="tables",
            health=Health.WARNING,
            detail=f"no table begins with {settings.prefix!r} in {where}",
            remedy="Nothing would be backed up. Correct backup.prefix or backup.schemas if there should be some.",
        )
    counts = snapshot.counts
    largest = sorted((t for t in snapshot.tables if t.oid in counts), key=lambda table: -counts[table.oid].bytes)
    lines = [f"{t}: {plural(counts[t.oid].rows, 'row')}, {size(counts[t.oid].bytes)}" for t in largest[:_NAMED]]
    lines += [f"and {len(largest) - _NAMED:,} smaller ones"] if len(largest) > _NAMED else []
    rows = sum(count.rows for count in counts.values())
    total = sum(count.bytes for count in counts.values())
    summary = f"{plural(len(snapshot.tables), 'CDC table')} with {plural(rows, 'row')}, {size(total)}"
    return Finding(check="tables", health=Health.OK, detail="\n".join([summary, *lines]))


def _drill(database: Database, settings: Settings, clients: ServingClients | None) -> Finding:
    """Where a session would be proven, and with what, by the same rules as for the proof itself."""
    if not settings.drill:
        return Finding(
            check="drill",
            health=Health.WARNING,
            detail="switched off: nobody would know whether a session can be restored",
            remedy="Set backup.drill to on.",
        )
    try:
        place = find_place(database, settings.scratch)
        serving = clients.of(place.host) if clients and place.host else None
    except CDCBackupError as error:
        return _missing("drill", error)
    detail = f"a session would be proven on {place}"
    if clients and serving and serving is not clients.chosen:
        detail += f"\nby pg_dump and psql {serving.version} in {serving.place}, because that server is another"
    return Finding(check="drill", health=Health.OK, detail=detail)


def _missing(check: str, error: CDCBackupError, remedy: str = "") -> Finding:
    return Finding(
        check=check,
        health=Health.MISSING,
        detail=error.what,
        remedy=error.remedy or remedy,
        exit_code=error.exit_code,
    )
