"""The promises of `config/backup.yml`: what is found, what is understood, what is refused and how."""

import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from backup.database_url import DatabaseURL, database_url
from backup.errors import ExitCode, UsageError
from backup.settings import Mode, Settings, load_settings

SHIPPED = Path(__file__).parent.parent / "config" / "backup.yml"
SECRET = "s3cr%t pass"

ORIGIN = """\
backup:
  enabled: true
  path: "../../../../local/backups/drizzle/cdc"  # Project root
  format: "sql"
  compress: false
  retention_days: 30
"""


def written(folder: Path, text: str | bytes, name: str = "config/backup.yml") -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def loaded(
    cwd: Path,
    *,
    config: Path | None = None,
    path: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    return load_settings(config, path=path, cwd=cwd, environ=environ or {})


def with_key(folder: Path, line: str) -> Settings:
    written(folder, f"backup:\n  {line}\n")
    return loaded(folder)


def refused(cwd: Path, *, config: Path | None = None, path: Path | None = None) -> str:
    with pytest.raises(UsageError) as caught:
        loaded(cwd, config=config, path=path)
    message = str(caught.value)
    assert caught.value.exit_code is ExitCode.USAGE
    assert caught.value.__cause__ is None
    assert "Nothing was done." in message
    assert not re.search(r"pydantic|validation error|Traceback|Input should|input_value", message)
    return message


def refused_text(folder: Path, text: str | bytes) -> str:
    file = written(folder, text)
    message = refused(folder)
    assert str(file) in message
    return message


@contextmanager
def without_privileges(*readable: Path) -> Iterator[None]:
    """As a user whom permissions bind; root is not."""
    if os.geteuid() != 0:
        yield
        return
    for folder in readable:
        folder.chmod(0o755)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


# Which file


def test_without_a_file_the_built_in_defaults_hold(tmp_path: Path) -> None:
    assert loaded(tmp_path) == Settings(
        enabled=True,
        path=tmp_path / "local/backups/drizzle/cdc",
        format="sql",
        compress=False,
        retention_days=30,
        keep_last=3,
        prefix="_cdc_",
        schemas=("public",),
        mode=Mode.PROMPT,
        drill=True,
        scratch="auto",
        jobs=2,
        lock_timeout=10.0,
        push=("npx", "drizzle-kit", "push"),
        generate=("npx", "drizzle-kit", "generate"),
        migrate=("npx", "drizzle-kit", "migrate"),
        directory=tmp_path,
        url_variable="DATABASE_URL",
        source=None,
    )


@pytest.mark.parametrize("shape", ["config/backup.yml", "drizzle/config/backup.yml"])
def test_the_file_is_found_from_any_folder_below(tmp_path: Path, shape: str) -> None:
    file = written(tmp_path, "backup: {keep_last: 7}", shape)
    below = tmp_path / "src" / "deep"
    below.mkdir(parents=True)
    settings = loaded(below)
    assert (settings.keep_last, settings.source, settings.directory) == (7, file, tmp_path)


def test_the_nearest_file_wins_and_config_before_drizzle(tmp_path: Path) -> None:
    near = tmp_path / "app"
    written(tmp_path, "backup: {keep_last: 1}", "config/backup.yml")
    written(near, "backup: {keep_last: 2}", "drizzle/config/backup.yml")
    assert loaded(near).keep_last == 2
    written(near, "backup: {keep_last: 3}", "config/backup.yml")
    assert loaded(near).keep_last == 3


def test_the_argument_wins_over_the_variable_and_the_variable_over_the_search(tmp_path: Path) -> None:
    written(tmp_path, "backup: {keep_last: 1}")
    written(tmp_path, "backup: {keep_last: 2}", "variable.yml")
    written(tmp_path, "backup: {keep_last: 3}", "argument.yml")
    environ = {"CDC_BACKUP_CONFIG": "variable.yml"}
    assert loaded(tmp_path, environ=environ).keep_last == 2
    assert loaded(tmp_path, environ=environ, config=Path("argument.yml")).keep_last == 3
    assert loaded(tmp_path, environ={"CDC_BACKUP_CONFIG": ""}).keep_last == 1


def test_the_process_environment_and_folder_count_when_none_are_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, "backup: {keep_last: 5}", "team.yml")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CDC_BACKUP_CONFIG", "team.yml")
    assert load_settings().keep_last == 5


def test_a_named_file_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    written(tmp_path, "backup: {}")
    message = refused(tmp_path, config=Path("nowhere.yml"))
    assert f"--config names {tmp_path / 'nowhere.yml'}" in message
    with pytest.raises(UsageError, match=r"CDC_BACKUP_CONFIG names .*absent\.yml"):
        loaded(tmp_path, environ={"CDC_BACKUP_CONFIG": "absent.yml"})


def test_a_found_name_that_leads_nowhere_is_refused_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config/backup.yml").symlink_to("gone.yml")
    assert "config/backup.yml cannot be read: No such file or directory." in refused(tmp_path)


def test_a_plain_file_called_config_ends_no_search(tmp_path: Path) -> None:
    written(tmp_path, "backup: {keep_last: 4}")
    written(tmp_path, "", "app/config")
    assert loaded(tmp_path / "app").keep_last == 4


def test_a_folder_named_like_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config/backup.yml").mkdir(parents=True)
    assert "config/backup.yml cannot be read: Is a directory." in refused(tmp_path)


def test_a_file_without_permission_is_refused_not_passed_over() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        file = written(folder, "backup: {}")
        file.chmod(0)
        with without_privileges(folder, file.parent):
            assert f"{file} cannot be read: Permission denied." in refused(folder)
        file.parent.chmod(0)
        with without_privileges(folder):
            assert f"{file} cannot be read: Permission denied." in refused(folder)
        file.parent.chmod(0o700)


# Paths


def test_the_file_of_todays_projects_works_unchanged(tmp_path: Path) -> None:
    app = tmp_path / "packages" / "app"
    file = written(app, ORIGIN, "drizzle/config/backup.yml")
    settings = loaded(app)
    # Four folders up from drizzle/config: the root of a workspace whose apps are two folders down.
    assert settings.path == tmp_path / "local/backups/drizzle/cdc"
    assert (settings.directory, settings.source) == (app, file)
    assert (settings.enabled, settings.format, settings.compress, settings.retention_days) == (
        True,
        "sql",
        False,
        30,
    )


def test_relative_paths_start_at_the_folder_of_the_file(tmp_path: Path) -> None:
    written(tmp_path, "backup: {path: ../kept, directory: ../apps/api}", "etc/team.yml")
    settings = loaded(tmp_path, config=Path("etc/team.yml"))
    assert (settings.path, settings.directory) == (tmp_path / "kept", tmp_path / "apps/api")


def test_absolute_paths_stay(tmp_path: Path) -> None:
    written(tmp_path, f"backup: {{path: {tmp_path}/kept}}")
    assert loaded(tmp_path).path == tmp_path / "kept"


def test_the_default_path_stands_beside_the_folder_of_the_file(tmp_path: Path) -> None:
    written(tmp_path, "backup: {}", "drizzle/config/backup.yml")
    assert loaded(tmp_path).path == tmp_path / "drizzle/local/backups/drizzle/cdc"


def test_a_named_file_of_the_known_shape_runs_commands_in_its_project(tmp_path: Path) -> None:
    for shape in ("a/config/backup.yml", "b/drizzle/config/backup.yml"):
        file = written(tmp_path, "backup: {}", shape)
        assert loaded(Path("/"), config=file).directory == tmp_path / shape[0]
    other = written(tmp_path, "backup: {}", "c/cdc.yml")
    assert loaded(Path("/"), config=other).directory == tmp_path / "c"


def test_a_project_that_is_itself_called_drizzle_is_its_own_folder(tmp_path: Path) -> None:
    written(tmp_path, "backup: {}", "drizzle/config/backup.yml")
    written(tmp_path, "{}", "drizzle/package.json")
    assert loaded(tmp_path / "drizzle").directory == tmp_path / "drizzle"


def test_the_path_argument_wins_and_starts_at_the_current_folder(tmp_path: Path) -> None:
    below = tmp_path / "src"
    below.mkdir()
    written(tmp_path, "backup: {path: ../kept}")
    assert loaded(below, path=Path("mine")).path == below / "mine"


def test_a_tilde_is_the_home_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert with_key(tmp_path, 'path: "~/kept"').path == tmp_path / "home/kept"
    assert loaded(tmp_path, path=Path("~/mine")).path == tmp_path / "home/mine"


def test_a_tilde_of_nobody_is_refused(tmp_path: Path) -> None:
    assert "--path ~no-such-user/kept" in refused(tmp_path, path=Path("~no-such-user/kept"))
    assert "backup.path must be" in refused_text(tmp_path, "backup: {path: ~no-such-user/kept}")


def test_a_linked_file_belongs_to_the_folder_that_holds_the_link(tmp_path: Path) -> None:
    target = written(tmp_path, "backup: {}", "store/v1.yml")
    (tmp_path / "app/config").mkdir(parents=True)
    link = tmp_path / "app/config/backup.yml"
    link.symlink_to(target)
    settings = loaded(tmp_path / "app")
    assert (settings.source, settings.directory) == (link, tmp_path / "app")
    assert loaded(tmp_path, config=link) == settings


# The prefix


def test_the_prefix_of_audit_tables_counts_unless_the_file_says_otherwise(tmp_path: Path) -> None:
    written(tmp_path, "backup: {}")
    written(
        tmp_path,
        "audit:\n  tables: [a]\n  config: {prefix: _audit_, x: 1}\nother: 2\n",
        "config/audit-tables.yml",
    )
    assert loaded(tmp_path).prefix == "_audit_"
    assert with_key(tmp_path, "prefix: _mine_").prefix == "_mine_"


@pytest.mark.parametrize("text", ["", "audit:", "audit: {}", "audit: {config: }", "audit: {config: {}}", "other: 1"])
def test_audit_tables_without_a_prefix_leave_the_default(tmp_path: Path, text: str) -> None:
    written(tmp_path, "backup: {}")
    written(tmp_path, text, "config/audit-tables.yml")
    assert loaded(tmp_path).prefix == "_cdc_"


@pytest.mark.parametrize(
    "text",
    [
        "audit: {config: {prefix: 5}}",
        "audit: {config: {prefix: }}",
        "audit: {config: {prefix: ''}}",
        'audit: {config: {prefix: "a\\0"}}',
        "audit: {config: [prefix]}",
        "audit: _cdc_",
        "- audit",
        "audit: [",
        b"audit: \xff",
    ],
)
def test_audit_tables_that_cannot_be_understood_are_refused_by_name(tmp_path: Path, text: str | bytes) -> None:
    written(tmp_path, "backup: {}")
    file = written(tmp_path, text, "config/audit-tables.yml")
    assert str(file) in refused(tmp_path)


# Values


@pytest.mark.parametrize("key", ["enabled", "drill"])
@pytest.mark.parametrize(
    ("written_as", "meant"),
    [(word, True) for word in ("on", "yes", "true", "True", '"on"', '"yes"')]
    + [(word, False) for word in ("off", "no", "false", "OFF", '"off"', "'no'")],
)
def test_a_switch_may_be_written_in_every_way_of_yaml(tmp_path: Path, key: str, written_as: str, meant: bool) -> None:
    assert getattr(with_key(tmp_path, f"{key}: {written_as}"), key) is meant


@pytest.mark.parametrize("value", ["false", "off", "no", '"off"'])
def test_compression_may_be_switched_off_in_every_way_of_yaml(tmp_path: Path, value: str) -> None:
    assert with_key(tmp_path, f"compress: {value}").compress is False


@pytest.mark.parametrize(
    ("written_as", "meant"),
    [*((word, "gzip") for word in ("true", "on", "yes", '"on"', "gzip", '"gzip"')), ("zstd", "zstd")],
)
def test_compression_is_named_or_switched_on(tmp_path: Path, written_as: str, meant: str) -> None:
    assert with_key(tmp_path, f"compress: {written_as}").compress == meant


@pytest.mark.parametrize("value", ["0", "1", "{level: 3}", "", "zip", "GZIP", "[zstd]", '""'])
def test_another_compression_is_refused(tmp_path: Path, value: str) -> None:
    message = refused_text(tmp_path, f"backup:\n  compress: {value}\n")
    assert "backup.compress must be false, true (which is gzip), gzip or zstd" in message


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("10", 10.0),
        ("10.5", 10.5),
        ("10s", 10.0),
        ("500ms", 0.5),
        ("2min", 120.0),
        ("1.5 s", 1.5),
        ("1ms", 0.001),
    ],
)
def test_a_lock_timeout_is_seconds_or_carries_its_unit(tmp_path: Path, value: str, seconds: float) -> None:
    assert with_key(tmp_path, f"lock_timeout: {value}").lock_timeout == pytest.approx(seconds)


def test_every_value_arrives(tmp_path: Path) -> None:
    written(
        tmp_path,
        """\
backup:
  enabled: no
  path: kept
  format: sql
  compress: no
  retention_days: 1
  keep_last: 2
  prefix: "Audit %"
  schemas: "*"
  mode: auto
  drill: off
  scratch: embedded
  jobs: 64
  lock_timeout: 3
  push: [alembic, upgrade, head]
  generate: ["a b", ""]
  migrate: [psql, -p, "5432"]
  directory: ..
  url_variable: PG_URL
""",
    )
    assert loaded(tmp_path) == Settings(
        enabled=False,
        path=tmp_path / "config/kept",
        retention_days=1,
        keep_last=2,
        prefix="Audit %",
        schemas="*",
        mode=Mode.AUTO,
        drill=False,
        scratch="embedded",
        jobs=64,
        lock_timeout=3.0,
        push=("alembic", "upgrade", "head"),
        generate=("a b", ""),
        migrate=("psql", "-p", "5432"),
        directory=tmp_path,
        url_variable="PG_URL",
        source=tmp_path / "config/backup.yml",
    )


identifiers = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).filter(
    lambda name: len(name.encode()) <= 63 and name != "*"
)


@given(
    prefix=identifiers,
    schemas=st.lists(identifiers, min_size=1, max_size=5, unique=True),
    plain=st.booleans(),
)
def test_every_identifier_survives_the_file(prefix: str, schemas: list[str], plain: bool) -> None:
    # PyYAML writes these three raw, and reads them back as the line breaks that they are in YAML 1.1.
    plain = plain and not set("\x85\u2028\u2029").intersection("".join([prefix, *schemas]))
    document = yaml.safe_dump({"backup": {"prefix": prefix, "schemas": schemas}}, allow_unicode=plain)
    with tempfile.TemporaryDirectory() as name:
        settings = load_settings(written(Path(name), document), environ={})
    assert (settings.prefix, settings.schemas) == (prefix, tuple(schemas))


# Refusals


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("enabled", ["1", "maybe", "", "[on]"]),
        ("path", ["5", "", "''", "[a]", "true", '"a\\0"']),
        ("format", ["custom", "SQL", "", "1"]),
        ("retention_days", ["0", "-1", "1.5", '"30"', "true", "", "30d"]),
        ("keep_last", ["0", "true", "'3'"]),
        ("prefix", ["''", "5", "true", "", "[a]", '"a\\0b"', "a" * 64, "ä" * 32, '"\\ud800"']),
        (
            "schemas",
            ["[]", "public", "", "[5]", "[public, on]", "['']", "['*']", "[a, a]", "{a: b}", "[[a]]"],
        ),
        ("mode", ["ask", "on", "PROMPT", "", "[auto]"]),
        ("drill", ["maybe", "0", ""]),
        ("scratch", ["mysql://h/d", "http://h", "on", "", "postgresql://", "autos", "[server]"]),
        ("clients", ["5", "", "''", "[auto]"]),
        ("container", ["5", "''", "a b", "a/b", "[a]"]),
        ("compose_service", ["5", "''", "a b", "[db]"]),
        ("jobs", ["0", "65", "1.0", "true", "'2'", "9" * 30]),
        (
            "lock_timeout",
            [
                "0",
                "-1",
                "0.0001",
                "true",
                ".inf",
                ".nan",
                "10h",
                "'10'",
                "",
                "1e400",
                "9" * 400,
                "2147484",
                "'9999999min'",
            ],
        ),
        (
            "push",
            ["npx drizzle-kit push", "[]", "", "[psql, -p, 5432]", "['', a]", '["a\\0"]', "{a: b}", "[null]"],
        ),
        ("generate", ["[]", "make migrations"]),
        ("migrate", ["[]", "make migrate"]),
        ("directory", ["5", "", "''"]),
        ("url_variable", ["''", "5", "A B", "A=B", "postgresql://u:p@h/d", ""]),
    ],
)
def test_an_impossible_value_is_refused_by_file_and_key(tmp_path: Path, key: str, values: list[str]) -> None:
    for value in values:
        message = refused_text(tmp_path, f"backup:\n  {key}: {value}\n")
        lines = [line.strip() for line in message.splitlines() if line.startswith("  ")]
        assert [line.partition(" must be ")[0] for line in lines] == [f"backup.{key}"], (value, message)


def test_a_container_is_named_in_one_way(tmp_path: Path) -> None:
    assert with_key(tmp_path, "container: shop-db_1.x").container == "shop-db_1.x"
    assert with_key(tmp_path, "compose_service: db").compose_service == "db"
    assert with_key(tmp_path, "container:").container == ""
    message = refused_text(tmp_path, "backup: {container: a, compose_service: b}")
    assert "backup.compose_service must be the name of a service of a compose file, and not given beside" in message


def test_a_command_in_one_text_is_refused_with_the_advice_to_write_a_list(tmp_path: Path) -> None:
    message = refused_text(tmp_path, "backup: {push: npx drizzle-kit push}")
    assert "backup.push must be a list of texts" in message
    assert "[npx, drizzle-kit, push]" in message


def test_all_errors_stand_in_one_message(tmp_path: Path) -> None:
    message = refused_text(tmp_path, "other: 1\nbackup:\n  retention: 3\n  jobs: 0\n  mode: never\n  schemas: [5, 6]\n")
    assert [line.split(" must ")[0].split(" is no ")[0] for line in message.splitlines()[1:-2]] == [
        "  other",
        "  backup.retention",
        "  backup.schemas",
        "  backup.mode",
        "  backup.jobs",
    ]


def test_an_unknown_key_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    message = refused_text(tmp_path, "backup: {retention: 30}")
    assert "backup.retention is no key of this file; its keys are enabled, path, " in message


def test_the_file_cannot_say_where_it_was_read(tmp_path: Path) -> None:
    message = refused_text(tmp_path, "backup: {source: /etc/passwd}")
    assert "backup.source is no key of this file" in message
    assert not re.search(r"its keys are .*source", message)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("# nothing but a comment\n", "is empty"),
        ("backup:\n", "holds nothing under backup"),
        ("backup: [1]\n", "must hold keys and values under backup"),
        ("- backup\n", "must hold the key backup with keys"),
        ("backup\n", "must hold the key backup with keys"),
        ("backups: {}\n", "must hold the key backup; it holds backups"),
        ("backup: {}\ndatabase: x\n", "database is no key of this file"),
        ("backup: {}\n5: x\n", "a key that is no plain word is no key"),
        ("backup:\n  jobs: 2\n mode: auto\n", "not YAML in line 3, column 2"),
        ("backup:\n\tjobs: 2\n", "not YAML in line 2, column 1"),
        ("backup:\n  schemas: *\n", "not YAML in line 2, column 13"),
        ("backup: {}\n---\nbackup: {}\n", "not YAML in line 2, column 1"),
        ("backup: !!python/object/apply:os.getcwd []\n", "not YAML in line 1, column 9"),
        ("backup: {push: !!python/tuple [a]}\n", "not YAML in line 1, column 16"),
        ("backup:\n  path: a\x07b\n", "a character that no YAML may hold in line 2, column 10"),
        ("backup: {jobs: 2024-13-45}\n", "a value that YAML cannot mean"),
        ("backup: {jobs: !!int ''}\n", "a value that YAML cannot mean"),
        ("backup: " + "[" * 5000 + "]" * 5000, "a value that YAML cannot mean"),
        (b"backup: {prefix: \xe4}\n", "is not UTF-8 text: byte 18"),
        ("backup: {}\n".encode("utf-16"), "is not UTF-8 text"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused_in_a_sentence(tmp_path: Path, text: str | bytes, said: str) -> None:
    assert said in refused_text(tmp_path, text)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("drizzle.config.ts", 'export default defineConfig({ out: "x" });\n'),
        ("drizzle.config.json", '{"dialect": "postgresql"}'),
        ("backup.yml", "backup"),
    ],
)
def test_who_names_the_configuration_of_drizzle_kit_is_told_where_it_goes(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError) as refused:
        load_settings(Path(name), cwd=tmp_path)
    told = f"push-safe -- --config={name}" in str(refused.value)
    assert told == name.startswith("drizzle")


@pytest.mark.parametrize(
    "text",
    ["backup:\n  jobs: 2\n  mode: auto\n  jobs: 3\n", 'backup:\n  jobs: 2\n\n  "jobs": 3\n'],
)
def test_a_key_given_twice_is_refused_by_key_and_lines(tmp_path: Path, text: str) -> None:
    assert "jobs is given twice, in lines 2 and 4" in refused_text(tmp_path, text)


def test_a_key_given_twice_in_one_line_or_at_the_top_is_refused(tmp_path: Path) -> None:
    assert "jobs is given twice" in refused_text(tmp_path, "backup: {jobs: 2, jobs: 3}")
    assert "backup is given twice" in refused_text(tmp_path, "backup: {}\nbackup: {}\n")


def test_a_merged_key_may_be_overridden(tmp_path: Path) -> None:
    written(tmp_path, "backup:\n  <<: {jobs: 2, keep_last: 9}\n  jobs: 3\n")
    assert (loaded(tmp_path).jobs, loaded(tmp_path).keep_last) == (3, 9)


def test_a_byte_order_mark_is_part_of_no_name(project: Settings) -> None:
    written(project.directory, b"\xef\xbb\xbfbackup: {jobs: 3}\n")
    written(project.directory, b"\xef\xbb\xbfDATABASE_URL=postgresql://h/d\n", ".env")
    settings = loaded(project.directory)
    found = database_url(settings, {})
    assert settings.jobs == 3
    assert found is not None
    assert found.url == "postgresql://h/d"


def test_settings_cannot_be_changed_or_hold_relative_paths(tmp_path: Path) -> None:
    settings = loaded(tmp_path)
    with pytest.raises(ValidationError):
        settings.jobs = 3  # type: ignore[misc]
    with pytest.raises(ValidationError):
        Settings(path=Path("kept"), directory=tmp_path)


# Secrets


def test_the_scratch_url_is_in_no_repr(tmp_path: Path) -> None:
    settings = with_key(tmp_path, f'scratch: "postgresql://u:{SECRET}@h/d"')
    assert settings.scratch == f"postgresql://u:{SECRET}@h/d"
    assert SECRET not in repr(settings) + str(settings) + f"{settings}"
    with pytest.raises(ValidationError) as caught:
        Settings(path=tmp_path, directory=tmp_path, scratch=f"mysql://u:{SECRET}@h/d")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        f"backup: {{scratch: 'postgres:/u:{SECRET}@h/d'}}",
        f"backup: {{scratch: ['postgresql://u:{SECRET}@h/d']}}",
        f"backup: {{url_variable: 'postgresql://u:{SECRET}@h/d'}}",
        f"backup:\n  scratch postgresql://u:{SECRET}@h/d\n  jobs: 2\n",
        f"backup: {{scratch, 'postgresql://u:{SECRET}@h/d'}}",
        f"backup: {{'postgresql://u:{SECRET}@h/d': 1, 'postgresql://u:{SECRET}@h/d': 1}}",
        f"'postgresql://u:{SECRET}@h/d': 1",
        f"backup: {{scratch: 'postgresql://u:{SECRET}@h/d', jobs: 0}}",
        f'backup:\n  scratch: "postgresql://u:{SECRET}@h/d\n  jobs: 2\n',
        "backup: {scratch: *s3cr%t}",
        "backup: {scratch: *s3cr}",
        "backup: {scratch: !s3cr x}",
        "backup: {scratch: !s3cr!x y}",
    ],
)
def test_a_secret_in_a_broken_file_is_in_no_message(tmp_path: Path, text: str) -> None:
    assert "s3cr" not in refused_text(tmp_path, text)


# The shipped file


def uncommented(text: str) -> str:
    return re.sub(r"(?m)^  # (?=(?:prefix|directory): )", "  ", text)


def test_the_shipped_file_says_the_defaults(tmp_path: Path) -> None:
    shipped = SHIPPED.read_text()
    written(tmp_path, "backup: {}")
    defaults = loaded(tmp_path)
    for text in (shipped, uncommented(shipped)):
        written(tmp_path, text)
        assert loaded(tmp_path) == defaults


def test_the_shipped_file_shows_every_key_under_its_own_comment() -> None:
    text = uncommented(SHIPPED.read_text())
    assert list(yaml.safe_load(text)["backup"]) == [key for key in Settings.model_fields if key != "source"]
    body = text.split("backup:\n", 1)[1]
    for paragraph in body.split("\n\n"):
        assert paragraph.startswith("  # ")


def test_the_shipped_file_leaves_the_prefix_to_audit_tables(tmp_path: Path) -> None:
    written(tmp_path, SHIPPED.read_bytes(), "drizzle/config/backup.yml")
    written(tmp_path, "audit: {config: {prefix: _audit_}}", "drizzle/config/audit-tables.yml")
    assert (loaded(tmp_path).prefix, loaded(tmp_path).directory) == ("_audit_", tmp_path)


# The database's URL


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, beside the project."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("DATABASE_URL", raising=False)
    return folder


@pytest.fixture
def project(tmp_path: Path, elsewhere: Path) -> Settings:
    (tmp_path / "project").mkdir()
    return loaded(tmp_path / "project")


def test_the_environment_wins_over_every_dotenv(project: Settings, elsewhere: Path) -> None:
    written(project.directory, "DATABASE_URL=postgresql://project/d\n", ".env")
    written(elsewhere, "DATABASE_URL=postgresql://elsewhere/d\n", ".env")
    assert database_url(project, {"DATABASE_URL": "postgresql://env/d"}) == DatabaseURL(
        "postgresql://env/d", "DATABASE_URL in the environment"
    )
    assert database_url(project, {}) == DatabaseURL(
        "postgresql://project/d", f"DATABASE_URL in {project.directory / '.env'}"
    )
    (project.directory / ".env").unlink()
    assert database_url(project, {}) == DatabaseURL("postgresql://elsewhere/d", f"DATABASE_URL in {elsewhere / '.env'}")


@pytest.mark.parametrize(
    "line", ["DATABASE_URL=", 'DATABASE_URL=""', "DATABASE_URL", "# DATABASE_URL=x", "MY_DATABASE_URL=x"]
)
def test_an_empty_value_counts_as_none(project: Settings, line: str) -> None:
    written(project.directory, f"{line}\n", ".env")
    assert database_url(project, {"DATABASE_URL": ""}) is None


def test_without_any_url_there_is_none(project: Settings) -> None:
    assert database_url(project, {}) is None


def test_the_process_environment_counts_and_is_not_changed(project: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    written(project.directory, "DATABASE_URL=postgresql://project/d\nOTHER=1\n", ".env")
    before = dict(os.environ)
    assert database_url(project) == DatabaseURL(
        "postgresql://project/d", f"DATABASE_URL in {project.directory / '.env'}"
    )
    assert dict(os.environ) == before
    monkeypatch.setenv("DATABASE_URL", "postgresql://env/d")
    found = database_url(project)
    assert found is not None
    assert found.url == "postgresql://env/d"


def test_another_variable_may_hold_the_url(project: Settings) -> None:
    settings = project.model_copy(update={"url_variable": "PG_URL"})
    written(project.directory, "DATABASE_URL=a\nPG_URL=b\n", ".env")
    assert database_url(settings, {"DATABASE_URL": "c"}) == DatabaseURL("b", f"PG_URL in {project.directory / '.env'}")


def test_a_dollar_in_a_dotenv_is_a_character(project: Settings) -> None:
    written(project.directory, "U=nobody\nexport DATABASE_URL='postgresql://u:a${U}b$U@h/d'\n", ".env")
    found = database_url(project, {})
    assert found is not None
    assert found.url == "postgresql://u:a${U}b$U@h/d"


def test_a_dotenv_line_that_cannot_be_understood_is_refused_not_passed_over(project: Settings, elsewhere: Path) -> None:
    written(project.directory, f'DATABASE_URL="postgresql://u:{SECRET}@h/d\nOTHER=1\n', ".env")
    written(elsewhere, "DATABASE_URL=postgresql://elsewhere/d\n", ".env")
    with pytest.raises(UsageError) as caught:
        database_url(project, {})
    assert str(project.directory / ".env") in str(caught.value)
    assert SECRET not in str(caught.value)


def test_a_dotenv_that_cannot_be_read_is_refused_not_passed_over(project: Settings) -> None:
    written(project.directory, b"DATABASE_URL=\xff\n", ".env")
    with pytest.raises(UsageError, match="not UTF-8"):
        database_url(project, {})
    (project.directory / ".env").unlink()
    (project.directory / ".env").mkdir()
    with pytest.raises(UsageError, match="Is a directory"):
        database_url(project, {})


def test_the_url_is_in_no_repr() -> None:
    url = DatabaseURL(f"postgresql://u:{SECRET}@h/d", "DATABASE_URL in the environment")
    assert SECRET not in repr(url) + str(url)
