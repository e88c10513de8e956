"""drizzle-kit without anybody to ask: stable is told `--force`, 1.0 gets its answers from a file."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backup.migration.drizzle import verb_of
from backup.migration.drizzle_project import find_kit

_ROUNDS = 5
"""drizzle-kit 1.0 asks for all that it knows of at once, and for more once that is answered."""


@dataclass(kw_only=True)
class Unasked:
    """How a command line of drizzle-kit is run with every “is this loss all right?” answered by yes.

    `argv` is what to run; `differs` says what is different from the real run, or nothing.
    """

    argv: tuple[str, ...]
    differs: str = ""
    hints: Path | None = None
    rounds: int = _ROUNDS

    def answer(self, output: str) -> bool:
        """Whether there are new answers to what it asked, so that another run gets further.

        Only a loss is confirmed: whether a table is a new one or another renamed, nobody but a person knows.
        """
        asked = _unresolved(output)
        if self.hints is None or not asked or any(question.get("type") != "confirm_data_loss" for question in asked):
            return False
        self.rounds -= 1
        answers: list[dict[str, Any]] = json.loads(self.hints.read_text())
        answers += [{key: question[key] for key in ("type", "kind", "entity")} for question in asked]
        self.hints.write_text(json.dumps(answers))
        return self.rounds > 0


def unasked(argv: tuple[str, ...], directory: Path, folder: Path) -> Unasked:
    """The way to run a command line of drizzle-kit where nobody answers; a file of answers goes into `folder`."""
    kit = find_kit(directory)
    if verb_of(argv) != "push" or kit is None or "--explain" in argv:
        return Unasked(argv=argv)
    if kit.version.startswith("0."):
        if "--force" in argv:
            return Unasked(argv=argv)
        return Unasked(
            argv=(*argv, "--force"), differs="run with --force: every question about a loss counts as answered by yes"
        )
    if "--hints-file" in argv or any(word.startswith(("--hints", "--output")) for word in argv):
        return Unasked(argv=argv)
    hints = folder / "hints.json"
    hints.write_text("[]")
    return Unasked(
        argv=(*argv, "--output", "json", "--hints-file", str(hints)),
        differs="run with a file of hints: every question about a loss counts as answered by yes",
        hints=hints,
    )


def _unresolved(output: str) -> list[dict[str, Any]]:
    for line in output.splitlines():
        if line.startswith('{"status":"missing_hints"'):
            try:
                found = json.loads(line).get("unresolved", [])
            except ValueError:
                return []
            return [question for question in found if {"type", "kind", "entity"} <= question.keys()]
    return []
