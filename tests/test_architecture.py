"""What ARCHITECTURE.md promises and no linter checks: few loose modules, no state, short files."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "onnx_reap"
FILES = sorted(ROOT.rglob("*.py"))
MODULES = {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text()) for path in FILES}
ROOMS = {"cli", "report", "prune", "measure", "graph", "data", "solve", "onnxio"}
LOOSE = {"api", "options", "fields", "parsing", "progress", "errors"}
LONGEST = 300  # lines of a file

CHANGES = {
    *("append", "extend", "insert", "add", "update", "setdefault", "pop", "popitem", "clear"),
    *("remove", "discard", "appendleft", "difference_update", "intersection_update"),
}
STATE = {"WeakValueDictionary", "WeakKeyDictionary", "local", "count", "lru_cache", "cache"}


def test_rooms_and_loose_modules():
    rooms = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    loose = {path.stem for path in ROOT.glob("[a-z]*.py")}
    assert rooms == ROOMS
    assert loose == LOOSE


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_file_is_long(path: Path):
    assert len(path.read_text().splitlines()) <= LONGEST


def _globals(tree: ast.Module) -> set[str]:
    targets: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.Assign):
            targets |= {t.id for t in node.targets if isinstance(t, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            targets.add(node.target.id)
    return targets


def _local_names(function: ast.AST) -> set[str]:
    names = {node.arg for node in ast.walk(function) if isinstance(node, ast.arg)}
    return names | {
        node.id
        for node in ast.walk(function)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }


def _changed(tree: ast.Module) -> Iterator[str]:
    """Name the globals of a module that its functions change."""
    known = _globals(tree)
    functions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
    for function in (node for node in ast.walk(tree) if isinstance(node, functions)):
        own = _local_names(function)
        for node in ast.walk(function):
            if isinstance(node, ast.Global):
                yield from node.names
            target = None
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                target = node.func.value if node.func.attr in CHANGES else None
            elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del):
                target = node.value
            if isinstance(target, ast.Name) and target.id in known - own:
                yield target.id


def _state(tree: ast.Module) -> Iterator[str]:
    """Name what a module makes when it is imported that remembers calls."""
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Call):
            called = node.value.func
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            if name in STATE or name.startswith("_"):
                yield ast.unparse(node)
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        for decorator in function.decorator_list:
            text = ast.unparse(decorator)
            if text.split("(")[0].rpartition(".")[2] in STATE:
                yield f"{text} of {function.name}"


@pytest.mark.parametrize("name", MODULES)
def test_no_module_has_state(name: str):
    assert [*_changed(MODULES[name]), *_state(MODULES[name])] == []


def test_what_counts_as_state():
    source = "seen = []\ndef f(x):\n    seen.append(x)\n"
    assert [*_changed(ast.parse(source))] == ["seen"]
    assert [*_state(ast.parse("import itertools\nn = itertools.count()\n"))]
    assert [*_changed(ast.parse("seen = []\ndef f(seen):\n    seen.append(1)\n"))] == []


def _importers(package: str) -> set[str]:
    found = set()
    for name, tree in MODULES.items():
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [
                str(node.args[0].value)
                for node in [node]
                if isinstance(node, ast.Call)
                and ast.unparse(node.func).endswith("import_module")
                and isinstance(node.args[0], ast.Constant)
            ]
            if any(each.split(".")[0] == package for each in names):
                found.add(name)
    return found


@pytest.mark.parametrize("package", ["onnxruntime", "cupy", "matplotlib", "PIL"])
def test_one_module_imports(package: str):
    assert len(_importers(package)) == 1


def test_only_the_command_prints():
    for name, tree in MODULES.items():
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        printing = [c for c in calls if isinstance(c.func, ast.Name) and c.func.id == "print"]
        assert not printing or name.startswith("cli/"), name
