"""The public face: what is named exists, is explained, and costs nobody what he does not use."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PUBLIC = [
    "sseflow",
    "sseflow.dialects",
    "sseflow.http",
    "sseflow.proxy",
    "sseflow.records",
    "sseflow.resilience",
    "sseflow.stages",
    "sseflow.testing",
]

# Only who runs the proxy has these installed.
PROXY_ONLY = [
    "cattrs",
    "msgspec",
    "prometheus_client",
    "rich",
    "sseflow.proxy",
    "structlog",
    "truststore",
    "watchfiles",
]


def _exports(name: str) -> list[str]:
    module = importlib.import_module(name)
    assert hasattr(module, "__all__"), f"{name} does not say what is public"
    return list(module.__all__)


def _order(name: str) -> tuple[str, str]:
    return name.casefold(), name


def _is_string(node: ast.stmt | None) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _explained_values(text: str) -> set[str]:
    """Name the module-level values that a `#:` above or a string behind explains, as Sphinx reads them."""
    lines = text.splitlines()
    body = ast.parse(text).body
    found: set[str] = set()
    for node, after in zip(body, [*body[1:], None], strict=True):
        match node:
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                above = node.lineno > 1 and lines[node.lineno - 2].startswith("#: ")
                if above or _is_string(after):
                    found.add(name)
            case _:
                pass
    return found


def _is_explained(name: str, value: object, values: set[str]) -> bool:
    if inspect.isclass(value):
        # Not getdoc: a docstring that was inherited explains the parent.
        return bool(vars(value).get("__doc__"))
    if inspect.isroutine(value) or inspect.ismodule(value):
        return bool(value.__doc__)
    return name in values


@pytest.mark.parametrize("module", PUBLIC)
def test_what_is_named_exists(module: str) -> None:
    """Every name in `__all__` is there, once, and public."""
    names = _exports(module)
    assert names != []
    assert [name for name in names if not hasattr(importlib.import_module(module), name)] == []
    assert len(set(names)) == len(names)
    assert [name for name in names if name.startswith("_") and name != "__version__"] == []


@pytest.mark.parametrize("module", PUBLIC)
def test_names_are_in_order(module: str) -> None:
    """`__all__` is a page to look things up in: by the alphabet, whatever the case."""
    names = _exports(module)
    assert names == sorted(names, key=_order)


@pytest.mark.parametrize("module", PUBLIC)
def test_what_is_exported_is_explained(module: str) -> None:
    """Every exported class and function has a docstring, every exported value its own words."""
    values = {"__version__"}
    for path in (ROOT / "sseflow").rglob("*.py"):
        values |= _explained_values(path.read_text(encoding="utf-8"))
    face = importlib.import_module(module)
    assert face.__doc__
    assert [name for name in _exports(module) if not _is_explained(name, getattr(face, name), values)] == []


@pytest.mark.parametrize("module", [name for name in PUBLIC if name != "sseflow.proxy"])
def test_the_library_does_not_need_the_proxy(module: str) -> None:
    """Importing a public module imports neither the proxy nor anything that only the proxy depends on."""
    code = f"import sys, {module}; print([name for name in {PROXY_ONLY} if name in sys.modules])"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (run.stdout, run.stderr) == ("[]\n", "")


def test_the_check_can_fail() -> None:
    """What is not explained is seen: an inherited docstring, a bare function, a value with a comment only."""

    class Parent:
        """Explained."""

    class Child(Parent):
        pass

    def bare() -> None:
        pass

    values = _explained_values("A = 1\n'Why.'\nB: int = 2\n'Why.'\n#: Why.\nC = 3\n\n# Why.\nD = 4  # why\nE = 5\n")
    assert values == {"A", "B", "C"}
    assert _is_explained("Parent", Parent, values)
    assert not _is_explained("Child", Child, values)
    assert not _is_explained("bare", bare, values)
    assert _is_explained("A", 1, values)
    assert not _is_explained("D", 4, values)
    assert sorted(["relay", "Stage", "by_line", "Relay"], key=_order) == ["by_line", "Relay", "relay", "Stage"]
