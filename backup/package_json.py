"""Scripts for a package.json, put into its text without touching a character of the rest."""

import json
import re
from collections.abc import Mapping
from typing import Any

_ENTRY = re.compile(r'(?m)^([ \t]+)"')


def add_scripts(text: str, scripts: Mapping[str, str]) -> str:
    """The text with these scripts after those that are there; none of them may be there.

    Raises:
        ValueError: it is no JSON object, its scripts are none, or it says one key twice.
    """
    whole = _object(json.loads(text, object_pairs_hook=_once))
    indent = (found := _ENTRY.search(text)) and found[1]
    if "scripts" in whole:
        wanted = {**whole, "scripts": {**_object(whole["scripts"]), **scripts}}
        # The word may also stand in a value or deeper inside: what comes out is what tells the right place.
        starts = [match.end() - 1 for match in re.finditer(r'"scripts"\s*:\s*\{', text)]
        changed = [_append(text, start, scripts, indent, depth=2) for start in starts]
    else:
        wanted = {**whole, "scripts": {**scripts}}
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


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("it holds something else than an object")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = dict(pairs)
    if len(keys) < len(pairs):
        raise ValueError("it gives a key twice")
    return keys
