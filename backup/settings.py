"""What a project wants: `config/backup.yml` and the environment, read once into one frozen value."""

import os
import re
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    StrictBool,
    StrictInt,
    ValidationError,
    ValidationInfo,
)

from backup.errors import UsageError
from backup.yaml_file import read_yaml, refusal, shown

Compression = Literal["gzip", "zstd"]
"""How a session's tables are compressed."""

_BACKUPS = Path("local/backups/drizzle/cdc")
_SWITCH = {"on": True, "yes": True, "true": True, "off": False, "no": False, "false": False}
_SECONDS = {"ms": 0.001, "s": 1.0, "min": 60.0}


class Mode(StrEnum):
    """Whether a person is asked before a backup."""

    PROMPT = "prompt"
    AUTO = "auto"


class Rehearse(StrEnum):
    """Whether the migration command is tried on a scratch database first; `auto`: where it does nothing else."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


class OnDestroy(StrEnum):
    """What becomes of a statement that is about to take a CDC table from us."""

    CONTINUE = "continue"
    ASK = "ask"
    STOP = "stop"


def _absolute(value: object, folder: Path) -> Path:
    if not isinstance(value, str | Path) or value == "":
        raise ValueError("no path")
    try:
        return (folder / Path(value).expanduser()).resolve()
    except (RuntimeError, OSError) as error:  # no such user after `~`; links in a circle
        raise ValueError("no path") from error


def _folder(value: object, info: ValidationInfo) -> Path:
    if isinstance(info.context, Path):
        return _absolute(value, info.context)
    if not isinstance(value, Path) or not value.is_absolute():
        raise ValueError("not absolute")
    return value


def _switch(value: object) -> object:
    # YAML 1.1 makes booleans of on and off; in quotes they stay words.
    return _SWITCH.get(value.lower(), value) if isinstance(value, str) else value


def _word(value: object) -> object:
    # YAML 1.1 makes a boolean of the word on.
    return {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) else value


def _compression(value: object) -> object:
    value = _switch(value)
    if value is True:
        return "gzip"
    if value is not False and not isinstance(value, str):  # a Literal alone would let the number 0 pass
        raise ValueError("no compression")
    return value


def _name(value: object) -> str:
    # NAMEDATALEN: PostgreSQL cuts a longer identifier, so nothing could ever match it.
    if not isinstance(value, str) or "\0" in value or not 1 <= len(value.encode()) <= 63:
        raise ValueError("no identifier")
    return value


def _schemas(value: object) -> object:
    if value == "*":
        return value
    # In a list, "*" would be a schema of that name: nothing found, nothing protected.
    if not isinstance(value, list | tuple) or not value or "*" in value:
        raise ValueError("no list of schemas")
    names = tuple(_name(name) for name in value)
    if len(set(names)) < len(names):
        raise ValueError("a schema twice")
    return names


def _names(value: object) -> object:
    if value == "*":
        return value
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) and name for name in value):
        raise ValueError("no list of tables")
    return tuple(value)


def _scratch(value: object) -> object:
    if not isinstance(value, str) or not re.match(r"(auto|server|embedded)\Z|postgres(ql)?://.", value):
        raise ValueError("no scratch database")
    return value


def _clients(value: object, info: ValidationInfo) -> object:
    return value if value in ("auto", "path", "container") else _folder(value, info)


def _container(value: object, info: ValidationInfo) -> object:
    if value is None:
        return ""
    # What Docker lets a container be called, and compose a service.
    if not isinstance(value, str) or not re.fullmatch(r"[a-zA-Z0-9_.-]+", value) or info.data.get("container"):
        raise ValueError("no name, or another one beside it")
    return value


def _seconds(value: object) -> float:
    if isinstance(value, str) and (parts := re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?(ms|s|min)", value)):
        value = float(parts[1]) * _SECONDS[parts[2]]
    # The server takes whole milliseconds in 31 bits, and 0 of them as "wait for ever".
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.001 <= value <= 2_147_483:
        raise ValueError("no duration")
    return float(value)


def _limit(value: object) -> float | None:
    return None if value is None else _seconds(value)


def _argv(value: object) -> object:
    if not isinstance(value, list | tuple) or not value or value[0] == "":
        raise ValueError("no command")
    if not all(isinstance(word, str) and "\0" not in word for word in value):
        raise ValueError("no text")
    return tuple(value)


def _variable(value: object) -> object:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
        raise ValueError("no variable")
    return value


_Folder = Annotated[Path, BeforeValidator(_folder)]
_Switch = Annotated[StrictBool, BeforeValidator(_switch)]
_Command = Annotated[tuple[str, ...], BeforeValidator(_argv)]

_SWITCH_RULE = "true or false"
_IDENTIFIER_RULE = "text (in quotes where it looks like a number) of 1 to 63 bytes in UTF-8, without NUL"
_FOLDER_RULE = "the path of a folder; a relative one starts at the folder of this file"
_COMMAND_RULE = "a list of texts, the program and then each argument, like [npx, drizzle-kit, push]"


class Settings(BaseModel, frozen=True, extra="forbid", hide_input_in_errors=True):
    """The configuration of one run; all paths are absolute.

    A field's description completes the sentence "backup.<key> must be …" of a refusal, so that no message
    ever repeats a value: a value may hold a password.
    """

    enabled: _Switch = Field(default=True, description=_SWITCH_RULE)
    path: _Folder = Field(description=_FOLDER_RULE)
    format: Literal["sql", "copy"] = Field(default="sql", description="sql or copy")
    compress: Annotated[Compression | Literal[False], BeforeValidator(_compression)] = Field(
        default=False, description="false, true (which is gzip), gzip or zstd"
    )
    retention_days: StrictInt = Field(default=30, ge=1, description="a whole number of days, 1 or more")
    keep_last: StrictInt = Field(default=3, ge=1, description="a whole number of sessions, 1 or more")
    prefix: Annotated[str, BeforeValidator(_name)] = Field(default="_cdc_", description=_IDENTIFIER_RULE)
    schemas: Annotated[tuple[str, ...] | Literal["*"], BeforeValidator(_schemas)] = Field(
        default=("public",),
        description=f'a list of different schema names, like [public], or "*" without a list for all; '
        f"a name is {_IDENTIFIER_RULE}",
    )
    mode: Mode = Field(default=Mode.PROMPT, description="prompt or auto")
    drill: _Switch = Field(default=True, description="on or off")
    scratch: Annotated[str, BeforeValidator(_scratch)] = Field(
        default="auto",
        repr=False,
        description="auto, server, embedded, or a URL that starts with postgresql://",
    )
    rehearse: Annotated[Rehearse, BeforeValidator(_word)] = Field(default=Rehearse.AUTO, description="auto, on or off")
    rehearse_data: Annotated[tuple[str, ...] | Literal["*"], BeforeValidator(_names)] = Field(
        default=(), description='a list of tables, like [users, public.roles], or "*" without a list for all'
    )
    guard: _Switch = Field(default=True, description="on or off")
    on_destroy: OnDestroy = Field(default=OnDestroy.CONTINUE, description="continue, ask or stop")
    clients: Annotated[Literal["auto", "path", "container"] | Path, BeforeValidator(_clients)] = Field(
        default="auto", description=f"auto, path, container, or {_FOLDER_RULE}"
    )
    container: Annotated[str, BeforeValidator(_container)] = Field(default="", description="a container's name")
    compose_service: Annotated[str, BeforeValidator(_container)] = Field(
        default="", description="the name of a service of a compose file, and not given beside backup.container"
    )
    jobs: StrictInt = Field(default=2, ge=1, le=64, description="a whole number from 1 to 64")
    lock_timeout: Annotated[float, BeforeValidator(_seconds)] = Field(
        default=10.0,
        description='a number of seconds or a text like "10s", "500ms" or "2min", from 1 ms to 24 days',
    )
    push: _Command = Field(default=("npx", "drizzle-kit", "push"), description=_COMMAND_RULE)
    generate: _Command = Field(default=("npx", "drizzle-kit", "generate"), description=_COMMAND_RULE)
    migrate: _Command = Field(default=("npx", "drizzle-kit", "migrate"), description=_COMMAND_RULE)
    time_limit: Annotated[float | None, BeforeValidator(_limit)] = Field(
        default=None,
        description='nothing, or seconds, or a text like "30min": how long a command without a terminal may run',
    )
    directory: _Folder = Field(description=_FOLDER_RULE)
    url_variable: Annotated[str, BeforeValidator(_variable)] = Field(
        default="DATABASE_URL",
        description="the name of an environment variable: letters, digits and _ (not the URL)",
    )
    source: Path | None = None


_KEYS = tuple(key for key in Settings.model_fields if key != "source")

_OF_OTHERS = (".ts", ".mts", ".cts", ".js", ".mjs", ".cjs", ".json")
"""How the configurations end that drizzle-kit's --config names."""


def load_settings(
    config: Path | None = None,
    *,
    path: Path | None = None,
    cwd: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """Read the project's configuration, or take the built-in one where no file is found.

    The file is `config`, else what CDC_BACKUP_CONFIG names, else the first `config/backup.yml` or
    `drizzle/config/backup.yml` from `cwd` upwards. Its relative paths start at its own folder; those of the
    arguments and of the variable start at `cwd`.

    Args:
        config: the file that `--config` names.
        path: the folder that `--path` names; wins over the file's.
        cwd: where to look; the process's own unless given.
        environ: the variables; the process's own unless given.

    Raises:
        UsageError: a named file is not there, a file cannot be read, or a key in it cannot be followed.
    """
    here = (cwd or Path.cwd()).resolve()
    file = _find(config, here, os.environ if environ is None else environ)
    problems: list[str] = []
    values: dict[object, object] = {"path": here / _BACKUPS, "directory": here}
    if file is not None:
        try:
            section, problems = _section(file)
        except UsageError as error:
            if config is not None and config.suffix in _OF_OTHERS:
                error.remedy = (
                    "The configuration that --config names here is YAML; drizzle-kit's goes to drizzle-kit: "
                    f"push-safe -- --config={config}"
                )
            raise
        values = {"path": Path("..") / _BACKUPS, "directory": _project(file)} | section
        if "prefix" not in values:
            values |= _audit_prefix(file.with_name("audit-tables.yml"))
    if path is not None:
        values["path"] = _argument("--path", path, here)
    try:
        settings = Settings.model_validate(values | {"source": file}, context=file.parent if file else here)
    except ValidationError as error:
        keys = dict.fromkeys(str(detail["loc"][0]) for detail in error.errors(include_input=False))
        problems += [f"backup.{key} must be {Settings.model_fields[key].description}" for key in keys]
    if problems:
        raise refusal("\n  ".join([f"{file} cannot be used:", *problems]))
    return settings


def _find(config: Path | None, here: Path, environ: Mapping[str, str]) -> Path | None:
    if config is not None:
        return _named("--config", config, here)
    if variable := environ.get("CDC_BACKUP_CONFIG"):
        return _named("CDC_BACKUP_CONFIG", Path(variable), here)
    for folder in (here, *here.parents):
        for file in (folder / "config/backup.yml", folder / "drizzle/config/backup.yml"):
            try:
                file.lstat()
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:  # what cannot be looked at may be the configuration
                raise refusal(f"{file} cannot be read: {error.strerror}.") from None
            return file.parent.resolve() / file.name
    return None


def _named(who: str, config: Path, here: Path) -> Path:
    # Only the folder is resolved: what stands beside a link belongs to it, not what stands beside its target.
    file = _argument(who, config.parent, here) / config.name
    try:
        file.stat()
    except OSError as error:
        raise refusal(f"{who} names {file}, which cannot be read: {error.strerror}.") from None
    return file


def _argument(who: str, path: Path, here: Path) -> Path:
    try:
        return _absolute(path, here)
    except ValueError:
        raise refusal(f"{who} {path} is no path that can be followed.") from None


def _project(file: Path) -> Path:
    if file.parts[-2:] != ("config", "backup.yml"):
        return file.parent
    folder = file.parent.parent
    # A project may itself be called drizzle; then its package.json stands there.
    return folder.parent if folder.name == "drizzle" and not (folder / "package.json").exists() else folder


def _section(file: Path) -> tuple[dict[object, object], list[str]]:
    """The known keys under `backup`, and a sentence for each key that is unknown."""
    document = read_yaml(file)
    match document:
        case {"backup": dict(section), **others}:
            strangers = [f"{shown(key)} is no key of this file; the only one is backup" for key in others]
            strangers += [
                f"backup.{shown(key)} is no key of this file; its keys are {', '.join(_KEYS)}"
                for key in section
                if key not in _KEYS
            ]
            return {key: value for key, value in section.items() if key in _KEYS}, strangers
        case None:
            what = "is empty; it must hold the key backup (`backup: {}` for all defaults)"
        case {"backup": None}:
            what = "holds nothing under backup (`backup: {}` for all defaults)"
        case {"backup": _}:
            what = "must hold keys and values under backup"
        case dict():
            what = f"must hold the key backup; it holds {', '.join(shown(key) for key in document)}"
        case _:
            what = "must hold the key backup with keys and values under it"
    raise refusal(f"{file} {what}.")


def _audit_prefix(file: Path) -> dict[object, object]:
    """The prefix where the first system of this kind kept it, as a setting, or nothing."""
    if not os.path.lexists(file):
        return {}
    value = read_yaml(file)
    for key in ("audit", "config", "prefix"):
        if value is None or (isinstance(value, dict) and key not in value):
            return {}
        if not isinstance(value, dict):
            raise refusal(f"{file} must hold keys and values down to audit.config.prefix.")
        value = value[key]
    try:
        return {"prefix": _name(value)}
    except ValueError:
        raise refusal(f"{file}: audit.config.prefix must be {_IDENTIFIER_RULE}.") from None
