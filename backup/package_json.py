"""Scripts for a package.json, put into its text without touching a character of the rest."""

import json
import re
from collections.abc import Mapping
from typing import Any

_ENTRY = re.compile(r'(?m)^([ \t]+)"')


def read_scripts(text: str) -> dict[str, Any]:
    """The scripts that it has.

    Raises:
        ValueError: it is no JSON object, its scripts are none, or it says one key twice; in words for people.
    """
    return _scripts(_read(text))


def add_scripts(text: str, scripts: Mapping[str, str]) -> str:
    """The text with these scripts, of which there must be one, after those that are there; it may have none of them.

    Raises:
        ValueError: as `read_scripts`.
    """
    whole = _read(text)
    indent = (found := _ENTRY.search(text)) and found[1]
    wanted = {**whole, "scripts": {**_scripts(whole), **scripts}}
    if "scripts" in whole:
        # The word may also stand in a value or deeper inside: what comes out is what tells the right place.
        starts = [match.end() - 1 for match in re.finditer(r'"scripts"\s*:\s*\{', text)]
        changed = [_append(text, start, scripts, indent, depth=2) for start in starts]
    else:
        changed = [_append(text, text.index("{"), {"scripts": dict(scripts)}, indent, depth=1)]
    for candidate in changed:
        if json.dumps(json.loads(candidate)) == json.dumps(wanted):
            return candidate
    raise ValueError("its scripts were not found")


def _append(text: str, start: int, entries: Mapping[str, Any], indent: str | None, *, depth: int) -> str:
    """The text with these entries at the end of the object whose brace is at `start`."""
    content, end = json.JSONDecoder().raw_decode(text, start)
    last = len(text[: end - 1].rstrip())
    if indent is None or (content and "\n" not in text[start:end]):
        dumped = json.dumps(dict(entries), ensure_ascii=False)[1:-1]
        return f"{text[:last]}{', ' if content else ''}{dumped}{text[last:]}"
    newline = ("\r\n" if "\r\n" in text else "\n") + indent * (depth - 1)
    dumped = json.dumps(dict(entries), indent=indent, ensure_ascii=False)[1:-2].replace("\n", newline)
    closing = text[last:] if content else newline + text[last:].lstrip()
    return f"{text[:last]}{',' if content else ''}{dumped}{closing}"


def _read(text: str) -> dict[str, Any]:
    try:
        whole = json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        if text.startswith("\ufeff"):
            raise ValueError("it begins with a byte order mark") from error
        raise ValueError(f"it is no JSON at line {error.lineno}, column {error.colno}") from error
    if not isinstance(whole, dict):
        raise ValueError("it is no object")
    return whole


def _scripts(whole: Mapping[str, Any]) -> dict[str, Any]:
    scripts = whole.get("scripts", {})
    if not isinstance(scripts, dict):
        raise ValueError("its scripts are no object")
    return scripts


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = dict(pairs)
    if len(keys) < len(pairs):
        raise ValueError("it gives a key twice")
    return keys
