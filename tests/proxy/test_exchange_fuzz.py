"""Whole exchanges with anything in them: any upstream, any cuts, any client, any settings.

``python -m tests.proxy.test_exchange_fuzz SECONDS`` goes on for that long, and says how many examples it tried; it is
what ``make fuzz`` runs.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sseflow.http import CODINGS, Encoder, Origin
from sseflow.proxy._app import App
from sseflow.resilience import BreakerOptions, RetryPolicy, Secret

from .memory import Act, Ending, Exchange, MemoryWire, check, run_exchange
from .rig import DONE, STOP, TOKEN
from .test_answer import ASK

ERROR = b'data: {"error":{"message":"Overloaded","type":"server_error","code":503}}\n\n'

_PIECES = [
    TOKEN,
    TOKEN,
    TOKEN,
    STOP,
    DONE,
    ERROR,
    b": ping\n\n",
    b":\n",
    b"\n\n",
    b"event: ping\ndata: {}\n\n",
    b"id: 1\n\n",
    b"retry: 10\n\n",
    b"data: a\r\n\r\n",
    b"data: a\r\r",
    b"data\n\n",
    b"data: \xff\x00\xe2\x80\xa8\n\n",
    b'data: {"choices":[]}\n\n',
    b"\xef\xbb\xbf",
    b"data: " + b"x" * 300 + b"\n\n",
    b"x: " + b"y" * 70_000 + b"\n",
    b"data: no end",
]

NEVER = 1e6
PAUSES = st.sampled_from([0.05, 1.0, 9.0, 16.0, 31.0, 61.0])


@st.composite
def upstreams(draw: st.DrawFn, word: bytes = b"Hello") -> list[Act]:
    """Draw an upstream: a head, a body in some framing and some pieces, pauses in between, and an end.

    What it says has ``word`` in it, so that no two of them are mixed unseen.
    """
    body = b"".join(draw(st.lists(st.sampled_from(_PIECES), max_size=8)))
    if draw(st.booleans()):
        body = TOKEN + body + STOP + DONE
    body = body.replace(b"Hello", word)
    coding = draw(st.sampled_from([None] * 6 + list(CODINGS)))
    framing = draw(st.sampled_from(["chunked", "chunked", "length", "close"]))
    status = draw(st.sampled_from([b"200 OK"] * 8 + [b"500 Oh", b"429 No"]))
    kind = draw(st.sampled_from([b"text/event-stream"] * 8 + [b"application/json", b"text/event-stream;charset=utf-8"]))
    head = b"HTTP/1.1 %b\r\nContent-Type: %b\r\n" % (status, kind)
    if not status.startswith(b"200"):
        head += draw(st.sampled_from([b"", b"Retry-After: 3\r\n", b"Retry-After: 300\r\n"]))
    if coding is not None:
        encoder = Encoder(coding)
        body = encoder.encode(body) + encoder.finish()
        head += b"Content-Encoding: %b\r\n" % coding.encode()
    if framing == "length":
        wrong = draw(st.sampled_from([0, 0, 0, 1, 100]))
        sent = head + b"Content-Length: %d\r\n\r\n" % (len(body) + wrong) + body
    elif framing == "close":
        sent = head + b"\r\n" + body
    else:
        size = draw(st.sampled_from([1, 7, 100, 100_000])) if len(body) < 1000 else 60_000
        chunks = [body[at : at + size] for at in range(0, len(body), size)]
        sent = head + b"Transfer-Encoding: chunked\r\n\r\n"
        sent += b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
        ends = [b"", b"0\r\n", b"0\r\nA: b\r\n\r\n", b"zz\r\n", b"0\r\n\r\nmore"]
        sent += draw(st.sampled_from([b"0\r\n\r\n"] * 4 + ends))
    if draw(st.integers(0, 5)) == 0:
        sent = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + sent
    if draw(st.integers(0, 5)) == 0:
        sent = sent[: draw(st.integers(0, len(sent)))]
    cuts = sorted(set(draw(st.lists(st.integers(0, len(sent)), max_size=6))))
    acts: list[Act] = []
    for begin, end in zip([0, *cuts], [*cuts, len(sent)], strict=True):
        acts.append(sent[begin:end])
        if draw(st.integers(0, 3)) == 0:
            acts.append(draw(PAUSES))
    endings: list[Ending] = ["eof", "eof", "reset", "open"]
    return [*acts, draw(st.sampled_from(endings[: 3 if framing == "close" else 4]))]


#: Whatever else is drawn, an upstream that stands still is given up.
SETTINGS = st.fixed_dictionaries(
    {
        "idle_timeout": st.sampled_from([30.0, 60.0]),
        "progress_timeout": st.sampled_from([0.0, 45.0]),
        "upstream_head_timeout": st.sampled_from([5.0, 100.0]),
        "linger": st.sampled_from([1.0, NEVER]),
    },
    optional={
        "gate": st.sampled_from(["content", "warm", "first_event", "off"]),
        "keep_alive": st.sampled_from([0.0, 1.0, 10.0]),
        "comments": st.sampled_from(["strip", "forward"]),
        "error_end": st.sampled_from(["abort", "clean"]),
        "on_client_gone": st.sampled_from(["cancel", "drain"]),
        "gate_open_after": st.sampled_from([0.0, 2.0, 15.0]),
        "compress": st.just(("gzip",)),
        "max_line": st.sampled_from([100, 1 << 20]),
        "max_event": st.sampled_from([200, 1 << 20]),
        "switchboard": st.booleans(),
    },
)


#: Routes on which the beginning of an answer is looked at before it is delivered.
ROUTES = st.fixed_dictionaries(
    {},
    optional={
        "breaker": st.just(BreakerOptions(half_open=1)),
        "retry": st.sampled_from([RetryPolicy(attempts=2, base=2.0), RetryPolicy(attempts=3, base=0.0)]),
        "others": st.just((Origin("http", "other", 80),)),
        "weights": st.just((1, 1)),
        "hedge_after": st.sampled_from([0.0, 0.5, 5.0]),
        "replay_body": st.just(10),
        "keys": st.sampled_from([(Secret("sk-one"),), (Secret("sk-one"), Secret("sk-two"))]),
    },
).map(lambda route: route if "others" in route else {name: route[name] for name in route if name != "weights"})


def nothing(app: App, client: MemoryWire, upstreams: list[MemoryWire]) -> None:
    pass


def leave(how: str) -> Callable[[App, MemoryWire, list[MemoryWire]], None]:
    def interfere(app: App, client: MemoryWire, upstreams: list[MemoryWire]) -> None:
        client.leave("eof" if how == "eof" else "reset")

    return interfere


def stall(app: App, client: MemoryWire, upstreams: list[MemoryWire]) -> None:
    client.stop_reading()


def drain(app: App, client: MemoryWire, upstreams: list[MemoryWire]) -> None:
    app.drain()


REQUESTS = [
    ASK,
    ASK,
    ASK.replace(b"HTTP/1.1", b"HTTP/1.0"),
    ASK.replace(b'"stream":true', b'"stream":null'),
    ASK.replace(b"/v1/chat/completions", b"/events"),
    ASK.replace(b"Host: a", b"Host: a\r\nExpect: 100-continue"),
    b"GET /events HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n",
    ASK.replace(b"Host: a", b"Host: a\r\nTE: trailers\r\nAccept-Encoding: gzip"),
]


def exchange(
    scripts: list[list[Act]],
    request: bytes,
    chosen: dict[str, Any],
    route: dict[str, Any],
    interfere: Callable[[App, MemoryWire, list[MemoryWire]], None],
    at: int,
) -> None:
    """Nothing hangs, nothing undocumented is raised, and what is called complete is complete."""
    done: Exchange = run_exchange(request, *scripts, interfere=interfere, at=at, **chosen, **route)
    check(done, clean=chosen.get("error_end") == "clean", lingers=chosen["linger"] < NEVER)


def tried(
    route: st.SearchStrategy[Any], function: Callable[..., None] = exchange, **options: Any
) -> Callable[[], None]:
    """A test that draws examples for ``function``."""
    given_ = given(
        scripts=st.tuples(upstreams(), upstreams(b"World"), upstreams(b"!")),
        route=route,
        request=st.sampled_from(REQUESTS),
        chosen=SETTINGS,
        interfere=st.sampled_from([nothing, nothing, leave("eof"), leave("reset"), stall, drain]),
        at=st.integers(1, 120),
    )
    return settings(deadline=None, suppress_health_check=list(HealthCheck), **options)(given_(function))


test_whole_exchanges = tried(st.just({}), max_examples=200)
test_whole_exchanges_that_may_fail_over = tried(ROUTES, max_examples=300)


def fuzz(seconds: float) -> int:
    """Try examples for so long; return how many."""
    count = 0

    def counted(**arguments: Any) -> None:
        nonlocal count
        count += 1
        exchange(**arguments)

    begun = time.monotonic()
    while time.monotonic() - begun < seconds:
        tried(ROUTES, counted, max_examples=500, database=None)()
        print(f"{count} examples in {time.monotonic() - begun:.0f} s", flush=True)
    return count


if __name__ == "__main__":
    fuzz(float(sys.argv[1]))
