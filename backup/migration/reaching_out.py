"""Whether SQL says anything that reaches out of the database that it is run in."""

import re
from collections.abc import Iterator

from backup.migration.command import without_passwords

# Strict on purpose: what is refused here for nothing costs a forecast, what is let through costs data.
_OUT = (
    r"\bdblink\w*|\bplproxy\b|\w+_fdw\b|\bpg_(background|cron|net)\w*|\bcron\.\w+",
    r"\b(create|alter|drop) server\b|\bforeign (data|table|schema)\b|\bforeign server\b",
    r"\bcopy\b[^;]*\b(program\b|(from|to) ?(stdin|e?'|\$\w*\$|:))",
    r"\b(pg_read_|pg_stat_file|pg_ls_|pg_file_|pg_execute_|lo_import|lo_export)\w*",
    r"\bplpython\w*|\b(plperl|pltcl|pllua|plr)u\b|\b(plsh|pljava)\b|\blanguage ['\"]?(c|internal)\b|\bload ?e?'",
    r"\bpg_(terminate|cancel)_backend\b|\bpg_(reload_conf|rotate_logfile|promote|switch_wal)\b",
    r"\bpg_(create|drop|copy|replication)_\w*(slot|origin)\w*|\bpg_replication_origin\w*",
    r"\bstandard_conforming_strings\b",
)
_SHARED = (
    r"\b(create|alter|drop) (role|user|group|database|tablespace|subscription)\b",
    r"\balter system\b|\b(reassign|drop) owned\b",
    r"\b(comment|label)\b[^;]*\bon (role|database|tablespace|subscription)\b",
    r"\b(grant|revoke)\b[^;]*\bon (database|tablespace|parameter)\b",
    r"\b(grant|revoke)\b(?:(?!\bon\b)[^;])+\b(to|from)\b",
    r"\b(update|into|delete from)( only)? (pg_catalog\.)?\"?pg_(auth|database|db_role|tablespace|sh)\w*",
)
_OUT_OF_IT, _OF_ALL = (re.compile("|".join(words), re.IGNORECASE) for words in (_OUT, _SHARED))

_TOKEN = re.compile(
    r"""(?P<comment>--[^\n]*|/\*.*?\*/)
      | (?P<quoted>(?<![\w$])[eE]'(?:[^'\\]|\\.|'')*' | '(?:[^']|'')*' | "(?:[^"]|"")*"
                 | (?<![\w$])(?P<tag>\$(?:[^\W\d]\w*)?\$).*?(?P=tag))
      | (?P<command>\\(?!;)[^\n]*)""",
    re.DOTALL | re.VERBOSE,
)

# `\restrict` is in what pg_dump writes; `\;`, which is none, separates statements.
_HARMLESS = re.compile(
    r"\\(echo|qecho|warn|timing|pset|x|a|t|p|r|set|unset|if|elif|else|endif|q|d\w*[+]?|errverbose"
    r"|restrict|unrestrict)(?=\s|$)(?P<rest>.*)"
)


def why_reaches_out(sql: str, *, shared: bool) -> str:
    """What a script says that reaches out of its database, or nothing.

    By words, so what it puts together while it runs is not seen.

    Args:
        sql: statements, also with psql's own commands.
        shared: what belongs to all databases of a server (roles, settings, other databases) counts too.
    """
    text, commands = [], list[str]()
    place = 0
    for token in _TOKEN.finditer(sql):
        text.append(sql[place : token.start()])
        place = token.end()
        if token["command"]:
            commands.append(token[0])
        # PostgreSQL nests comments, and what stands behind the inner one would be taken for what it is not
        elif token["comment"] and token[0].count("/*") > 1:
            return "has a comment in a comment, behind which nothing can be told apart"
        text.append(" " if token["comment"] else token[0])
    text.append(sql[place:])
    said = " ".join("".join(text).split())
    if refused := next(_refused(commands), ""):
        return f"says {refused}, which can reach out of the database"
    if found := _OUT_OF_IT.search(said):
        return f"says “{_short(found[0])}”, which can reach out of the database"
    if shared and (found := _OF_ALL.search(said)):
        return (
            f"says “{_short(found[0])}”, which is there for all databases of a server, also for the real one "
            "(with backup.scratch: embedded it is on a server of its own)"
        )
    return ""


def _refused(commands: list[str]) -> Iterator[str]:
    """Psql's commands that are not known to be harmless; a further one in the same line counts as such."""
    for command in commands:
        known = _HARMLESS.match(command)
        if known is None or "`" in known["rest"] or "\\" in known["rest"]:
            yield _short(command.split()[0]) + (" with a backtick or another command behind it" if known else "")


def _short(text: str) -> str:
    shown = without_passwords(text)
    return shown if len(shown) <= 60 else f"{shown[:59]}…"
