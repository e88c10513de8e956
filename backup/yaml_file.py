"""A file of somebody else's, read strictly: what cannot be understood is refused with its place."""

import re
from pathlib import Path

import yaml

from backup.errors import UsageError


class _TwiceError(yaml.MarkedYAMLError):
    """A key that stands twice in one mapping."""


class _Loader(yaml.SafeLoader):
    """The safe loader, which by itself would let the last of two equal keys win."""

    def compose_mapping_node(self, anchor: dict[str, yaml.Node]) -> yaml.MappingNode:
        # Here and not where values are made: there, keys merged by `<<` already stand beside a mapping's own.
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            line = key.start_mark.line + 1
            if key.value in lines:
                first = lines[key.value]
                raise _TwiceError(problem=f"{shown(key.value)} is given twice, in lines {first} and {line}")
            lines[key.value] = line
        return node


def read_yaml(file: Path) -> object:
    """What the file holds, by `safe_load`'s rules; a key that is given twice is refused.

    Raises:
        UsageError: it cannot be read, or is no YAML; the message repeats none of its text.
    """
    text = read_text(file)
    try:
        return _Loader(text).get_single_data()
    except _TwiceError as error:
        raise refusal(f"{file} cannot be used: {error.problem}.") from None
    except yaml.reader.ReaderError as error:
        *lines, last = text[: error.position].split("\n")
        why = f"a character that no YAML may hold in line {len(lines) + 1}, column {len(last) + 1}"
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        # Only the scanner's complaints hold no more of the text, which may be a password, than one character.
        said = f" ({error.problem})" if isinstance(error, yaml.scanner.ScannerError) else ""
        why = f"something that is not YAML{where}{said}"
    except (ValueError, LookupError, AttributeError, RecursionError):
        # PyYAML lets these through for a date in month 13, an empty `!!int`, a thousand brackets.
        why = "a value that YAML cannot mean"
    raise UsageError(
        f"{file} holds {why}.",
        untouched="Nothing was done.",
        remedy="Correct this and run the command again; a text that begins with * & ! % @ ` needs quotes.",
    )


def read_text(file: Path) -> str:
    """The file's text, which must be UTF-8.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        return file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise refusal(f"{file} is not UTF-8 text: byte {error.start + 1} cannot be read.") from None
    except OSError as error:
        raise refusal(f"{file} cannot be read: {error.strerror}.") from None


def shown(key: object) -> str:
    """A key for a message, unless it could be more than a key."""
    # Where a blank or a colon was forgotten, a URL becomes a key, password and all.
    word = isinstance(key, str) and re.fullmatch(r"[\w.-]{1,63}", key)
    return str(key) if word else "a key that is no plain word"


def refusal(what: str) -> UsageError:
    """The error that says what is wrong with a file."""
    return UsageError(what, untouched="Nothing was done.", remedy="Correct this and run the command again.")
