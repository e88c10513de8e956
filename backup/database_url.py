"""Where the database is: the URL, and other variables, from the environment or a `.env`."""

import io
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dotenv import dotenv_values

from backup.settings import Settings
from backup.yaml_file import read_text, refusal


@dataclass(frozen=True)
class DatabaseURL:
    """Where the database is, and who said so.

    Args:
        url: as it was written, password included; never shown.
        source: for a sentence: "DATABASE_URL in the environment", "DATABASE_URL in /srv/app/.env".
    """

    url: str = field(repr=False)
    source: str


def database_url(settings: Settings, environ: Mapping[str, str] | None = None) -> DatabaseURL | None:
    """The database's URL, by `find_variable`.

    Returns:
        None where nobody gives one; whether libpq's own variables count then is for the caller to say.

    Raises:
        UsageError: as `find_variable`.
    """
    found = find_variable(settings, settings.url_variable, environ)
    return DatabaseURL(*found) if found else None


def find_variable(settings: Settings, name: str, environ: Mapping[str, str] | None = None) -> tuple[str, str] | None:
    """A variable's value and who gives it: the environment, else `.env` in `settings.directory`, else in the cwd.

    An empty value counts as none. The environment of the process is not changed, and `$` in a `.env` is a
    character like any other.

    Raises:
        UsageError: a `.env` cannot be read, or its line for this variable cannot be understood.
    """
    if value := (os.environ if environ is None else environ).get(name):
        return value, f"{name} in the environment"
    for file in dict.fromkeys((settings.directory / ".env", Path.cwd() / ".env")):
        if not os.path.lexists(file):
            continue
        text = read_text(file)
        values = dotenv_values(stream=io.StringIO(text), interpolate=False)
        if value := values.get(name):
            return value, f"{name} in {file}"
        # python-dotenv passes over a line that it cannot parse: that would be another database, silently.
        if name not in values and re.search(rf"^\s*(export\s+)?{name}\s*=", text, re.MULTILINE):
            raise refusal(f"The line of {name} in {file} cannot be understood; is a quote not closed?")
    return None
