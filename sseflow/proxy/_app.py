"""The proxy: what all exchanges share."""

from __future__ import annotations

import json
from collections.abc import Sequence

import structlog
import trio

from .. import RequestError
from ..http import ConnectOptions, Incoming, Listener, Pool, PoolOptions, Server, ServerConnection
from ._exchange import Exchange, error_body
from ._headers import host_name, plain_head, request_id, target_of
from ._log import plain
from ._settings import Settings
from ._verdict import Drained

SWEEP = 1.0
"""Seconds between two looks at all streams; shorter if a deadline is."""


CLOSING = 5.0
"""Seconds that connections have to close once their streams were cut."""

HEALTH = b"/-/health"
READY = b"/-/ready"


class App:
    """A proxy in front of one upstream.

    Call `run` once; it returns when `drain` was called and the last exchange has ended.
    """

    def __init__(self, settings: Settings, log: structlog.typing.FilteringBoundLogger) -> None:
        self.settings = settings
        self.log = log
        self.pool = Pool(
            PoolOptions(
                connect=ConnectOptions(
                    tls=settings.upstream_tls,
                    connect_timeout=settings.connect_timeout,
                    tls_timeout=settings.connect_timeout,
                ),
                head=settings.upstream_head,
                write_timeout=settings.upstream_write_timeout,
                max_idle=settings.max_idle,
                max_idle_time=settings.max_idle_time,
            )
        )
        self.cut = 0
        """Exchanges that were cut because the proxy had to end."""

        self._exchanges: set[Exchange] = set()
        self._server = Server(
            self.handle,
            refuse=self._refuse,
            on_error=self.log_exception,
            limits=settings.server,
            max_connections=settings.max_connections,
        )
        self._draining = trio.Event()
        self._hurry = trio.Event()

    async def run(
        self, listeners: Sequence[Listener], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve until the proxy is drained."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._sweep)
                nursery.start_soon(self._end_in_time)
                await self._server.run(listeners, task_status=task_status)
                nursery.cancel_scope.cancel()
        finally:
            self.pool.close()

    def drain(self) -> None:
        """Accept nothing more; live streams have `Settings.drain` seconds, or, at the second call, none."""
        if self._draining.is_set():
            self._hurry.set()
        else:
            self._draining.set()
            self._server.drain()

    async def _end_in_time(self) -> None:
        await self._draining.wait()
        with trio.move_on_after(self.settings.drain):
            await self._hurry.wait()
        self._server.hurry()
        for exchange in tuple(self._exchanges):
            self.cut += 1
            exchange.stop(Drained("the proxy was told to end, and the time for live streams is over"))
        await trio.sleep(CLOSING)
        self._server.cancel()

    async def _sweep(self) -> None:
        deadlines = [self.settings.linger, self.settings.gate_open_after / 2, self.settings.idle_timeout / 2, SWEEP]
        interval = min(deadline for deadline in deadlines if deadline > 0)
        while True:
            await trio.sleep(interval)
            self.pool.expire()
            now = trio.current_time()
            for exchange in tuple(self._exchanges):
                exchange.check_time(now)

    async def handle(self, incoming: Incoming) -> None:
        """Answer one request."""
        path, authority = target_of(incoming.request)
        exchange = Exchange(self, incoming)
        if self.settings.hosts and host_name(authority) not in self.settings.hosts:
            await exchange.refuse(RequestError(421, "this proxy does not answer to that host name"))
        elif path in (HEALTH, READY):
            ready = path == HEALTH or not self._draining.is_set()
            await self._tell(incoming, 200 if ready else 503, "ok" if ready else "draining")
        else:
            self._exchanges.add(exchange)
            try:
                await exchange.run()
            finally:
                self._exchanges.discard(exchange)

    async def _tell(self, incoming: Incoming, status: int, word: str) -> None:
        body = json.dumps({"status": word}).encode()
        await incoming.reply(status, plain_head(request_id(incoming.request)), body)

    async def _refuse(self, connection: ServerConnection, error: RequestError) -> None:
        """Answer what is not a request."""
        made = request_id(None)
        self.log.info("refused", id=made, peer=connection.peer, status=error.status, error=plain(str(error).encode()))
        await connection.refuse(error, error_body(error.status, str(error), made), plain_head(made))

    def log_exception(self, message: str, error: BaseException) -> None:
        """Log what should not have happened. Nothing of any traffic is in it."""
        self.log.error(message, error=plain(repr(error).encode()), exc_info=error)
