"""Which sessions may go, and why the others stay."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from backup.errors import BackupError
from backup.lock import locked
from backup.session.delta_parts import Delta, aside_files, delta_folder, read_delta
from backup.session.folder import MANIFEST, RESTORE_SCRIPT, SUMMARY, Listed, list_sessions, unpublish
from backup.session.sidecar import Drill, Restore, Verdict, remove_sidecars

_NAMED = 3
"""Tables that are named of a session that is their last."""


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What is known of a session beside its manifest, and why it is kept: empty where it may go."""

    listed: Listed
    delta: Delta | None
    drill: Drill | None
    verdict: Verdict | None
    restore: Restore | None
    reason: str

    def is_of(self, database_id: str, host: str, name: str) -> bool:
        """Whether it is a session of this database."""
        manifest = self.listed.manifest
        if manifest is None:
            return False
        if manifest.database_id and database_id:
            return manifest.database_id == database_id
        return self.is_at(host, name)

    def is_at(self, host: str, name: str) -> bool:
        """Whether that database was at this address."""
        return self.listed.manifest is not None and self.listed.manifest.is_at(host, name)

    @property
    def restored(self) -> bool:
        """Whether all that its migration destroyed was brought back since."""
        return bool(self.verdict and self.verdict.destroyed) and not self._owed()

    @property
    def owes(self) -> bool:
        """Whether its migration destroyed something that nobody had been told of, and that was not brought back."""
        return bool(self.verdict and self._owed() - set(self.verdict.announced))

    def _owed(self) -> set[str]:
        if self.verdict is None or not self.verdict.destroyed:
            return set()
        back = self.restore.tables if self.restore is not None else {}
        return {name for name in self.verdict.destroyed if name not in back or back[name] < self.verdict.moment}


def review_sessions(
    root: Path, *, retention_days: int, keep_last: int, now: datetime | None = None
) -> tuple[Kept, ...]:
    """All sessions in `root`, newest first, each with the reason for which it is kept; the newest of each database."""
    now = now or datetime.now(UTC)
    sessions = [_look(listed) for listed in list_sessions(root)]
    complete = [s for s in sessions if not s.listed.problem]
    newest, last = set[Path](), dict[Path, str]()
    for database in {_database(s.listed) for s in complete}:
        its = [s for s in complete if _database(s.listed) == database]
        newest |= {s.listed.path for s in its[:keep_last]}
        proven = [s for s in its if s.drill is not None and not s.drill.problem]
        last |= {path: f"it is the newest that holds {tables}" for path, tables in _last_of(its)}
        last |= {path: f"it is the newest that is proven and holds {tables}" for path, tables in _last_of(proven)}
    clock_is_wrong = any(s.listed.manifest is not None and _moment(s.listed) > now for s in complete)

    def reason(session: Kept) -> str:
        listed, verdict = session.listed, session.verdict
        if listed.problem:
            return "it is not complete, so look at it yourself"
        if session.reason:
            return session.reason
        if clock_is_wrong:
            return "the clock is wrong: a session is from the future"
        if listed.path in newest:
            return f"it is among the newest {keep_last}"
        if listed.path in last:
            return last[listed.path]
        if verdict is not None and verdict.destroyed is None:
            return "what its migration did is not known"
        if verdict is not None and verdict.destroyed and not session.restored:
            return "what its migration destroyed was not restored"
        if aside := aside_files(listed.path):
            return f"no restore brings back what {', '.join(file.name for file in aside)} in its delta holds"
        if now - _moment(listed) < timedelta(days=retention_days):
            return f"it is younger than {retention_days} days"
        return ""

    return tuple(replace(s, reason=reason(s)) for s in sessions)


def _last_of(sessions: Sequence[Kept]) -> Iterator[tuple[Path, str]]:
    """Of sessions, newest first, those that hold a table that no newer one does: one may be of some tables alone."""
    seen = set[str]()
    for session in sessions:
        assert session.listed.manifest is not None  # noqa: S101 - asked of complete sessions alone
        tables = [t.qualified for t in session.listed.manifest.tables if t.qualified not in seen]
        if tables:
            more = f" and {len(tables) - _NAMED} more" if len(tables) > _NAMED else ""
            yield session.listed.path, f"{', '.join(tables[:_NAMED])}{more}"
        seen.update(tables)


def prune_sessions(sessions: Sequence[Kept]) -> tuple[Path, ...]:
    """Delete those that nothing keeps; one that is being restored right now stays. What was deleted."""
    deleted = []
    for session in sessions:
        if session.reason:
            continue
        path = session.listed.path
        # A BlockingIOError: it is being restored. Other trouble leaves it to the next run.
        with suppress(OSError):
            with locked(path, wait=False):
                # Under a name that says it is not whole, so that a killed run leaves no session half deleted.
                doomed = [unpublish(delta_folder(path))] if delta_folder(path).exists() else []
                for folder in (unpublish(path), *doomed):
                    shutil.rmtree(folder)
            remove_sidecars(path)
            deleted.append(path)
    return tuple(deleted)


def _look(listed: Listed) -> Kept:
    delta, unreadable = None, ""
    try:
        delta = read_delta(listed.path)
    except BackupError as error:  # what is known of the session itself counts all the same
        unreadable = error.what
    try:
        strange = _strangers(listed)
        return Kept(
            listed=listed,
            delta=delta,
            drill=Drill.read(listed.path),
            verdict=Verdict.read(listed.path),
            restore=Restore.read(listed.path),
            reason=f"it holds what is not ours: {', '.join(strange)}" if strange else unreadable,
        )
    except BackupError as error:
        return Kept(listed=listed, delta=None, drill=None, verdict=None, restore=None, reason=str(error))


def _strangers(listed: Listed) -> list[str]:
    """What somebody else put into the session's folder."""
    if listed.manifest is None or listed.problem:
        return []
    tables = listed.manifest.tables
    ours = {MANIFEST, SUMMARY, RESTORE_SCRIPT, *(table.file for table in tables)}
    # Somebody unpacked it, to run psql by hand.
    unpacked = {table.plain_file: table.packed.plain_bytes for table in tables if table.packed}
    return sorted(
        path.name
        for path in listed.path.iterdir()
        if path.name not in ours and path.lstat().st_size != unpacked.get(path.name)
    )


def _database(listed: Listed) -> str:
    assert listed.manifest is not None  # noqa: S101 - asked of complete sessions alone
    return listed.manifest.database_id or f"{listed.manifest.host} {listed.manifest.database}"


def _moment(listed: Listed) -> datetime:
    assert listed.manifest is not None  # noqa: S101 - asked of complete sessions alone
    return listed.manifest.created.replace(tzinfo=UTC)
