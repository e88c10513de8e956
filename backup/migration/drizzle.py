"""What is particular to drizzle-kit: its exit code 0 stands also for nothing done, and for half of it.

What it says was recorded from 0.31.11 and 1.0.0-rc.5, see tests/data/drizzle.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePath

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\r")

_REFUSED = "[x] All changes were aborted"
_INTERRUPTED = "^C"
# what stands in braces is 1.0's --output json
_UNANSWERED = re.compile(r'Error: Interactive prompts require a TTY|missing_hints: |{"status":"missing_hints"')
_NOTHING = re.compile(r'\[i\] No changes detected|No schema changes, nothing to migrate|{"status":"no_changes"')
_APPLIED = re.compile(r'\[✓\] (Changes applied|migrations applied successfully!|Your SQL migration )|{"status":"ok"')
_ERROR = re.compile(r'(┌── )?query error: |\w*[Ee]rror(: |  )|.+: ERROR: |{"status":"error"')

_MIGRATING = ("push", "migrate", "generate")
_QUOTED = 200


class Outcome(StrEnum):
    """How far a migration command came."""

    APPLIED = "applied"
    NOTHING_TO_DO = "nothing to do"
    ABORTED = "aborted"
    """A person said no to its question, or interrupted it, before it changed anything."""
    NOT_APPLIED = "not applied"
    """It did not do its work: nobody could answer its question, or nothing shows that it did."""
    PARTLY = "partly applied"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """An outcome and the sentence that says why."""

    outcome: Outcome
    sentence: str


def is_drizzle(argv: tuple[str, ...]) -> bool:
    """Whether a command line starts drizzle-kit, by itself or through npx, pnpm, yarn or bunx."""
    return any(_is_program(element) for element in argv)


def judge_drizzle(argv: tuple[str, ...], output: str, returncode: int, *, catalog_changed: bool) -> Judgement:
    """What drizzle-kit did, by what it said and by the database.

    Args:
        argv: the whole command line.
        output: what it wrote, escape sequences included.
        returncode: 128 + n when signal n ended it.
        catalog_changed: whether the database's catalog is another than before.
    """
    verb = verb_of(argv)
    name = f"drizzle-kit {verb}".strip()
    lines = _lines(output)

    def undone(outcome: Outcome, why: str) -> Judgement:
        if not catalog_changed:
            return Judgement(outcome=outcome, sentence=f"{why}. The database's catalog is as it was.")
        if verb == "migrate":
            return Judgement(
                outcome=outcome,
                sentence=f"{why}. All its files run in one transaction, so none was applied; the catalog "
                "changed all the same, as it does when a first run makes drizzle's own table of migrations.",
            )
        return Judgement(
            outcome=Outcome.PARTLY,
            sentence=f"{why}. The database's catalog is not as it was: what it did before that stays.",
        )

    if _REFUSED in lines:
        return undone(Outcome.ABORTED, f"{name} was answered with “No, abort”")
    if returncode == 130 or (returncode and _INTERRUPTED in lines):
        return undone(Outcome.ABORTED, f"{name} was interrupted")
    if question := question_of(output):
        return undone(Outcome.NOT_APPLIED, f"{name} had a question and nobody to answer it: “{question}”")
    if returncode == 0 and "--explain" in argv:
        return Judgement(outcome=Outcome.NOTHING_TO_DO, sentence=f"{name} was only asked to explain itself.")
    if returncode == 0 and (said := _first(_NOTHING, lines)):
        return Judgement(outcome=Outcome.NOTHING_TO_DO, sentence=f"{name} had nothing to do: “{said}”.")
    if returncode == 0 and (said := _first(_APPLIED, lines)):
        if verb == "migrate" and not catalog_changed:
            return Judgement(
                outcome=Outcome.NOTHING_TO_DO,
                sentence=f"{name} said “{said}”, but the catalog is as it was: no file was left to run, or "
                "only rows changed.",
            )
        if verb == "push" and not catalog_changed:
            return Judgement(
                outcome=Outcome.NOT_APPLIED,
                sentence=f"{name} said “{said}”, but the catalog of the database that was backed up is as it was: does "
                "drizzle's configuration name another database?",
            )
        return Judgement(outcome=Outcome.APPLIED, sentence=f"{name} said “{said}”{_by_escape(lines)}.")
    if error := _first(_ERROR, lines):
        return undone(Outcome.FAILED, f"{name} failed: “{error.removeprefix('┌── ')}”")
    if returncode:
        return undone(Outcome.FAILED, f"{name} ended with exit code {returncode} and named no error")
    if verb not in _MIGRATING:
        return Judgement(outcome=Outcome.APPLIED, sentence=f"{name} ended with exit code 0.")
    unknown = f"{name} ended with exit code 0 and said nothing that is known of it"
    if catalog_changed:
        return Judgement(outcome=Outcome.APPLIED, sentence=f"{unknown}. The database's catalog changed.")
    return undone(Outcome.NOT_APPLIED, unknown)


def question_of(output: str) -> str:
    """The question that drizzle-kit had and nobody to answer it, or nothing."""
    return _first(_UNANSWERED, _lines(output))


def _is_program(element: str) -> bool:
    """Whether one element of a command line names drizzle-kit: as a command, a package, or its script."""
    path = PurePath(element)
    return path.name.partition("@")[0] in ("drizzle-kit", "drizzle-kit.cmd") or path.parts[-2:] == (
        "drizzle-kit",
        "bin.cjs",
    )


def verb_of(argv: tuple[str, ...]) -> str:
    """What drizzle-kit is told to do: the first word after its last name in the command line."""
    last = max((place for place, element in enumerate(argv) if _is_program(element)), default=-1)
    words = [element for element in argv[last + 1 :] if not element.startswith("-")]
    # `push:pg` in old versions
    return words[0].partition(":")[0] if words else ""


def _lines(output: str) -> list[str]:
    """What was ever on the screen, line by line: a redrawn line is another one."""
    text = _CONTROL.sub("\n", _COLOUR.sub("", output))
    return [line.strip() for line in text.split("\n") if line.strip()]


def _first(pattern: re.Pattern[str], lines: list[str]) -> str:
    """The first line that begins with the pattern, short enough to be quoted, or nothing."""
    found = next((line for line in lines if pattern.match(line)), "")
    return found if len(found) <= _QUOTED else f"{found[: _QUOTED - 1]}…"


def _by_escape(lines: list[str]) -> str:
    """Esc answers drizzle-kit's question with yes, whatever answer is marked."""
    marked = [line for line in lines if line.startswith("❯")]
    return " although “No, abort” was marked: Esc means yes there" if marked[-1:] == ["❯ No, abort"] else ""
