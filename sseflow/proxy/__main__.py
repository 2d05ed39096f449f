"""``python -m sseflow.proxy``: start, listen, drain, and say how it ended."""

from __future__ import annotations

import contextlib
import gc
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from typing import NoReturn

import attrs
import structlog
import trio

from .. import ConfigurationError
from ..http import Address, Listener, Origin, Server, listen, share
from ..records import History, open_history, redacting
from ._app import App
from ._cli import Command, check_file, parse, print_token
from ._demo import TWICE, Demo, twice
from ._follow import Follower
from ._log import make_logger, plain
from ._settings import Settings
from ._workers import ENDING, RELOAD, SIGNALS, Place, Supervisor

GC_THRESHOLD = 10_000
"""Objects that are made, beyond those that are gone, until the youngest are looked at; by default 700."""

_TRY = """\
sseflow is listening on {where}, in front of a demo upstream. Try it:

  curl -N{flags} {url}/v1/chat/completions \\
    -H 'content-type: application/json' -d '{{"model": "demo-1", "stream": true, "messages": []}}'

One answer made of two upstream calls is at {url}/demo/twice/chat/completions. Ctrl-C ends it.
"""


def open_listeners(command: Command) -> list[Listener]:
    """Listen for clients.

    Raises:
        OSError: an address is in use, or cannot be had. Nothing is left open.
    """
    settings = command.settings
    listeners: list[Listener] = []
    try:
        for binding in settings.listen:
            try:
                listeners += listen(binding.address, tls=binding.tls)
            except OSError as error:
                raise OSError(f"cannot listen on {binding.address}: {error.strerror or error}") from error
        return listeners
    except OSError:
        for listener in listeners:
            listener.close()
        raise


def open_admin(command: Command) -> list[Listener]:
    """Listen for operators, if that is wanted. Raises as `open_listeners` does."""
    admin = command.settings.admin
    if admin is None:
        return []
    try:
        return listen(admin.address)
    except OSError as error:
        raise OSError(f"cannot listen on {admin.address} for operators: {error.strerror or error}") from error


async def serve(
    command: Command,
    listeners: Sequence[Listener],
    admin: Sequence[Listener],
    log: structlog.typing.FilteringBoundLogger,
    place: Place | None = None,
) -> int:
    """Run the proxy, and the demo upstream if there is to be one, until it is drained; return the exit status.

    If its settings are from a file, they change with it.

    Args:
        admin: the listeners for operators.
        place: of a worker: what it has to say it says to its supervisor, and its signals are those that this passes on.
    """
    settings = command.settings
    demo = listen(Address("127.0.0.1", 0)) if command.demo else []
    if demo:
        settings = _in_front_of(Origin("http", "127.0.0.1", demo[0].address.port), settings)
    worker = None if place is None else place.number
    if worker is not None:
        log = log.bind(worker=worker)
    async with _history_of(settings, log) as history:
        app = App(settings, log, handlers={TWICE: twice} if demo else {}, worker=worker, history=history)
        follower = None if command.config is None else Follower(command.config, app, log)
        with trio.open_signal_receiver(*(SIGNALS if place is None and follower is not None else ENDING)) as signals:
            async with trio.open_nursery() as helpers:
                if demo:
                    upstream = Demo(pace=command.demo_pace)
                    server = Server(upstream.handle, refuse=upstream.refuse, on_error=app.log_exception)
                    await helpers.start(server.run, demo)
                if follower is not None:
                    await helpers.start(follower.watch)
                async with trio.open_nursery() as nursery:
                    await nursery.start(app.run, listeners, admin)
                    if place is None:
                        announce(command, listeners, log)
                    else:
                        place.say_that_it_serves()
                    helpers.start_soon(_obey, signals if place is None else place.signals(), app, follower, log)
                helpers.cancel_scope.cancel()
            log.info("ended", cut=app.cut)
    return 1 if app.cut else 0


@contextlib.asynccontextmanager
async def _history_of(settings: Settings, log: structlog.typing.FilteringBoundLogger) -> AsyncIterator[History | None]:
    """The history that the settings ask for; None: they ask for none."""
    wanted = settings.history
    if wanted is None:
        yield None
        return

    def failed(error: Exception) -> None:
        log.warning("history", error=plain(repr(error).encode()))

    async with open_history(
        wanted.path,
        max_age=wanted.max_age,
        max_bytes=wanted.max_bytes,
        redact=redacting(wanted.redact),
        on_error=failed,
    ) as history:
        yield history


def announce(command: Command, listeners: Sequence[Listener], log: structlog.typing.FilteringBoundLogger) -> None:
    """Say where clients are served from now on."""
    names = {upstream.name: None for route in command.settings.routes for upstream in route.upstreams}
    upstream = "demo" if command.demo else ", ".join(names)
    for listener in listeners:
        log.info("listening", address=str(listener.address), upstream=upstream)
    if command.config is not None and command.settings.tokens is None:
        log.info("open to this machine only: there is no [auth], so whoever can connect may ask")
    if command.demo:
        print(_how_to_try(listeners[0]), flush=True)


def supervise(
    command: Command,
    shares: Sequence[Sequence[Listener]],
    start: Sequence[str],
    log: structlog.typing.FilteringBoundLogger,
) -> int:
    """Run the proxy in several processes, each started by ``start``, until they are drained; return the exit status."""
    supervisor = Supervisor(
        start,
        shares,
        bindings=command.settings.listen,
        drain=command.settings.drain,
        reloads=command.config is not None,
        announce=lambda: announce(command, shares[0], log),
        log=log,
    )
    return trio.run(supervisor.run)


def _in_front_of(origin: Origin, settings: Settings) -> Settings:
    """The same settings, with another upstream. Each worker has a demo upstream of its own."""
    [route] = settings.routes
    [upstream] = route.upstreams
    upstream = attrs.evolve(upstream, name=str(origin), origin=origin)
    return attrs.evolve(settings, routes=(attrs.evolve(route, upstreams=(upstream,)),))


async def _obey(
    signals: AsyncIterator[int | None], app: App, follower: Follower | None, log: structlog.typing.FilteringBoundLogger
) -> None:
    async for number in signals:
        if follower is not None and number == RELOAD:
            await follower.reload()
            continue
        name = None if number is None else signal.Signals(number).name
        log.info("draining", signal=name, seconds=app.settings.drain)
        app.drain()


def _how_to_try(listener: Listener) -> str:
    address = listener.address
    flags, url = "", f"{'http' if listener.tls is None else 'https'}://{address}"
    if address.path is not None:
        flags, url = f" --unix-socket {address.path}", "http://localhost"
    elif listener.tls is not None:
        flags = " --insecure"
    return _TRY.format(where=address, flags=flags, url=url)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The program. Exits with 0 if nothing was cut, 1 if something was or it could not start, 2 for wrong options."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["check"]:
        sys.exit(check_file(words[1:]))
    if words[:1] == ["token"]:
        sys.exit(print_token(words[1:]))
    place = Place.take()
    try:
        command = parse(words)
    except ConfigurationError as error:
        for line in str(error).splitlines():
            print(f"sseflow: {line}", file=sys.stderr)
        sys.exit(2)
    log = make_logger(json=command.log_json)
    shares: list[tuple[Listener, ...]] = []
    try:
        listeners = open_listeners(command) if place is None else place.open(command.settings.listen)
        admin = open_admin(command)
        if place is None and command.workers > 1:
            shares = list(zip(*(share(listener, command.workers) for listener in listeners), strict=True))
    except OSError as error:
        print(f"sseflow: {error}", file=sys.stderr)
        sys.exit(1)
    # What was imported lives as long as the program: no collection need look at it again. And a request is made of some
    # hundred objects, so by default each handful of requests would wait for a collection.
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)
    try:
        if shares:
            # However it was started, with whatever options of the interpreter: its workers are started likewise.
            rest = sys.orig_argv[1:] if arguments is None else ["-m", "sseflow.proxy", *arguments]
            sys.exit(supervise(command, shares, [sys.executable, *rest], log))
        sys.exit(trio.run(serve, command, listeners, admin, log, place))
    except ConfigurationError as error:  # of what is opened only now
        print(f"sseflow: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:  # before signals were received, or after
        sys.exit(1)


if __name__ == "__main__":
    main()
