"""Noticing that a configuration has changed, or a file that it names."""

# Editors replace a file, others write into it, Kubernetes turns a link two folders above: what counts is whether the
# file that the name leads to is another one. So folders are watched, and any event in them is a reason to look at the
# files. A look now and then is for what brings no events: network file systems, and folders that come later.

from __future__ import annotations

import contextlib
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping, Set
from pathlib import Path
from typing import TypeAlias

import trio
import watchfiles

LOOK_EVERY = 5.0
"""Seconds between two looks where nothing has been heard."""

SETTLE = 0.2
"""Seconds of silence behind a change until it is reported: an editor takes several steps to save."""

SETTLE_MOST = 2.0
"""Seconds for which a change is held back at most."""

_Look: TypeAlias = tuple[int, ...] | None


async def watch_config(
    path: str | os.PathLike[str],
    on_change: Callable[[], Awaitable[None]],
    *,
    files: Callable[[], Iterable[Path]] = lambda: (),
    look_every: float = LOOK_EVERY,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Call ``on_change`` whenever a file has changed, come or gone, until cancelled.

    Args:
        path: the configuration.
        on_change: what it raises ends the watching.
        files: other files that matter; asked again behind each change, since the configuration names them.
        look_every: seconds; see `LOOK_EVERY`.
        task_status: started when every change from then on will be seen.
    """

    def watched() -> list[Path]:
        return [Path(path).absolute(), *(other.absolute() for other in files())]

    seen = {file: _look(file) for file in watched()}
    task_status.started()
    while True:
        await _change(seen, look_every)
        # Looked at before it is read: what changes from here on is a change of its own.
        seen = {file: _look(file) for file in seen}
        await on_change()
        seen = {file: seen[file] if file in seen else _look(file) for file in watched()}


async def _change(seen: Mapping[Path, _Look], look_every: float) -> None:
    """Wait until a file is not what was seen."""
    while all(_look(file) == look for file, look in seen.items()):
        folders = _folders(seen)
        names = _names(seen)
        stop = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_set_when_cancelled, stop)
            try:
                if await _event(folders, names, seen, look_every, stop):
                    return
            except OSError:  # too many watches, or a folder that has just gone
                await trio.sleep(look_every)
            finally:
                nursery.cancel_scope.cancel()


async def _event(
    folders: Mapping[Path, _Look], names: Set[str], seen: Mapping[Path, _Look], look_every: float, stop: trio.Event
) -> bool:
    """Watch folders until one of the names is heard of, or a file is not what was seen: True; or a folder is not."""
    changes = watchfiles.awatch(
        *folders,
        watch_filter=None,
        recursive=False,
        debounce=round(SETTLE_MOST * 1000),
        step=round(SETTLE * 1000),
        rust_timeout=round(look_every * 1000),
        yield_on_timeout=True,
        stop_event=stop,
    )
    async with contextlib.aclosing(changes):
        async for events in changes:
            if any(name in names for _, name in events) or any(_look(file) != look for file, look in seen.items()):
                return True
            if _folders(seen) != folders:
                return False
    return False


async def _set_when_cancelled(stop: trio.Event) -> None:
    # The thread that waits for events cannot be cancelled, but it looks at this.
    try:
        await trio.sleep_forever()
    finally:
        stop.set()


def _look(path: Path) -> _Look:
    """What tells a file from the one that was there before; None: there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _names(files: Iterable[Path]) -> set[str]:
    """What the files are called, and what the files are called that they lead to."""
    return {name for file in files for name in (str(file), os.path.realpath(file))}


def _folders(files: Iterable[Path]) -> dict[Path, _Look]:
    """The folders in which something happens when one of the files is replaced, and which these are."""
    found: dict[Path, _Look] = {}
    for file in files:
        for folder in (file.parent, Path(os.path.realpath(file)).parent):
            while not folder.is_dir() and folder != folder.parent:
                folder = folder.parent
            look = _look(folder)
            found[folder] = None if look is None else look[:2]
    return found
