"""What a run did, filled in as it goes, so that a failure can tell what came before it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backup.errors import ExitCode

if TYPE_CHECKING:
    from backup.migration.faults import Fault
    from backup.migration.guard import Strike
    from backup.migration.rehearsal import Forecast
    from backup.migration.verdict import Verdict
    from backup.postgres.newer import Horizon
    from backup.postgres.snapshot import Count
    from backup.postgres.tables import Table
    from backup.profile import Step
    from backup.session.folder import SavedTable, Session
    from backup.session.prune import Kept
    from backup.session.restore import Restored
    from backup.session.sidecar import Drill


class Status(StrEnum):
    """What a run came to, for machines."""

    BACKED_UP = "backed up"
    NOTHING_TO_BACK_UP = "nothing to back up"
    DISABLED = "disabled"
    DRY_RUN = "dry run"
    MIGRATED = "migrated"
    RESTORED = "restored"
    DRILLED = "drilled"
    REHEARSED = "rehearsed"
    PRUNED = "pruned"
    LISTED = "listed"
    EXAMINED = "examined"
    INITIALISED = "initialised"
    FAILED = "failed"
    DECLINED = "declined"
    DESTROYED = "destroyed"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, kw_only=True)
class Ran:
    """A migration command that was run, and the exit code that it gave."""

    argv: tuple[str, ...]
    exit_code: int


class State(StrEnum):
    """How a session's table stands in the database today."""

    GONE = "gone"
    THERE = "there"
    RENAMED = "renamed"
    CHANGED = "columns changed"


@dataclass(kw_only=True)
class TablePlan:
    """What a restore has to do with a table; `done` once it did.

    `oid` is that of the table of today, `rows_today` None where it has none or the role may not count them. It is
    `idle` where nothing is done: the table is not what it was, and there are no rows that would not fit.
    """

    saved: SavedTable
    state: State
    oid: int | None = None
    rows_today: int | None = None
    detail: str = ""
    idle: bool = False
    done: Restored | None = None


class Health(StrEnum):
    """Whether something is as a backup needs it."""

    OK = "ok"
    WARNING = "warning"
    MISSING = "missing"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What the doctor found out; the lines of `detail` after its first are particulars.

    `exit_code` is what the doctor ends with where this is missing.
    """

    check: str
    health: Health
    detail: str
    remedy: str = ""
    exit_code: ExitCode = ExitCode.BACKUP


class ChangeState(StrEnum):
    """What became of a change to a file of the project."""

    MADE = "made"
    THERE = "there"
    DECLINED = "declined"
    PROPOSED = "proposed"
    LEFT_ALONE = "left alone"
    NOT_UNDERSTOOD = "not understood"


@dataclass(frozen=True, kw_only=True)
class Changed:
    """A file of the project, what is to be said of it, and what became of that.

    `there` was so before, `proposed` had nobody to be asked, `left alone` is not for us to change, and
    `not understood` lacks what it should have.
    """

    file: Path
    state: ChangeState
    detail: str


@dataclass(kw_only=True)
class Result:
    """What a run did up to now; `tables`, `counts` and `horizon` are those that the verdict compares with.

    `allowed` are the OIDs of tables that a person, asked while the migration ran, let a statement have; `reached` says
    whether others connected to the database or changed something there then, None where that is not known.
    `not_restored` is what psql said of what a restore could not bring back.
    """

    status: Status | None = None
    session: Session | None = None
    tables: tuple[Table, ...] = ()
    counts: dict[int, Count] = field(default_factory=dict)
    horizon: Horizon | None = None
    ran: list[Ran] = field(default_factory=list)
    strikes: tuple[Strike, ...] | None = None
    gaps: dict[int, str] = field(default_factory=dict)
    unguarded: dict[str, str] = field(default_factory=dict)
    taken: dict[int, int] = field(default_factory=dict)
    reached: bool | None = None
    not_restored: tuple[str, ...] = ()
    allowed: frozenset[int] = frozenset()
    forecast: Forecast | None = None
    left: str = ""
    verdict: tuple[Verdict, ...] | None = None
    faults: tuple[Fault, ...] = ()
    drill: Drill | None = None
    plan: tuple[TablePlan, ...] | None = None
    sessions: tuple[Kept, ...] | None = None
    pruned: tuple[Path, ...] | None = None
    doctor: list[Finding] | None = None
    init: list[Changed] | None = None
    profile: Step | None = None

    def as_json(self, exit_code: int, message: str) -> dict[str, Any]:
        """The object that the README documents: rows are counts, sizes bytes, times UTC in ISO 8601."""
        manifest = self.session.manifest if self.session else None
        value: dict[str, Any] = {
            "status": self.status,
            "session": str(self.session.path) if self.session else None,
            "tables": [
                {
                    "schema": table.schema_name,
                    "name": table.name,
                    "rows": table.rows,
                    "file": table.file,
                    "bytes": table.bytes,
                    "compression": table.compression,
                }
                for table in (manifest.tables if manifest else ())
                if table.file
            ],
            "skipped": [
                {"schema": skipped.schema_name, "name": skipped.name, "reason": skipped.reason}
                for skipped in (manifest.skipped if manifest else ())
            ],
            "exit_code": exit_code,
            "message": message,
        }
        if manifest:
            value["unasked"] = list(manifest.unasked)
            value["versions"] = {
                "cdc_backup": manifest.tool_version,
                "server": manifest.server_version,
                "clients": manifest.client_version,
            }
        if self.ran:
            value["migration"] = {
                "argv": self.ran[-1].argv,
                "exit_code": self.ran[-1].exit_code,
                "reached": self.reached,
            }
        if self.strikes is not None:
            from backup.migration.guard import held_up

            value["guard"] = {
                "strikes": [
                    {
                        "statement": strike.query,
                        "table": strike.table,
                        "rows_saved": strike.rows,
                        "waited_ms": round(strike.waited * 1000),
                        "refused": strike.refused or None,
                        "gave_up": strike.gave_up,
                    }
                    for strike in self.strikes
                ],
                "held_up_ms": round(held_up(self.strikes) * 1000),
                "gaps": [{"table": name, "reason": reason} for name, reason in self.unguarded.items()],
            }
        if self.forecast is not None:
            value["forecast"] = _foreseen(self.forecast)
        if self.verdict is not None:
            value["verdict"] = [
                {
                    "schema": verdict.schema,
                    "name": verdict.name,
                    "change": verdict.change,
                    "rows_before": verdict.rows_before,
                    "rows_after": verdict.rows_after,
                    "rows_added": verdict.rows_added,
                    "rows_changed": verdict.rows_changed,
                    "announced": verdict.announced,
                    "by_others": verdict.by_others,
                    "detail": verdict.detail,
                }
                for verdict in self.verdict
            ]
            value["machinery"] = [
                {
                    "kind": fault.part,
                    "sentence": fault.sentence,
                    "remedy": fault.way_back or None,
                    "loss": fault.is_loss,
                }
                for fault in self.faults
            ]
        if self.drill is not None:
            value["drill"] = {
                "scratch": self.drill.scratch,
                "problem": self.drill.problem or self.drill.delta_problem or None,
                "delta": self.drill.delta,
                "unproven": self.drill.unproven,
            }
        if self.plan is not None:
            value["restored"] = [_planned(plan) for plan in self.plan]
            value["not_restored"] = list(self.not_restored)
        if self.sessions is not None:
            value["sessions"] = [_listed(kept) for kept in self.sessions]
        if self.pruned is not None:
            value["pruned"] = [str(path) for path in self.pruned]
        if self.doctor is not None:
            value["doctor"] = [
                {"check": found.check, "status": found.health, "detail": found.detail, "remedy": found.remedy or None}
                for found in self.doctor
            ]
        if self.init is not None:
            value["init"] = [
                {"file": str(changed.file), "state": changed.state, "detail": changed.detail} for changed in self.init
            ]
        if self.profile is not None:
            value["profile"] = _profiled(self.profile, None)
        return value


def _profiled(whole: Step, within: str | None) -> list[dict[str, Any]]:
    return [
        entry
        for part in whole.parts.values()
        for entry in (
            {"step": part.name, "seconds": round(part.seconds, 3), "within": within},
            *_profiled(part, part.name),
        )
    ]


def _foreseen(forecast: Forecast) -> dict[str, Any]:
    return {
        "argv": forecast.command.shown,
        "scratch": forecast.place or None,
        "seconds": round(forecast.seconds, 3),
        "unknown": forecast.unknown or None,
        "failure": forecast.failure or None,
        "limits": forecast.limits,
        "tables": [
            {
                "schema": verdict.schema,
                "name": verdict.name,
                "change": verdict.change,
                "rows_before": verdict.rows_before,
                "rows_after": verdict.rows_after,
                "detail": verdict.detail,
                "through": ".".join(forecast.through.get((verdict.schema, verdict.name), ())) or None,
            }
            for verdict in forecast.verdicts
        ],
    }


def _planned(plan: TablePlan) -> dict[str, Any]:
    done = plan.done
    return {
        "schema": plan.saved.schema_name,
        "name": plan.saved.name,
        "state": plan.state,
        "rows_before": plan.rows_today,
        "rows_added": done.added if done else None,
        "rows_kept_different": done.differ if done else None,
        "rows_removed": done.removed if done else None,
        "rows_newer": done.newer if done else None,
        "rows_updated": done.updated if done else None,
    }


def _listed(kept: Kept) -> dict[str, Any]:
    listed, manifest = kept.listed, kept.listed.manifest
    return {
        "session": listed.path.name,
        "path": str(listed.path),
        "created": manifest.created.replace(tzinfo=UTC).isoformat() if manifest else None,
        "database": manifest.database if manifest else None,
        "tables": len(manifest.tables) if manifest else None,
        "unasked": list(manifest.unasked) if manifest else None,
        "rows": sum(table.rows for table in manifest.tables) if manifest else None,
        "rows_in_delta": kept.delta.rows if kept.delta else 0,
        "bytes": listed.bytes,
        "compression": manifest.compression if manifest else None,
        "complete": not listed.problem,
        "problem": listed.problem or None,
        "drilled": None if kept.drill is None else not kept.drill.problem,
        "destroyed": None if kept.verdict is None else kept.verdict.destroyed,
        "machinery": [] if kept.verdict is None else list(kept.verdict.machinery),
        "restored": kept.restored,
        "kept_because": kept.reason or None,
    }
