"""Following a configuration file: what changes in it holds for requests to come."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import attrs
import structlog
import trio

from .. import ConfigurationError
from ..http import Address
from ._app import App
from ._build import build
from ._config import ConfigurationErrors, compare, load
from ._settings import Binding, Settings
from ._tables import Config
from ._watch_config import watch_config


class Follower:
    """Reads the file again when it, or a file that it names, has changed, or when told to.

    Live streams keep what they began with. A file that is wrong is refused, and what holds goes on to hold.
    """

    def __init__(self, path: Path, app: App, log: structlog.typing.FilteringBoundLogger) -> None:
        self._path = path
        self._app = app
        self._log = log
        self._began = app.settings
        self._config: Config | None = None
        self._files: frozenset[Path] = frozenset()

    async def watch(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Follow the file until cancelled."""
        await self.reload()
        await watch_config(self._path, self.reload, files=self._named, task_status=task_status)

    def _named(self) -> Iterable[Path]:
        return self._files

    async def reload(self) -> None:
        """Read the file now."""
        try:
            config, settings = await trio.to_thread.run_sync(self._read)
        except ConfigurationErrors as errors:
            self._files |= errors.files
            self._refuse(map(str, errors.problems))
        except ConfigurationError as error:
            self._refuse(str(error).splitlines())
        else:
            self._follow(config, settings)

    def _read(self) -> tuple[Config, Settings]:
        config = load(self._path, os.environ)
        return config, build(config)

    def _refuse(self, problems: Iterable[str]) -> None:
        for problem in problems:
            self._log.error("configuration refused", problem=problem)

    def _follow(self, config: Config, settings: Settings) -> None:
        before, self._config, self._files = self._config, config, config.files
        for warning in config.warnings:
            self._log.warning("configuration", warning=str(warning))
        self._app.configure(self._guarded(settings))
        if before is None:  # the first time, since it may have changed behind the command line's back
            return
        changes = compare(before, config)
        self._log.info("configured", changed=list(changes.now))
        if changes.restart:
            self._log.warning("needs a restart", changed=list(changes.restart))

    def _guarded(self, settings: Settings) -> Settings:
        """The same settings, but nobody is let in without a token because of addresses that only a restart brings."""
        began, now = self._began, self._app.settings
        if settings.tokens is None and _addresses(settings.listen) != _addresses(began.listen):
            settings = attrs.evolve(settings, tokens=now.tokens)
        if settings.admin_token is None and settings.admin != began.admin:
            settings = attrs.evolve(settings, admin_token=now.admin_token)
        return settings


def _addresses(bindings: Iterable[Binding]) -> list[Address]:
    return [binding.address for binding in bindings]
