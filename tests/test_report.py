"""What a person sees: names as they are, progress when it takes longer, paths that can be copied."""

import os
import re
import shlex
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from psycopg import sql

from backup.postgres.embedded import Server
from backup.report import Report
from tests.chain import CDC_BACKUP, PATIENCE, Project, end, new_project, pretend_clients, psql

NAMES = {
    "_cdc_\x1b[31mred": "_cdc_\\x1b[31mred",
    "_cdc_[bold]markup[/]": "_cdc_[bold]markup[/]",
    "_cdc_:smile:": "_cdc_:smile:",
    "_cdc_\r\nAll is well.": "_cdc_\\r\\nAll is well.",
    "_cdc_\u202eleft": "_cdc_\\u202eleft",
    "_cdc_Größe ❯": "_cdc_Größe ❯",
}
"""Names of tables, and how they are shown."""


@pytest.fixture
def project(embedded_server: Server, tmp_path: Path) -> Iterator[Project]:
    """A project with three CDC tables on the embedded server."""
    with new_project(embedded_server, tmp_path / "project") as made:
        yield made


def named(project: Project, statement: str) -> list[str]:
    """The statement for each of the names."""
    return [sql.SQL(statement).format(sql.Identifier(name)).as_string() for name in NAMES]


@pytest.mark.parametrize("terminal", [False, True], ids=["in a file", "on a terminal"])
def test_what_a_name_holds_is_shown_and_not_obeyed(project: Project, terminal: bool) -> None:
    for statement in named(project, "create table {} (id integer)"):
        project.database.execute(statement)
    strike = project.folder / "strike.sh"
    strike.write_text(f"exec {shlex.join(psql(project, *named(project, 'drop table {}')))}\n")
    argv = ("run-safe", "--yes", "--", "sh", "strike.sh")
    if terminal:
        with project.terminal(CDC_BACKUP, *argv, columns=200) as shown:
            code, said = end(shown)
    else:
        ended = project.cdc(*argv)
        code, said = ended.code, ended.stdout
        assert "\x1b" not in said
    assert code == 6, said
    assert "All is well." not in [line.strip() for line in said.splitlines()]
    assert "\x1b[31m" not in said.replace("\x1b[1;31m", "")
    for name in NAMES.values():
        # the table of what is at risk, what has no file, the verdict, and what was destroyed
        assert said.count(f"public.{name}") >= 4, name


def test_a_path_is_one_line_however_long_it_is(project: Project) -> None:
    deep = project.folder.joinpath(*(f"a rather long name of a folder {n}" for n in range(9)))
    project.configure(path=str(deep))
    ended = project.cdc("backup")
    assert ended.code == 0, ended.said
    (session,) = deep.iterdir()
    assert f"into {session}\n" in ended.stdout


def test_a_narrow_terminal_does_not_cut_paths_and_names(project: Project) -> None:
    deep = project.folder.joinpath(*(f"folder-{n}" for n in range(9)))
    project.configure(path=str(deep))
    with project.terminal(CDC_BACKUP, "backup", columns=40) as shown:
        code, said = end(shown)
    assert code == 0
    (session,) = deep.iterdir()
    assert str(session) in said
    assert "public._cdc_users" in said


@pytest.mark.parametrize("variable", ["FORCE_COLOR", "TTY_COMPATIBLE"])
def test_a_log_has_neither_colours_nor_drawings_whatever_ci_wishes(project: Project, variable: str) -> None:
    given = project.environment(**{variable: "1"})
    del given["NO_COLOR"]
    ended = project.cdc("backup", environment=given)
    assert ended.code == 0
    assert "\x1b" not in ended.said


class SlowDump:
    """Clients whose pg_dump waits until it is let go."""

    def __init__(self, folder: Path) -> None:
        self._gate = folder / "gate"
        os.mkfifo(self._gate)
        gate = shlex.quote(str(self._gate))
        self.path = pretend_clients(folder / "clients", pg_dump=f'read let_go <{gate}; real "$@"')

    def let_go(self) -> None:
        """Let pg_dump do its work."""
        self._gate.write_text("now\n")


def test_without_a_terminal_what_takes_longer_is_told_in_lines(project: Project, tmp_path: Path) -> None:
    dump = SlowDump(tmp_path)
    with project.started(CDC_BACKUP, "backup", environment=project.environment(PATH=dump.path)) as process:
        assert process.stdout
        lines = iter(process.stdout.readline, "")
        assert any(line.startswith("Backing up: ") and " of about " in line for line in lines)
        dump.let_go()
        rest = "".join(lines)
        assert process.wait(timeout=PATIENCE) == 0
    assert "Backed up 5 rows of 2 tables" in rest
    assert "\x1b" not in rest


def test_on_a_terminal_what_takes_longer_has_a_bar_that_goes_again(project: Project, tmp_path: Path) -> None:
    dump = SlowDump(tmp_path)
    with project.terminal(CDC_BACKUP, "backup", environment=project.environment(PATH=dump.path)) as shown:
        shown.expect("Backing up .*0:00:0")
        dump.let_go()
        code, said = end(shown)
    assert code == 0
    assert "\x1b[2K" in said, "the bar was not removed"
    assert "Backed up 5 rows of 2 tables" in said.rpartition("\x1b[2K")[2]


def test_with_json_progress_is_on_stderr(project: Project, tmp_path: Path) -> None:
    dump = SlowDump(tmp_path)
    with project.started(CDC_BACKUP, "backup", "--json", environment=project.environment(PATH=dump.path)) as process:
        assert process.stderr
        assert any(line.startswith("Backing up: ") for line in iter(process.stderr.readline, ""))
        dump.let_go()
        stdout, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert stdout.startswith('{"status": "backed up"')
    assert stdout.count("\n") == 1


LONG = "_cdc_" + "n" * 53
ROWS = (
    (f"public.{LONG}", "1,234,567", "16.4 kB", "destroyed public._cdc_users (dropped)", "it is among the newest 3"),
    ("public._cdc_größe_表", "0", "", "untouched", ""),
)
TABLES = f"""
import os
from backup.report import Report
for width in range(20, 160, 4):
    os.environ["COLUMNS"] = str(width)
    report = Report()
    report.table(("table", "#rows", "#size", "what became of it", "kept because"), {ROWS!r})
    report.say(f"end of {{width}}")
"""


def test_no_terminal_is_so_narrow_that_a_table_loses_a_character(project: Project) -> None:
    with project.terminal(sys.executable, "-c", TABLES, columns=200) as shown:
        code, said = end(shown)
    assert code == 0
    tables = re.split(r"end of (\d+)", re.sub(r"\x1b\[[\d;]*m", "", said))
    told = {int(width): table for table, width in zip(tables[::2], tables[1::2], strict=False)}
    assert list(told) == list(range(20, 160, 4))
    for width, table in told.items():
        assert not Counter("".join(map("".join, ROWS)).replace(" ", "")) - Counter(table), width
        assert "…" not in table
        # a name and a number can be read, and copied, as they are
        for text in (ROWS[0][:3], ROWS[1][:2]):
            assert set(text) <= set(re.split(r"\s{2,}|\r\n", table)), width


def test_what_became_of_a_table_is_read_on_a_narrow_terminal(project: Project) -> None:
    project.database.execute(f"create table {LONG} (id int)")
    project.configure()
    argv = ("run-safe", "--yes", "--", *psql(project, f"drop table {LONG}"))
    with project.terminal(CDC_BACKUP, *argv, columns=70) as shown:
        code, said = end(shown)
    assert code == 6
    assert re.search(rf"public\.{LONG}\s+change +dropped\s+rows before +0\s", said)
    with project.terminal(CDC_BACKUP, "list", columns=80) as shown:
        _, listed = end(shown)
    assert re.search(rf"its migration +destroyed public\.{LONG}", listed)
    with project.terminal(CDC_BACKUP, "restore", "--dry-run", columns=80) as shown:
        _, planned = end(shown)
    assert re.search(r"what will be done +brought back", planned)


@pytest.mark.parametrize("columns", [30, 200])
def test_a_table_of_lines_that_do_not_break_looks_as_if_each_row_stood_alone(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    headings, rows = ("table", "#rows", "#size"), [("a\nb", "1", "2 kB"), ("", "1,000,000", ""), ("c" * 20, "", "3 MB")]
    Report().table(headings, rows)
    together = capsys.readouterr().out.splitlines()
    Report().table((*headings, "a column that may break"), [(*row, "") for row in rows])
    alone = capsys.readouterr().out.splitlines()
    assert len(together) == len(rows) + 1
    assert [line.rstrip() for line in together[1:]] == [line.rstrip() for line in alone[1:]]
    Report().table(headings, [])
    assert len(capsys.readouterr().out.splitlines()) == 1
