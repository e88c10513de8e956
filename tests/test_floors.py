"""The tower of docs/design.md: an import only goes down."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

FLOORS = (
    ("backup.errors",),
    ("backup.settings", "backup.process", "backup.lock", "backup.profile"),
    ("backup.postgres",),
    ("backup.session",),
    ("backup.reach",),
    ("backup.migration",),
    ("backup.result",),
    ("backup.report",),
    ("backup.bring_back", "backup.doctor", "backup.foresee", "backup.init", "backup.listing", "backup.safe_run"),
    ("backup.cdc_backup",),
    ("backup", "backup.recipes"),
    ("tasks",),
)
"""From the ground up; those that share a floor do not know each other."""

ROOMS = {
    "backup.signals": "backup.process",
    "backup.streams": "backup.process",
    "backup.terminal": "backup.process",
    "backup.yaml_file": "backup.settings",
    "backup.database_url": "backup.settings",
    "backup.package_json": "backup.init",
    "backup.stand_guard": "backup.safe_run",
    "backup.way_back": "backup.safe_run",
}
"""Modules that were split off from another, and belong to it."""


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_module(path): path for path in sorted([*ROOT.glob("backup/**/*.py"), *ROOT.glob("tasks.py")])}
TREES = {module: ast.parse(path.read_bytes()) for module, path in MODULES.items()}

every_module = pytest.mark.parametrize("module", MODULES)


def wing(module: str) -> str:
    """What stands on a floor: a package, a module, or the module that this one was split off from."""
    return ROOMS.get(module, ".".join(module.split(".")[:2]))


def floor(module: str) -> int:
    """The floor's number, 0 for the ground; a module that has none fails the test."""
    found = [number for number, wings in enumerate(FLOORS) if wing(module) in wings]
    assert found, f"{module} stands on no floor: give it one in docs/design.md and here"
    return found[0]


def imports(module: str) -> Iterator[str]:
    """Everything that a module imports anywhere in it, as the modules that it comes from."""
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively, which does not show the floor"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else str(node.module)


def inner_imports(module: str) -> set[str]:
    return {name for name in imports(module) if name.split(".")[0] in ("backup", "tasks")}


def outer_imports(module: str) -> set[str]:
    return {name.split(".")[0] for name in imports(module)}


@every_module
def test_imports_only_go_down(module: str) -> None:
    for imported in inner_imports(module):
        assert imported in MODULES, f"{module} imports {imported}, which does not exist"
        assert wing(imported) == wing(module) or floor(imported) < floor(module), f"{module} imports {imported}"


def test_imports_never_lead_back() -> None:
    TopologicalSorter({module: inner_imports(module) for module in MODULES}).prepare()


@every_module
def test_only_process_starts_programs(module: str) -> None:
    if module != "backup.process":
        assert not outer_imports(module) & {"subprocess", "multiprocessing", "pty"}


@every_module
def test_nobody_below_the_recipes_knows_invoke(module: str) -> None:
    if floor(module) < floor("backup.recipes"):
        assert "invoke" not in outer_imports(module)


@every_module
def test_nothing_below_the_report_prints(module: str) -> None:
    if floor(module) < floor("backup.report"):
        assert "rich" not in outer_imports(module)
        printed = [
            node.lineno
            for node in ast.walk(TREES[module])
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
        ]
        assert not printed, f"{MODULES[module]} prints in the lines {printed}"
