"""Whether a command line of psql, and the scripts that it names, stay in the database of the `PG*` variables."""

from collections.abc import Iterator
from pathlib import Path

from backup.migration.reaching_out import why_reaches_out

# psql takes any unambiguous beginning of a long option, and flags in one word: only what stands here is understood.
_FLAGS = {
    *("-X", "-q", "-1", "-a", "-b", "-e", "-E", "-n", "-S", "-A", "-t", "-x", "-H", "-z", "-0", "-w"),
    *("--no-psqlrc", "--quiet", "--single-transaction", "--echo-all", "--echo-errors", "--echo-queries"),
    *(
        "--echo-hidden",
        "--no-readline",
        "--single-line",
        "--no-align",
        "--tuples-only",
        "--expanded",
        "--html",
        "--csv",
    ),
    *("--field-separator-zero", "--record-separator-zero", "--no-password"),
}
_FILES, _COMMANDS, _VARIABLES = ("-f", "--file"), ("-c", "--command"), ("-v", "--set", "--variable")
_FORMATS = ("-P", "--pset", "-F", "--field-separator", "-R", "--record-separator", "-T", "--table-attr")
_VALUED = (*_FILES, *_COMMANDS, *_VARIABLES, *_FORMATS)


def why_not_psql(words: tuple[str, ...], directory: Path, *, shared: bool) -> str:
    """Why psql with these arguments could reach another database; empty when it cannot, as far as words tell.

    Args:
        words: the command line behind `psql`.
        directory: where it runs.
        shared: as `why_reaches_out` has it.
    """
    options = list(_options(words))
    for option, _ in options:
        if option not in _VALUED and option not in _FLAGS:
            if not option.startswith("-"):
                return "its command line names a database itself"
            return f"{option.partition('=')[0]} is no option of psql of which it is known that it names no database"
    if not {"-X", "--no-psqlrc"} & {option for option, _ in options}:
        return "its start-up files (psqlrc) could lead anywhere; say -X"
    scripts = []
    for option, value in options:
        if option in _COMMANDS:
            scripts.append(value)
        elif option in _FILES:
            try:
                if not (directory / value).is_file():
                    return f"{value} is no file that could be read before"
                scripts.append((directory / value).read_text(encoding="utf-8", errors="replace"))
            except OSError as error:
                return f"{value} cannot be read: {error.strerror}"
        elif option in _VARIABLES:
            name, _, content = value.partition("=")
            # it becomes a part of the script that names it
            if reason := why_reaches_out(content, shared=shared):
                return f"its variable {name} {reason}"
    if not scripts:
        return "it reads its SQL from stdin, which can be read only once"
    reason = next(filter(None, (why_reaches_out(script, shared=shared) for script in scripts)), "")
    return f"its script {reason}" if reason else ""


def _options(words: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Each option with its value, flags one by one; what is not understood as it stands there."""
    rest = iter(words)
    for word in rest:
        name, assigned, value = word.partition("=")
        if word in _FLAGS or (assigned and name.startswith("--") and name in _VALUED):
            yield name, value
        elif word in _VALUED:
            yield word, next(rest, "")
        elif word[:2] in _VALUED and not word.startswith("--"):
            yield word[:2], word[2:]
        elif not word.startswith("--") and len(word) > 2 and all(f"-{flag}" in _FLAGS for flag in word[1:]):
            yield from ((f"-{flag}", "") for flag in word[1:])
        else:
            yield word, ""
