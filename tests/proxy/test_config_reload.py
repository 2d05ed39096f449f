"""What a new configuration changes, and how it is noticed that there is one."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from sseflow.proxy._app import App
from sseflow.proxy._auth import make_token
from sseflow.proxy._build import build
from sseflow.proxy._config import Changes, compare, load
from sseflow.proxy._follow import Follower
from sseflow.proxy._log import make_logger
from sseflow.proxy._tables import Config
from sseflow.proxy._watch_config import watch_config

from .rig import Log

BASE = """
[server]
drain = 10
[providers.a]
type = "openai"
keys = ["env:A"]
[providers.b]
type = "openai-compat"
base_url = "http://127.0.0.1:8000"
[[routes]]
path = "/a"
upstreams = ["a"]
[[routes]]
path = "/b"
upstreams = ["b"]
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sseflow.toml"


def write(path: Path, text: str) -> None:
    path.write_text(text)


def read(path: Path, text: str, **environ: str) -> Config:
    write(path, text)
    return load(path, {"A": "key-1", **environ})


@pytest.mark.parametrize(
    ("text", "now", "restart"),
    [
        (BASE, (), ()),
        (BASE.replace("drain = 10", "drain = '10s'"), (), ()),
        (BASE.replace("drain = 10", "drain = 11"), ("server.drain",), ()),
        (BASE.replace("drain = 10", "drain = 10\nworkers = 2"), (), ("server.workers",)),
        (BASE + "[[listeners]]\naddress = '127.0.0.1:9'\n", (), ("listeners",)),
        (BASE + "[[listeners]]\naddress = '127.0.0.1:8080'\n", (), ()),
        (BASE + "[policy]\nlinger = 2", ("routes[/a].policy.linger", "routes[/b].policy.linger", "policy.linger"), ()),
        (BASE + "[routes.policy]\nlinger = 2", ("routes[/b].policy.linger",), ()),
        (BASE + "[routes.breaker]\nopen = 2", ("routes[/b].breaker",), ()),
        (BASE.replace('path = "/b"', 'path = "/c"'), ("routes[/b]", "routes[/c]"), ()),
        (BASE.replace('keys = ["env:A"]', 'keys = ["env:A", "env:B"]'), ("providers.a.keys",), ()),
        (BASE + "[admin]\n", (), ("admin",)),
        (BASE + "[logging]\nformat = 'json'", (), ("logging.format",)),
        (BASE + "[history]\npath = 'history.db'", (), ("history",)),
        (BASE.replace("drain = 10", "drain = 10\nmax_connections = 7"), (), ("server.max_connections",)),
        (BASE.replace("drain = 10", "drain = 10\nmax_streams = 7"), ("server.max_streams",), ()),
        (BASE.replace("drain = 10", "drain = 10\nhead_timeout = 7"), (), ("server.head_timeout",)),
    ],
)
def test_what_is_new_is_named(path: Path, text: str, now: tuple[str, ...], restart: tuple[str, ...]) -> None:
    """Each option that differs, by its path; what the server itself is told under what only a restart changes."""
    old = read(path, BASE)
    found = compare(old, read(path, text, B="key-2"))
    assert (sorted(found.now), sorted(found.restart)) == (sorted(now), sorted(restart))


def test_a_new_key_under_an_old_name_is_a_change_and_is_not_shown(path: Path) -> None:
    """The environment and files of keys are read anew with the file."""
    old = read(path, BASE)
    new = read(path, BASE, A="key-of-today")
    assert compare(old, new) == Changes(now=("providers.a.keys",), restart=())


def test_the_order_of_routes_is_no_change(path: Path) -> None:
    """The longest path that fits is meant, wherever it stands."""
    routes = BASE.partition("[[routes]]")[2].split("[[routes]]")
    turned = BASE.partition("[[routes]]")[0] + "".join(f"[[routes]]{route}" for route in reversed(routes))
    assert compare(read(path, BASE), read(path, turned)) == Changes(now=(), restart=())


async def test_what_changes_while_it_starts_is_not_missed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is read for the command line, and again once it is followed."""
    monkeypatch.setenv("A", "key-1")
    write(path, BASE)
    log = Log()
    app = App(build(load(path, os.environ)), make_logger(log, json=True))
    write(path, BASE.replace("drain = 10", "drain = 11"))
    async with trio.open_nursery() as nursery:
        await nursery.start(Follower(path, app, make_logger(log, json=True)).watch)
        assert app.settings.drain == 11
        nursery.cancel_scope.cancel()


async def test_nobody_is_let_in_because_of_an_address_that_needs_a_restart(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who may do without a token is said of where the program listens, not of where it will."""
    monkeypatch.setenv("A", "key-1")
    monkeypatch.setenv("T", "token-of-operators")
    (path.parent / "tokens.toml").write_text(make_token("somebody")[1])
    guarded = "[auth]\ntokens_file = 'tokens.toml'\n[admin]\naddress = '0.0.0.0:8081'\ntoken = 'env:T'\n"
    write(path, f"{BASE}[[listeners]]\naddress = '0.0.0.0:8080'\n{guarded}")
    log = Log()
    app = App(build(load(path, os.environ)), make_logger(log, json=True))
    follower = Follower(path, app, make_logger(log, json=True))
    await follower.reload()
    for drain in (11, 12):
        text = BASE.replace("drain = 10", f"drain = {drain}")
        write(path, f"{text}[[listeners]]\naddress = '127.0.0.1:8080'\n[admin]\naddress = '127.0.0.1:8081'\n")
        await follower.reload()
        assert app.settings.drain == drain
        assert app.settings.tokens is not None
        assert app.settings.admin_token is not None
    assert set((await log.next("needs a restart"))["changed"]) == {"listeners", "admin.address"}
    write(path, f"{BASE}[[listeners]]\naddress = '0.0.0.0:8080'\n[auth]\ntokens_file = 'tokens.toml'\n")
    await follower.reload()
    write(path, BASE)
    await follower.reload()
    assert app.settings.tokens is not None


class Watch:
    """Changes that were noticed."""

    def __init__(self) -> None:
        self.seen = 0
        self._event = trio.Event()

    async def note(self) -> None:
        self.seen += 1
        self._event.set()

    async def wait(self) -> None:
        with trio.fail_after(20):
            await self._event.wait()
        self._event = trio.Event()


@asynccontextmanager
async def watching(path: Path, *files: Path, look_every: float = 60.0) -> AsyncIterator[Watch]:
    watch = Watch()
    async with trio.open_nursery() as nursery:

        async def run(task_status: trio.TaskStatus[None]) -> None:
            await watch_config(path, watch.note, files=lambda: files, look_every=look_every, task_status=task_status)

        await nursery.start(run)
        yield watch
        nursery.cancel_scope.cancel()


async def test_a_change_is_noticed(path: Path) -> None:
    """A file that is written anew, again and again."""
    write(path, "a = 1")
    async with watching(path) as watch:
        for i in range(3):
            write(path, f"a = {'1' * i}0")
            await watch.wait()


async def test_a_file_that_is_replaced_is_noticed(path: Path) -> None:
    """Editors write a new file and give it the name of the old one; the new one is watched then."""
    write(path, "a = 1")
    async with watching(path) as watch:
        for i in range(2):
            other = path.with_suffix(".new")
            write(other, f"b = {i}")
            os.replace(other, path)
            await watch.wait()
        write(path, "c = 333")
        await watch.wait()


async def test_a_file_that_goes_and_comes_back_is_noticed(path: Path) -> None:
    """It is a change that it is gone, and one that it is there."""
    write(path, "a = 1")
    async with watching(path) as watch:
        os.unlink(path)
        await watch.wait()
        write(path, "a = 1")
        await watch.wait()


async def test_a_file_that_the_configuration_names_is_watched_too(path: Path, tmp_path: Path) -> None:
    """A key, a certificate, the tokens: wherever they are, and if they are not there yet."""
    folder = tmp_path / "secrets"
    write(path, "a = 1")
    async with watching(path, folder / "key") as watch:
        folder.mkdir()
        write(folder / "key", "key-1")
        await watch.wait()
        write(folder / "key", "key-22")
        await watch.wait()


async def test_a_link_that_is_turned_is_noticed(path: Path, tmp_path: Path) -> None:
    """As Kubernetes does it: the name stays, a link on the way to the file leads elsewhere."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "key", "key")
    current = tmp_path / "current"
    current.symlink_to("one")
    write(path, "a = 1")
    async with watching(path, current / "key") as watch:
        (tmp_path / "next").symlink_to("two")
        os.replace(tmp_path / "next", current)
        await watch.wait()


async def test_a_folder_that_goes_and_comes_back_is_noticed(path: Path, tmp_path: Path) -> None:
    """Who watches a folder watches that folder, not its name: a new one is looked for now and then."""
    folder = tmp_path / "secrets" / "inner"
    folder.mkdir(parents=True)
    write(folder / "key", "key-1")
    write(path, "a = 1")
    async with watching(path, folder / "key", look_every=0.2) as watch:
        shutil.rmtree(tmp_path / "secrets")
        await watch.wait()
        folder.mkdir(parents=True)
        write(folder / "key", "key-1")
        await watch.wait()


async def test_where_the_system_cannot_watch_the_files_are_looked_at(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no watches left: then it takes a little longer."""

    async def refuse(*folders: Path, **options: object) -> AsyncIterator[set[object]]:
        if folders:
            raise OSError("OS file watch limit reached")
        yield set()

    monkeypatch.setattr("watchfiles.awatch", refuse)
    write(path, "a = 1")
    async with watching(path, look_every=0.05) as watch:
        write(path, "a = 22")
        await watch.wait()


async def test_files_beside_it_are_nobodys_business(path: Path) -> None:
    """Another file of the folder changes, then the configuration: one change."""
    write(path, "a = 1")
    async with watching(path) as watch:
        write(path.with_suffix(".bak"), "b = 1")
        assert watch.seen == 0
        write(path, "a = 22")
        await watch.wait()
        assert watch.seen == 1


async def test_what_the_callback_raises_ends_the_watching(path: Path) -> None:
    """It is not swallowed: whoever reloads decides what a broken file means."""

    async def fail() -> None:
        raise LookupError

    write(path, "a = 1")
    with trio.fail_after(20), pytest.RaisesGroup(LookupError):
        async with trio.open_nursery() as nursery:

            async def run(task_status: trio.TaskStatus[None]) -> None:
                await watch_config(path, fail, look_every=60.0, task_status=task_status)

            await nursery.start(run)
            write(path, "a = 22")


async def test_a_broken_file_is_not_followed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What holds goes on to hold, and the log says what is wrong; once it is mended, it is followed."""
    monkeypatch.setenv("A", "key-1")
    write(path, BASE)
    log = Log()
    logger = make_logger(log, json=True)
    app = App(build(load(path, os.environ)), logger)
    follower = Follower(path, app, logger)
    await follower.reload()
    before = app.settings, app.routing
    for broken in (BASE.replace("drain = 10", "drain = -1"), BASE + "[[", ""):
        write(path, broken)
        await follower.reload()
        assert (await log.next("configuration refused"))["problem"]
        assert (app.settings, app.routing) == before
    write(path, BASE.replace("drain = 10", "drain = 11"))
    await follower.reload()
    assert app.settings.drain == 11
