"""Imports go in one direction, and the core touches nothing but values.

The table below is the architecture. A file without a row fails, and so does an import that its row does not name; to
allow one is a decision about the design, and belongs into the same change as its reason.
"""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Iterator, Mapping
from graphlib import TopologicalSorter
from pathlib import Path

import attrs
import pytest

ROOT = Path(__file__).resolve().parent.parent

# The parts of the standard library that neither wait, nor know the time, nor touch the operating system. (sys is
# there for its constants, and io for its BytesIO; what else they open, print() and open() do, too.)
PURE = frozenset(
    "__future__ abc base64 binascii bisect codecs collections contextlib copy dataclasses enum functools hashlib "  # noqa: SIM905 - to be read, not scrolled
    "heapq hmac io ipaddress itertools json math operator re reprlib string struct sys textwrap types typing "
    "urllib.parse zlib".split()
)


@attrs.frozen
class Room:
    """What the files of one room may import, beside each other."""

    sees: frozenset[str] = frozenset()
    packages: frozenset[str] = frozenset({"attrs"})
    pure: bool = False


def _rooms() -> dict[str, Room]:
    """Draw the table from the bottom up; the longest name that a module begins with is its room."""
    rooms: dict[str, Room] = {}

    def room(name: str, sees: set[str], packages: str = "", *, pure: bool = False) -> set[str]:
        rooms[name] = Room(frozenset(sees), frozenset({"attrs", *packages.split()}), pure)
        return {*sees, name}

    errors = room("sseflow._errors", set(), pure=True)
    items = room("sseflow._items", errors, pure=True)
    form = room("sseflow._form", items, pure=True)
    stage = room("sseflow._stage", form, pure=True)
    lines = room("sseflow._lines", stage, pure=True)
    events = room("sseflow._events", lines, pure=True)
    dialects = room("sseflow.dialects", events, pure=True)
    stages = room("sseflow.stages", dialects, pure=True)
    pipeline = room("sseflow._pipeline", stage, pure=True)
    core = room("sseflow._standard", stages | pipeline, pure=True)

    streams = room("sseflow._streams", core, "trio")
    switchboard = room("sseflow._switchboard", set(), "trio")
    shell = room("sseflow._relay", streams | switchboard, "trio")
    face = room("sseflow", shell)

    # What is ruled about bytes is ruled by functions of bytes: the fuzz calls them without a loop.
    guard = room("sseflow.http._guard", core, "h11", pure=True)
    chunked = room("sseflow.http._chunked", guard, "h11", pure=True)
    codec = room("sseflow.http._codec", chunked, "h11", pure=True)
    rulings = room("sseflow.http._rulings", codec, "h11", pure=True)

    coding = room("sseflow.http._coding", core, "h11 brotli backports compression", pure=True)

    http = room("sseflow.http", face | rulings | coding, "trio h11")
    records = room("sseflow.records", face, "trio msgspec")
    resilience = room("sseflow.resilience", face, "trio")
    room("sseflow.testing", http, "trio h11")
    room(
        "sseflow.proxy",
        http | records | resilience,
        "trio h11 backports brotli cattrs compression coredis mcp msgspec opentelemetry prometheus_client rich "
        "structlog truststore watchfiles",
    )
    return rooms


ROOMS = _rooms()
ABOVE_THE_CORE = (
    "sseflow._relay",
    "sseflow._streams",
    "sseflow._switchboard",
    "sseflow.http",
    "sseflow.proxy",
    "sseflow.records",
    "sseflow.resilience",
)
NOT_FOR_CORE_TESTS = {"anyio", "asyncio", "h11", "pytest_trio", "socket", "ssl", "threading", "trio"}
CORE = {name for name, room in ROOMS.items() if room.pure and "h11" not in room.packages}


def _room_of(module: str) -> str | None:
    """Name the room of a module. The face is no parent: a new top-level file has no room until it gets a row."""
    if module in ROOMS:
        return module
    parents = (module.rsplit(".", n)[0] for n in range(1, module.count(".") + 1))
    return next((name for name in parents if name in ROOMS and name != "sseflow"), None)


def _module(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _imports(path: str, tree: ast.AST, modules: set[str]) -> Iterator[tuple[int, str]]:
    """Yield the line and the full name of everything imported, wherever it stands: in a function, or for types only."""
    package = path.rsplit("/", 1)[0].split("/")
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            for name in node.names:
                full = f"{source}.{name.name}"
                yield node.lineno, full if full in modules else source


def _asynchronous(tree: ast.AST) -> Iterator[int]:
    for node in ast.walk(tree):
        if isinstance(node, ast.AsyncFunctionDef | ast.AsyncFor | ast.AsyncWith | ast.Await):
            yield node.lineno


def _breach(room_name: str, target: str) -> str | None:
    """Say why a file of this room may not import that, or nothing."""
    room = ROOMS[room_name]
    top = target.split(".")[0]
    if top in {"tests", "benchmarks"}:
        return "the package does not know who tests and measures it"
    if top == "sseflow":
        seen = _room_of(target)
        if seen is None:
            return "this module has no room: give it a row in tests/test_layers.py"
        return None if seen == room_name or seen in room.sees else f"{room_name} may not see {seen}"
    if top in {"asyncio", "anyio"}:
        return "one event loop: Trio"
    if top in sys.stdlib_module_names and top not in room.packages:
        return f"{room_name} is pure" if room.pure and target not in PURE and top not in PURE else None
    return None if top in room.packages else f"{room_name} does not depend on {top}"


def breaches(sources: Mapping[str, str]) -> list[str]:
    """Check the files of the package, given as path and text; one line for each that breaks a rule."""
    modules = {_module(path) for path in sources}
    found = []
    for path, text in sorted(sources.items()):
        name = _room_of(_module(path))
        if name is None:
            found.append(f"{path}: this file has no room: give it a row in tests/test_layers.py")
            continue
        tree = ast.parse(text, path)
        for line, target in _imports(path, tree, modules):
            if reason := _breach(name, target):
                found.append(f"{path}:{line}: imports {target}: {reason}")
        if ROOMS[name].pure:
            found.extend(f"{path}:{line}: {name} is pure: nothing in it waits" for line in _asynchronous(tree))
    return found


def core_test_breaches(sources: Mapping[str, str]) -> list[str]:
    """Check that tests of the core need no loop, no socket and no room above the core."""
    found = []
    for path, text in sorted(sources.items()):
        tree = ast.parse(text, path)
        for line, target in _imports(path, tree, set(ABOVE_THE_CORE)):
            if target.startswith(ABOVE_THE_CORE) or target.split(".")[0] in NOT_FOR_CORE_TESTS:
                found.append(f"{path}:{line}: imports {target}")
        found.extend(f"{path}:{line}: waits" for line in _asynchronous(tree))
    return found


def _files(top: str, pattern: str = "*.py") -> dict[str, str]:
    return {p.relative_to(ROOT).as_posix(): p.read_text(encoding="utf-8") for p in (ROOT / top).rglob(pattern)}


def _whole_repository() -> Iterator[Path]:
    """Yield every file of a checkout that a person wrote."""
    for folder, below, names in os.walk(ROOT):
        # Caches, environments and the history begin with a dot; of those folders only the gate's is ours.
        below[:] = [d for d in below if d == ".ci" or not d.startswith((".", "__pycache__"))]
        yield from (Path(folder, name) for name in names)


def test_the_package_keeps_its_layers() -> None:
    """Imports go from the proxy down to the items, and the core imports nothing that waits."""
    sources = _files("sseflow")
    assert "sseflow/_stage.py" in sources
    assert breaches(sources) == []


def test_core_tests_need_no_loop() -> None:
    """tests/core never imports trio: the core is tested by calling functions."""
    sources = _files("tests/core")
    assert any(path.startswith("tests/core/test_") for path in sources)
    assert core_test_breaches(sources) == []


def test_nobody_imports_the_tests() -> None:
    """Benchmarks lend their shapes to the tests, never the other way."""
    for path, text in _files("benchmarks").items():
        targets = [target for _, target in _imports(path, ast.parse(text, path), set())]
        assert not [t for t in targets if t.split(".")[0] == "tests"], path


def test_a_clone_stands_alone() -> None:
    """No file points out of the repository, to a place that a clone does not have."""
    elsewhere = "/".join(["..", "shared"]).encode()
    files = list(_whole_repository())
    assert Path(__file__) in files
    assert [path for path in files if path.is_file() and elsewhere in path.read_bytes()] == []


def test_the_rooms_have_one_direction() -> None:
    """No two rooms see each other, not even by way of a third; what a pure room sees is pure."""
    list(TopologicalSorter({name: room.sees for name, room in ROOMS.items()}).static_order())
    for name, room in ROOMS.items():
        if room.pure:
            assert not [seen for seen in room.sees if not ROOMS[seen].pure], name


def test_only_the_proxy_sees_the_proxy() -> None:
    """The application is built from the library and never the other way."""
    assert [name for name, room in ROOMS.items() if "sseflow.proxy" in room.sees] == []


@pytest.mark.parametrize("name", sorted(CORE))
@pytest.mark.parametrize("package", ["trio", "h11", "asyncio", "socket", "time", "ssl", "threading", "os", "msgspec"])
def test_the_checker_sees_what_the_core_must_not_touch(name: str, package: str) -> None:
    """Each room of the core is refused each package that waits, tells the time or touches the system."""
    path = name.replace(".", "/") + ("/x.py" if name in {"sseflow.dialects", "sseflow.stages"} else ".py")
    assert breaches({path: f"import {package}"}) != []
    assert breaches({path: "import attrs, json\nfrom collections.abc import Iterator"}) == []


# A path, a line of it, and a word of the reason for which it must be refused.
WRONG = {
    "upwards": ("sseflow/_stage.py", "from sseflow._pipeline import Pipeline", "may not see sseflow._pipeline"),
    "upwards-relative": ("sseflow/_items.py", "from ._stage import Stage", "may not see sseflow._stage"),
    "upwards-by-package": ("sseflow/_items.py", "from . import _stage", "may not see sseflow._stage"),
    "upwards-for-types": (
        "sseflow/_lines.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ._events import Event",
        "may not see sseflow._events",
    ),
    "upwards-in-a-function": (
        "sseflow/_events.py",
        "def f():\n    import sseflow.stages",
        "may not see sseflow.stages",
    ),
    "dialect-uses-stage": ("sseflow/dialects/x.py", "from ..stages import y", "may not see sseflow.stages"),
    "sideways": ("sseflow/_lines.py", "import sseflow._pipeline", "may not see sseflow._pipeline"),
    "core-uses-face": ("sseflow/stages/x.py", "from sseflow import Stage", "may not see sseflow"),
    "core-waits": ("sseflow/_pipeline.py", "async def f(): pass", "nothing in it waits"),
    "core-half-pure": ("sseflow/_lines.py", "import urllib.request", "is pure"),
    "streams-use-relay": ("sseflow/_streams.py", "from ._relay import relay", "may not see sseflow._relay"),
    "shell-uses-h11": ("sseflow/_relay.py", "import h11", "does not depend on h11"),
    "shell-uses-http": ("sseflow/_streams.py", "from .http import serve", "may not see sseflow.http"),
    "shell-on-asyncio": ("sseflow/_relay.py", "from asyncio import Queue", "one event loop"),
    "guard-uses-trio": ("sseflow/http/_guard.py", "import trio", "does not depend on trio"),
    "rulings-use-server": ("sseflow/http/_rulings.py", "from ._server import serve", "may not see sseflow.http"),
    "http-uses-records": ("sseflow/http/_server.py", "import sseflow.records", "may not see sseflow.records"),
    "http-uses-proxy": ("sseflow/http/_pool.py", "import sseflow.proxy.config", "may not see sseflow.proxy"),
    "face-uses-proxy": ("sseflow/__init__.py", "from .proxy import main", "may not see sseflow.proxy"),
    "face-uses-http": ("sseflow/__init__.py", "from . import http", "may not see sseflow.http"),
    "testing-uses-proxy": ("sseflow/testing/__init__.py", "from sseflow import proxy", "may not see sseflow.proxy"),
    "proxy-uses-tests": ("sseflow/proxy/demo.py", "from tests.http import x", "does not know who tests"),
    "http-uses-benchmarks": ("sseflow/http/_pool.py", "import benchmarks.shapes", "does not know who tests"),
    "undeclared-dependency": ("sseflow/http/_pool.py", "import requests", "does not depend on requests"),
    "no-room-file": ("sseflow/_new.py", "", "this file has no room"),
    "no-room-import": ("sseflow/proxy/x.py", "import sseflow._new", "this module has no room"),
}


@pytest.mark.parametrize(("path", "text", "reason"), WRONG.values(), ids=WRONG)
def test_the_checker_refuses(path: str, text: str, reason: str) -> None:
    """One import in the wrong direction is found, wherever and however it is written."""
    known = ("_items", "_stage", "_pipeline", "http/__init__", "proxy/__init__", "stages/__init__")
    found = breaches({**{f"sseflow/{name}.py": "" for name in known}, path: text})
    assert len(found) == 1
    assert reason in found[0]


RIGHT = {
    "downwards": ("sseflow/stages/x.py", "from sseflow._events import Event\nfrom ..dialects import openai"),
    "same-room": ("sseflow/stages/x.py", "from sseflow.stages.y import Y\nfrom . import z"),
    "errors-everywhere": ("sseflow/http/_guard.py", "import h11\nfrom sseflow._errors import Error"),
    "standard": ("sseflow/_standard.py", "from sseflow import _pipeline, stages"),
    "shell": ("sseflow/_relay.py", "import time\nimport trio\nfrom ._pipeline import Pipeline"),
    "http": ("sseflow/http/_server.py", "import ssl\nimport h11, trio\nimport sseflow\nfrom ._guard import judge"),
    "testing": ("sseflow/testing/_upstream.py", "import trio\nfrom sseflow.http import serve\nasync def f(): pass"),
    "proxy": ("sseflow/proxy/x.py", "import msgspec\nfrom sseflow import http, records\nfrom sseflow.proxy import y"),
}


@pytest.mark.parametrize(("path", "text"), RIGHT.values(), ids=RIGHT)
def test_the_checker_accepts(path: str, text: str) -> None:
    """What goes down, or stays in its room, is nobody's business."""
    known = ("_items", "_pipeline", "http/__init__", "records/__init__", "stages/__init__")
    assert breaches({**{f"sseflow/{name}.py": "" for name in known}, path: text}) == []


@pytest.mark.parametrize(
    "text",
    [
        "import trio",
        "from trio.testing import MockClock",
        "async def test_x(): pass",
        "from sseflow import http",
        "import socket",
    ],
)
def test_the_checker_refuses_a_core_test(text: str) -> None:
    """A core test that waits, or reaches for the shell's tools, is found."""
    assert core_test_breaches({"tests/core/test_x.py": text}) != []
    assert core_test_breaches({"tests/core/test_x.py": "import sseflow\nfrom sseflow._lines import by_line"}) == []
