"""``python -m sseflow.proxy``: start, listen, drain, and say how it ended."""

from __future__ import annotations

import signal
import sys
from collections.abc import AsyncIterator, Sequence
from typing import NoReturn

import attrs
import structlog
import trio

from .. import ConfigurationError
from ..http import Address, Listener, Origin, Server, listen
from ._app import App
from ._cli import Command, parse
from ._demo import TWICE, Demo, twice
from ._log import make_logger

_TRY = """\
sseflow is listening on {where}, in front of a demo upstream. Try it:

  curl -N{flags} {url}/v1/chat/completions \\
    -H 'content-type: application/json' -d '{{"model": "demo-1", "stream": true, "messages": []}}'

One answer made of two upstream calls is at {url}/demo/twice/chat/completions. Ctrl-C ends it.
"""


def open_listeners(command: Command) -> tuple[list[Listener], list[Listener]]:
    """Listen for clients, and for the demo upstream if there is to be one.

    Raises:
        OSError: an address is in use, or cannot be had. Nothing is left open.
    """
    settings = command.settings
    listeners: list[Listener] = []
    try:
        for address in settings.listen:
            try:
                listeners += listen(address, tls=None if address.path is not None else settings.tls)
            except OSError as error:
                raise OSError(f"cannot listen on {address}: {error.strerror or error}") from error
        return listeners, listen(Address("127.0.0.1", 0)) if command.demo else []
    except OSError:
        for listener in listeners:
            listener.close()
        raise


async def serve(
    command: Command,
    listeners: Sequence[Listener],
    demo: Sequence[Listener],
    log: structlog.typing.FilteringBoundLogger,
) -> int:
    """Run the proxy, and the demo upstream if there is one, until it is drained; return the exit status."""
    settings = command.settings
    if demo:
        settings = attrs.evolve(settings, upstream=Origin("http", "127.0.0.1", demo[0].address.port))
    app = App(settings, log, handlers={TWICE: twice} if demo else {})
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as helpers:
            helpers.start_soon(_drain_at_signal, signals, app, log)
            if demo:
                upstream = Demo(pace=command.demo_pace)
                server = Server(upstream.handle, refuse=upstream.refuse, on_error=app.log_exception)
                await helpers.start(server.run, demo)
            for listener in listeners:
                log.info("listening", address=str(listener.address), upstream=str(settings.upstream))
            if demo:
                print(_how_to_try(listeners[0]), flush=True)
            await app.run(listeners)
            helpers.cancel_scope.cancel()
        log.info("ended", cut=app.cut)
    return 1 if app.cut else 0


async def _drain_at_signal(signals: AsyncIterator[int], app: App, log: structlog.typing.FilteringBoundLogger) -> None:
    async for number in signals:
        log.info("draining", signal=signal.Signals(number).name, seconds=app.settings.drain)
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
    try:
        command = parse(arguments)
    except ConfigurationError as error:
        print(f"sseflow: {error}", file=sys.stderr)
        sys.exit(2)
    try:
        listeners, demo = open_listeners(command)
    except OSError as error:
        print(f"sseflow: {error}", file=sys.stderr)
        sys.exit(1)
    try:
        sys.exit(trio.run(serve, command, listeners, demo, make_logger(json=command.log_json)))
    except KeyboardInterrupt:  # before signals were received, or after
        sys.exit(1)


if __name__ == "__main__":
    main()
