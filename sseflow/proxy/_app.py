"""The proxy: what all exchanges share."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence

import structlog
import trio

from .. import RequestError
from .._switchboard import Switchboard
from ..http import (
    Dial,
    Headers,
    Incoming,
    Listener,
    Server,
    ServerConnection,
    connect,
)
from ..records import Epochs, History, Recorder
from ..resilience import RetryCounter
from ._admin import Admin
from ._auth import NotAuthenticated
from ._exchange import Exchange, Handler, dialect_for, forward
from ._headers import host_name, plain_head, request_id, target_of
from ._keeping import Keeper
from ._log import plain
from ._metrics import Counts
from ._routing import Path, Routing
from ._settings import Settings
from ._verdict import Drained
from ._words import as_answer

SWEEP = 1.0
"""Seconds between two looks at all streams; shorter if a deadline is."""

LATE = 0.05
"""Seconds by which such a look may come too late until it is said that the loop stood still; and for all others, then,
to do what has become due."""

CROWD_LOGGED = 1.0
"""Seconds between two lines of log about an address that has too many connections: who opens them by the thousand is
not to fill the log."""

CLOSING = 5.0
"""Seconds that connections have to close once their streams were cut."""

#: A segment that is two dots, however they are written; RFC 3986, section 5.2.4, takes away what is before it.
_CLIMBS = re.compile(rb"(?:^|[/\\]|%2f|%5c)(?:\.|%2e){2}(?:$|[/\\;]|%2f|%5c)", re.IGNORECASE)

HEALTH = b"/-/health"
READY = b"/-/ready"


def _providers_of(settings: Settings) -> frozenset[str]:
    return frozenset(upstream.name for route in settings.routes for upstream in route.upstreams)


def _models_of(settings: Settings) -> frozenset[str]:
    """The models that a configuration knows, by the names of clients and of providers."""
    upstreams = [upstream for route in settings.routes for upstream in route.upstreams]
    return frozenset(name for upstream in upstreams for names in upstream.models.items() for name in names)


class App:
    """A proxy in front of upstreams.

    Call `run` once; it returns when `drain` was called and the last exchange has ended.

    Args:
        handlers: who answers requests for a path; all others are passed on.
        dial: makes connections to upstreams.
        worker: which one this is, if there are several processes.
        recorder: told what became of each answer.
        epochs: whose leases `recorder` heeds.
        history: of complete responses, to mend chains with.
        switchboard: whether streams are lent to a `Switchboard`, where the system has what that takes.
    """

    def __init__(
        self,
        settings: Settings,
        log: structlog.typing.FilteringBoundLogger,
        *,
        handlers: Mapping[bytes, Handler] | None = None,
        dial: Dial = connect,
        worker: int | None = None,
        recorder: Recorder | None = None,
        epochs: Epochs | None = None,
        history: History | None = None,
        switchboard: bool = True,
    ) -> None:
        self.settings = settings
        self.worker = worker
        self.log = log
        self.handlers = dict(handlers or {})
        self.keeper = Keeper(
            recorder=recorder,
            epochs=epochs,
            history=history,
            on_error=self.log_exception,
            always=settings.admin is not None,
        )
        self.models = _models_of(settings)
        """That may be labels; a client can name any."""

        self.retries = RetryCounter(providers=_providers_of(settings), models=self.models)
        """Of calls that were made again: the value of ``sseflow_stream_retries_total``."""

        self.counts = Counts()

        self._dial = dial
        self.routing = Routing(settings.routes, dial=dial)
        self.switchboard = Switchboard() if switchboard and Switchboard.is_supported() else None
        self.nursery: trio.Nursery
        """For what exchanges write while they wait; there while `run` runs."""

        self.cut = 0
        """Exchanges that were cut because the proxy had to end."""

        self._crowd_logged = -math.inf
        self._exchanges: dict[Exchange, None] = {}  # in the order in which they came
        self._server = Server(
            self.handle,
            refuse=self._refuse,
            on_error=self.log_exception,
            limits=settings.server,
            max_connections=settings.max_connections,
            max_per_address=settings.max_per_address,
            exempt=settings.trusts,
        )
        self._draining = trio.Event()
        self._hurry = trio.Event()

    async def run(
        self,
        listeners: Sequence[Listener],
        admin: Sequence[Listener] = (),
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until the proxy is drained; operators, on listeners of their own, until the last exchange has ended."""
        try:
            async with trio.open_nursery() as self.nursery:
                nursery = self.nursery
                nursery.start_soon(self._sweep)
                if self.switchboard is not None:
                    nursery.start_soon(self.switchboard.run)
                nursery.start_soon(self._end_in_time)
                if admin:
                    pages = Admin(self)
                    await nursery.start(
                        Server(pages.handle, refuse=pages.refuse, on_error=self.log_exception).run, admin
                    )
                await self._server.run(listeners, task_status=task_status)
                nursery.cancel_scope.cancel()
        finally:
            self.routing.close()
            if self.switchboard is not None:
                self.switchboard.close()

    def configure(self, settings: Settings) -> None:
        """Treat requests that come from now on as these settings say. Live streams keep what they began with.

        What the server itself does, listeners, limits of connections, is as it was when the proxy was started.
        """
        self.routing = Routing(settings.routes, dial=self._dial, before=self.routing)
        self.settings = settings
        self.models |= _models_of(settings)
        self.retries.know(providers=_providers_of(settings), models=self.models)

    @property
    def exchanges(self) -> list[Exchange]:
        """Those that live, the oldest first."""
        return list(self._exchanges)

    def interrupt(self, id: str, why: str) -> list[Exchange]:
        """End the streams with that id, and return them. It is the client that gives an id, so there may be several.

        Returns at once; `Exchange.kept` is set behind the end.
        """
        found = [exchange for exchange in self._exchanges if exchange.id == id]
        for exchange in found:
            exchange.interrupt(why)
        return found

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
        while True:
            planned = trio.current_time() + self._sweep_interval
            await trio.sleep_until(planned)
            if trio.current_time() - planned > LATE:
                # The loop stood still. What has come meanwhile is read before anybody is accused of silence.
                await trio.sleep(LATE)
            self.routing.expire()
            now = trio.current_time()
            for exchange in tuple(self._exchanges):
                exchange.check_time(now)

    @property
    def _sweep_interval(self) -> float:
        """Seconds until the next look: no deadline is noticed later than half of it."""
        deadlines = [SWEEP]
        for path in self.routing.paths:
            policy = path.policy
            halves = (policy.opens_after, policy.keep_alive, policy.idle_timeout, policy.progress_timeout)
            deadlines += [policy.linger, *(deadline / 2 for deadline in halves)]
        return min(deadline for deadline in deadlines if deadline > 0)

    async def handle(self, incoming: Incoming) -> None:
        """Answer one request."""
        path, authority = target_of(incoming.request)
        if self.settings.hosts and host_name(authority) not in self.settings.hosts:
            await self._turn_away(incoming, RequestError(421, "this proxy does not answer to that host name"))
        elif path in (HEALTH, READY):
            ready = path == HEALTH or not self._draining.is_set()
            await self._tell(incoming, 200 if ready else 503, "ok" if ready else "draining")
        elif len(self._exchanges) >= self.settings.max_streams:
            await self._turn_away(incoming, RequestError(503, "this service is busy; please try again"))
        elif (found := self.routing.find(path)) is None:
            await self._turn_away(incoming, RequestError(404, "there is no route for that path", close=False))
        else:
            try:
                if found[0].is_below and _CLIMBS.search(path.partition(b"?")[0]):
                    raise RequestError(400, "a path with .. in it leads out of its route", close=False)
                owner = self._who(incoming, found[0])
            except RequestError as error:
                await self._turn_away(incoming, error)
                return
            exchange = Exchange(self, incoming, *found, owner=owner)
            self._exchanges[exchange] = None
            try:
                await exchange.run(self.handlers.get(path.partition(b"?")[0], forward))
            finally:
                del self._exchanges[exchange]

    def _who(self, incoming: Incoming, path: Path) -> str | None:
        """Whose request it is, if clients have tokens. Raises `RequestError` if it may not come in."""
        tokens = self.settings.tokens
        if tokens is None:
            return None
        return tokens.authenticate(incoming.request.headers, path.settings.path.decode() or "/").name

    async def _tell(self, incoming: Incoming, status: int, word: str) -> None:
        whose = {} if self.worker is None else {"worker": self.worker}
        body = json.dumps({"status": word, **whose}).encode()
        await incoming.reply(status, plain_head(request_id(incoming.request)), body)

    async def _turn_away(self, incoming: Incoming, error: RequestError) -> None:
        """Answer a request that no upstream will see."""
        given = request_id(incoming.request)
        headers, body = self._refusal(given, incoming.connection.peer, error, target_of(incoming.request)[0])
        await incoming.reply(error.status, headers, body)

    async def _refuse(self, connection: ServerConnection, error: RequestError) -> None:
        """Answer what is not a request; 503 is for a connection of which there are too many."""
        now = trio.current_time()
        logged = error.status != 503 or now - self._crowd_logged >= CROWD_LOGGED
        if logged and error.status == 503:
            self._crowd_logged = now
        headers, body = self._refusal(request_id(None), connection.peer, error, b"", logged=logged)
        await connection.refuse(error, body, headers)

    def _refusal(
        self, given_id: str, peer: str, error: RequestError, path: bytes, *, logged: bool = True
    ) -> tuple[Headers, bytes]:
        if logged:
            self.log.info("refused", id=given_id, peer=peer, status=error.status, error=plain(str(error).encode()))
        headers = plain_head(given_id)
        if error.status == 503:
            headers = (*headers, (b"Retry-After", b"1"), (b"Proxy-Status", b"sseflow; error=connection_limit_reached"))
        if isinstance(error, NotAuthenticated):
            headers = (*headers, *error.headers)
        return headers, dialect_for(path).error_body(as_answer(error)[1], request_id=given_id)

    def log_exception(self, message: str, error: BaseException) -> None:
        """Log what should not have happened. Nothing of any traffic is in it."""
        self.log.error(message, error=plain(repr(error).encode()), exc_info=error)
