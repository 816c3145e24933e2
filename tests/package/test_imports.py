"""The law of imports: rooms stand on floors, imports go down, and nothing goes in a circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import lamp_lightning

PACKAGE = Path(lamp_lightning.__file__).parent
# From the ground up. Rooms of one floor do not know each other.
FLOORS = (
    ("runtime",),
    ("toyworld", "diffusion"),
    ("models",),
    ("data",),
    ("metrics",),
    ("report", "inspect"),
    ("sample",),
    ("train",),
    ("evaluate",),
    ("edit", "convert", "collect", "pretrain", "benchmark", "share", "app"),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
ROOT = "lamp_lightning"  # its own file has only names, which it imports when they are asked for


def modules(package: Path) -> dict[str, Path]:
    """The dotted name of each module of a package, and its file."""
    names = {}
    for file in package.rglob("*.py"):
        parts = file.relative_to(package.parent).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return names


def imports(files: Mapping[str, Path]) -> dict[str, set[str]]:
    """What each module imports of the package: at its top, late in a function, or for types only."""
    return {name: {m for m in _imported(file, files) if m != ROOT} - {name} for name, file in files.items()}


def _imported(file: Path, files: Mapping[str, Path]) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in files)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield from [each for each in (inner, node.module) if each in files][:1]


def broken(found: Mapping[str, set[str]]) -> list[str]:
    """Imports that go up, or sideways to another room of the same floor."""
    faults = []
    for name, targets in found.items():
        for target in sorted(targets):
            ours, theirs = (module.split(".")[1] for module in (name, target))
            if ours != theirs and FLOOR[ours] <= FLOOR[theirs]:
                faults.append(f"{name} -> {target}")
    return faults


def circle(found: Mapping[str, set[str]]) -> list[str]:
    """Some modules that import each other in a circle."""
    try:
        TopologicalSorter(found).prepare()
    except CycleError as error:
        return error.args[1]
    return []


@pytest.fixture(scope="module")
def found() -> dict[str, set[str]]:
    files = modules(PACKAGE)
    return imports(
        {name: file for name, file in files.items() if name != ROOT} | {ROOT: PACKAGE / "py.typed"}
    )


def test_every_room_has_a_floor_and_there_are_few():
    entries = {
        file.stem for file in PACKAGE.iterdir() if not file.name.startswith(("__pycache__", "py.typed"))
    }
    assert entries == {"__init__", *FLOOR}
    assert len(entries) <= 19


def test_imports_go_down(found):
    assert broken(found) == []


def test_no_circle(found):
    assert circle(found) == []


def test_a_circle_and_an_upward_import_are_found(tmp_path):
    package = tmp_path / "lamp_lightning"
    for name, text in {
        "runtime/files.py": "def write():\n    from lamp_lightning.sample.run import run\n",
        "sample/run.py": "from lamp_lightning.runtime import files\n",
        "train/run.py": "import lamp_lightning.sample.run\n",
    }.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    found = imports(modules(package))
    assert broken(found) == ["lamp_lightning.runtime.files -> lamp_lightning.sample.run"]
    assert set(circle(found)) == {"lamp_lightning.runtime.files", "lamp_lightning.sample.run"}
