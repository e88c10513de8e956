"""The sessions of a folder, for people."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from backup.report import Report, plural, size
from backup.session.delta_parts import aside_files, lonely_deltas
from backup.session.prune import Kept
from backup.session.sidecar import Verdict

_HEADINGS = ("session", "age", "database", "#tables", "#rows", "#size", "drilled", "its migration", "kept because")


def show_sessions(report: Report, folder: Path, sessions: Sequence[Kept]) -> None:
    """A line for each session: what it holds, whether it is proven, what came of it, why it is kept."""
    report.say(
        f"{plural(len(sessions), 'session')} in {folder}" + ("" if folder.is_dir() else ", which no backup made yet")
    )
    if sessions:
        report.table(_HEADINGS, map(_row, sessions))
    for delta in lonely_deltas(folder):
        report.warn(
            f"  {delta.name} is a delta whose session is not there; it is never deleted, so look at it yourself"
        )


def _row(kept: Kept) -> tuple[str, ...]:
    listed, manifest = kept.listed, kept.listed.manifest
    described: tuple[str, ...] = ("?", "?", "?", "?")
    if manifest:
        age = datetime.now(UTC) - manifest.created.replace(tzinfo=UTC)
        described = (
            f"{age.days} d" if age.days else f"{age.seconds // 3600} h {age.seconds // 60 % 60} min",
            manifest.database,
            f"{len(manifest.tables)}"
            + (f" of {len(manifest.tables) + len(manifest.unasked)}" * bool(manifest.unasked)),
            f"{sum(table.rows for table in manifest.tables):,}"
            + (f", +{plural(kept.delta.rows, 'row')} in its delta" if kept.delta else "")
            + (f", others in {plural(len(aside), 'file')} aside" if (aside := aside_files(listed.path)) else ""),
        )
    drilled = "no" if kept.drill is None else "failed" if kept.drill.problem else "yes"
    match kept.verdict:
        case None:
            migration = "none"
        case Verdict(destroyed=None):
            migration = "not known"
        case Verdict(destroyed=dict(destroyed), announced=announced, machinery=machinery):
            what = ", ".join(
                f"{name} ({how}{', as announced' if name in announced else ''})" for name, how in destroyed.items()
            )
            migration = f"destroyed {what or 'nothing'}" + ("; restored since" if kept.restored else "")
            migration += "; " + " ".join(text.splitlines()[0] for text in machinery) if machinery else ""
    state = f"not complete: {listed.problem}" if listed.problem else kept.reason or "nothing: prune deletes it"
    return (
        listed.path.name,
        *described,
        size(listed.bytes + (kept.delta.bytes if kept.delta else 0)),
        drilled,
        migration,
        state,
    )
