"""What a script of package.json is: `npm run db:push` is whatever that script calls."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path, PurePath

_RUNNERS = ("npm", "pnpm", "yarn", "bun")
_RUN = ("run", "run-script")


def words_of_script(argv: Sequence[str], directory: Path) -> tuple[str, ...]:
    """The words of the script that a command line runs, and what it is given besides; empty where it runs none.

    Words are told apart, and no more of a shell's language. The package.json is the one that the runners take: the
    first from the folder upwards.
    """
    runner = next((n for n, word in enumerate(argv) if PurePath(word).name in _RUNNERS), None)
    if runner is None:
        return ()
    place = next((n for n in range(runner + 1, len(argv)) if argv[n] in _RUN), None)
    if place is None and PurePath(argv[runner]).name == "npm":
        return ()  # the others take a script's name alone
    scripts, first = _scripts(directory), runner if place is None else place
    # an option may stand before the name, and its value too
    named = next((n for n in range(first + 1, len(argv)) if argv[n] in scripts), None)
    return (*_words(scripts[argv[named]]), *(word for word in argv[named + 1 :] if word != "--")) if named else ()


def _scripts(directory: Path) -> dict[str, str]:
    file = next((f for d in (directory, *directory.parents) if (f := d / "package.json").is_file()), None)
    try:
        scripts = json.loads(file.read_text(encoding="utf-8-sig"))["scripts"] if file else {}
        return {name: script for name, script in scripts.items() if isinstance(script, str)}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}  # the runner will say so


def _words(script: str) -> tuple[str, ...]:
    words = shlex.shlex(script, posix=True, punctuation_chars=";&|")
    words.whitespace_split, words.commenters = True, ""
    try:
        return tuple(words)
    except ValueError:  # a quote that is never closed
        return tuple(script.split())
