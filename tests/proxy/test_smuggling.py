"""Request smuggling, over real sockets: what can be read in two ways is refused, and the rest is one request.

The corpus is the guard's and the body codec's own. Behind the proxy stand h11, nginx and HAProxy in turn: whatever is
let through, each of them has to see one request in it.
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TypeAlias

import attrs
import h11
import pytest
import trio

from sseflow.http import Origin
from sseflow.http._guard import split_absolute
from sseflow.testing import ReceivedRequest, open_upstream

from ..http.test_guard import BAD_REQUESTS, GOOD_REQUESTS, request
from .peers import cuts, patience
from .rig import Starter

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: a.example\r\n\r\n"
CHUNKED = request(b"Transfer-Encoding: chunked")

#: Bodies in chunks that somebody could read in another way.
BAD_BODIES = {
    "hexadecimal prefix": b"0x5\r\nhello\r\n0\r\n\r\n",
    "prefix in capitals": b"0X5\r\nhello\r\n0\r\n\r\n",
    "plus": b"+5\r\nhello\r\n0\r\n\r\n",
    "minus": b"-5\r\nhello\r\n0\r\n\r\n",
    "underscore": b"0_5\r\nhello\r\n0\r\n\r\n",
    "space before": b" 5\r\nhello\r\n0\r\n\r\n",
    "space behind": b"5 \r\nhello\r\n0\r\n\r\n",
    "tab behind": b"5\t\r\nhello\r\n0\r\n\r\n",
    "seventeen digits": b"00000000000000005\r\nhello\r\n0\r\n\r\n",
    "no size": b"\r\nhello\r\n0\r\n\r\n",
    "overflow": b"10000000000000005\r\nhello\r\n0\r\n\r\n",
    "line feed only": b"5\nhello\n0\n\n",
    "line feed behind the size": b"5\nhello\r\n0\r\n\r\n",
    "carriage return behind the size": b"5\rhello\r\n0\r\n\r\n",
    "less than the data": b"4\r\nhello\r\n0\r\n\r\n",
    "more than the data": b"6\r\nhello\r\n0\r\n\r\n",
    "line feed behind the data": b"5\r\nhello\n0\r\n\r\n",
    "nothing behind the data": b"5\r\nhello0\r\n\r\n",
    "carriage return in an extension": b"5;a=\rb\r\nhello\r\n0\r\n\r\n",
    "line feed in an extension": b"5;a=\nb\r\nhello\r\n0\r\n\r\n",
    "space before an extension": b"5 ;a\r\nhello\r\n0\r\n\r\n",
    "quote without end": b'5;a="b\r\nhello\r\n0\r\n\r\n',
    "line end in quotes": b'5;a="\r\nhello\r\n0\r\n\r\n"',
    "NUL in an extension": b"5;\x00\r\nhello\r\n0\r\n\r\n",
    "long extension": b"5;a=" + b"b" * 20_000 + b"\r\nhello\r\n0\r\n\r\n",
    "no blank line at the end": b"5\r\nhello\r\n0\r\n",
    "line feed at the end": b"5\r\nhello\r\n0\r\n\n",
    "trailer that chunks": b"5\r\nhello\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n",
    "carriage return in a trailer": b"5\r\nhello\r\n0\r\nA: b\rC: d\r\n\r\n",
    "space before a trailer's colon": b"5\r\nhello\r\n0\r\nA : b\r\n\r\n",
    "trailer that frames": b"5\r\nhello\r\n0\r\nContent-Length: 5\r\n\r\n",
    "trailer that is none": b"5\r\nhello\r\n0\r\nno colon\r\n\r\n",
    "folded trailer": b"5\r\nhello\r\n0\r\nA: b\r\n c\r\n\r\n",
    "long trailer": b"0\r\nA: " + b"b" * 20_000 + b"\r\n\r\n",
    "many trailers": b"0\r\n" + b"A: b\r\n" * 200 + b"\r\n",
}

#: What is right, however strange it looks.
GOOD = {
    **{
        name: head + (b"0\r\n\r\n" if b"chunked" in head.lower() else b"")
        for name, head in GOOD_REQUESTS.items()
        if name != "longest length"
    },
    "request in a counted body": request(b"Content-Length: %d" % len(SMUGGLED)) + SMUGGLED,
    "request in the body of a GET": request(b"Content-Length: %d" % len(SMUGGLED), line=b"GET /x HTTP/1.1") + SMUGGLED,
    "request in the body of HTTP/1.0": request(b"Content-Length: %d" % len(SMUGGLED), line=b"POST / HTTP/1.0")
    + SMUGGLED,
    "whitespace around a length": request(b"Content-Length: \t5 \t") + b"hello",
    "absolute-form for another host": request(line=b"GET http://b.example/x HTTP/1.1"),
    "line ends in the target, encoded": request(line=b"GET /a%0d%0aB:%20c HTTP/1.1"),
    "two line ends before": b"\r\n\r\n" + request(),
    "request in a chunk": CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED),
    "request in many chunks": CHUNKED + b"".join(b"1\r\n%c\r\n" % byte for byte in SMUGGLED) + b"0\r\n\r\n",
    "capital hexadecimal": CHUNKED + b"A\r\n0123456789\r\n000\r\n\r\n",
    "extension": CHUNKED + b'5;a="b\\"c";d\r\nhello\r\n0;e\r\n\r\n',
    "trailer": CHUNKED + b"5\r\nhello\r\n0\r\nX-Sum: 1\r\nTransfer-Encoding-Not: x\r\n\r\n",
    "upgrade to another version": request(
        b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMA", line=b"GET / HTTP/1.1"
    ),
}


@pytest.mark.parametrize(
    ("head", "status"),
    [(head, status) for name, (head, status, _) in BAD_REQUESTS.items() if name != "nothing"],
    ids=[name for name in BAD_REQUESTS if name != "nothing"],
)
async def test_a_head_is_refused(starter: Starter, head: bytes, status: int) -> None:
    """The status, a connection that closes, and an upstream that hears of nothing, least of all of what came behind."""
    rig = await starter()
    client = await rig.client(head + b"hello" + SMUGGLED)
    answer = await client.answer()
    assert (answer.status, answer.get(b"connection"), answer.complete) == (status, b"close", True)
    assert await client.rest() == b""
    assert rig.upstream.nobody_waits()


@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES)
async def test_a_body_is_refused(starter: Starter, body: bytes) -> None:
    """A body in chunks goes out as it comes in; one that breaks is never ended, and what is behind it is no request."""
    rig = await starter()
    client = await rig.client(CHUNKED + body + SMUGGLED)
    forwarded = await (await rig.accept()).rest()
    answer = await client.answer()
    assert (answer.status, answer.get(b"connection")) == (400, b"close")
    assert await client.rest() == b""
    with pytest.raises(Unfinished):
        read(forwarded)
    assert b"smuggled" not in forwarded
    assert rig.upstream.nobody_waits()


class Unfinished(Exception):
    """The bytes are no whole request."""


@attrs.frozen
class Asked:
    """What a request says, wherever it says it."""

    method: bytes
    target: bytes
    host: bytes | None
    body: bytes


def read(sent: bytes) -> tuple[Asked, bytes]:
    """The request in ``sent`` as h11 reads it, and what is behind it."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(sent.lstrip(b"\r\n"))  # h11 does not ignore what RFC 9112, section 2.2, has it ignore
    head, body = connection.next_event(), b""
    assert isinstance(head, h11.Request)
    while not isinstance(event := connection.next_event(), h11.EndOfMessage):
        if not isinstance(event, h11.Data):
            raise Unfinished
        body += event.data
    target, host = bytes(head.target), dict(head.headers).get(b"host")
    authority, rest = split_absolute(target) or (host, target)
    return Asked(bytes(head.method), rest, authority, body), connection.trailing_data[0]


def seen(one: ReceivedRequest) -> Asked:
    """A request as it came out of the proxy, which has put its own Host in the place of the client's."""
    assert not {"content-length", "transfer-encoding"} <= dict(one.headers).keys()
    host = (one.get("x-forwarded-host") or "").encode() or None
    return Asked(one.method.encode(), one.target.encode(), host, one.body)


@pytest.mark.parametrize("cut", [None, 1], ids=["whole", "byte by byte"])
async def test_what_is_let_through_is_what_h11_reads(starter: Starter, cut: int | None) -> None:
    """As many requests as answers, in order, and each asks for what h11 reads; however it was cut on its way."""
    behind = request(line=b"GET /behind HTTP/1.1")
    async with open_upstream("head length type=text/plain\ndata ok\nend") as upstream:
        rig = await starter(origin=Origin.parse(upstream.url))
        for name, good in GOOD.items():
            if cut and len(good) > 1000:
                continue
            asked, rest = read(good)
            assert rest == b"", name
            upstream.requests.clear()
            client = await rig.client()
            for piece in cuts(good + behind, cut or len(good + behind)):
                await client.send(piece)
            answer = await client.answer(asked.method)
            expected = [asked]
            if answer.get(b"connection") != b"close":
                expected.append(read(behind)[0])
                assert (await client.answer()).complete, name
                await client.finish()
            assert await client.rest() == b"", name
            for _ in expected:
                await rig.line()
            assert [seen(one) for one in upstream.requests] == expected, name


Count: TypeAlias = Callable[[], Awaitable[int]]


@attrs.frozen
class Behind:
    """A server behind the proxy, and how many requests it has seen so far."""

    port: int
    count: Count


def free_port() -> int:
    """A port that nobody uses now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@asynccontextmanager
async def run_h11(folder: Path) -> AsyncIterator[Behind]:
    """The scripted upstream, which reads as h11 does."""
    async with open_upstream("head length type=text/plain\ndata ok\nend") as upstream:

        async def count() -> int:
            return len(upstream.requests)

        yield Behind(int(upstream.url.rpartition(":")[2]), count)


@asynccontextmanager
async def _run(command: list[str], port: int, errors: Path) -> AsyncIterator[None]:
    with errors.open("wb") as file:
        process = await trio.lowlevel.open_process(command, stdout=file, stderr=file)
    try:
        with trio.fail_after(10):
            while True:
                try:
                    await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
                    break
                except OSError:
                    assert process.poll() is None, f"it did not start: see {errors}"
                    await trio.lowlevel.checkpoint()
        yield
    finally:
        process.terminate()
        with trio.CancelScope(shield=True):
            await process.wait()


_NGINX = """
daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;
events {{}}
http {{
    log_format all '$request_method $uri'; access_log {folder}/access.log all;
    client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
    uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
    server {{ listen 127.0.0.1:{port}; location / {{ return 200 ok; }} }}
}}
"""


@asynccontextmanager
async def run_nginx(folder: Path) -> AsyncIterator[Behind]:
    """nginx; each request is a line of its log, those that it refuses, too."""
    port = free_port()
    (folder / "nginx.conf").write_text(_NGINX.format(folder=folder, port=port))
    log = folder / "access.log"

    async def count() -> int:
        return len(log.read_text().splitlines())

    command = [found("nginx"), "-p", str(folder), "-c", str(folder / "nginx.conf")]
    async with _run(command, port, folder / "errors"):
        yield Behind(port, count)


_HAPROXY = """
global
    stats socket {folder}/stats
defaults
    mode http
    option http-ignore-probes
    timeout client 10s
    timeout server 10s
    timeout connect 10s
frontend all
    bind 127.0.0.1:{port}
    http-request return status 200 content-type text/plain string ok
"""


@asynccontextmanager
async def run_haproxy(folder: Path) -> AsyncIterator[Behind]:
    """HAProxy, and what it counts."""
    port = free_port()
    (folder / "haproxy.cfg").write_text(_HAPROXY.format(folder=folder, port=port))

    async def count() -> int:
        async with await trio.open_unix_socket(str(folder / "stats")) as stats:
            await stats.send_all(b"show stat\n")
            said = b""
            async for data in stats:
                said += data
        names, *rows = said.decode().removeprefix("# ").splitlines()
        at = names.split(",").index("req_tot")
        return next(int(row.split(",")[at]) for row in rows if row.startswith("all,FRONTEND"))

    async with _run([found("haproxy"), "-db", "-f", str(folder / "haproxy.cfg")], port, folder / "errors"):
        yield Behind(port, count)


def found(program: str) -> str:
    """Where it is. Without it a person's run skips; CI installs it, and must not."""
    path = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin")
    if path is None:
        if "CI" in os.environ:
            pytest.fail(f"{program} is not installed, and this is CI")
        pytest.skip(f"{program} is not installed; Debian has it in a package of that name")
    return path


SERVERS: dict[str, Callable[[Path], AbstractAsyncContextManager[Behind]]] = {
    "h11": run_h11,
    "nginx": run_nginx,
    "haproxy": run_haproxy,
}


@pytest.mark.parametrize("run", SERVERS.values(), ids=SERVERS)
async def test_what_is_let_through_is_one_request(
    starter: Starter, tmp_path: Path, run: Callable[[Path], AbstractAsyncContextManager[Behind]]
) -> None:
    """Each request is one for the server behind, and one answer comes back."""
    async with run(tmp_path) as behind:
        rig = await starter(origin=Origin("http", "127.0.0.1", behind.port))
        for number, (name, sent) in enumerate(GOOD.items(), 1):
            client = await rig.client(sent)
            with patience() as scope:
                answer = await client.answer(sent.split()[0])
            assert not scope.cancelled_caught, name
            assert answer.complete, name
            assert client.buffer == b"", name
            assert (await rig.line())["verdict"] in ("complete", "upstream_error"), name
            # The log of nginx is written behind the answer.
            with patience():
                while await behind.count() < number:
                    await trio.lowlevel.checkpoint()
            assert await behind.count() == number, name
            client.close()


@pytest.mark.parametrize("run", SERVERS.values(), ids=SERVERS)
async def test_what_breaks_on_its_way_is_no_more_than_one_request(
    starter: Starter, tmp_path: Path, run: Callable[[Path], AbstractAsyncContextManager[Behind]]
) -> None:
    """A body that breaks behind its head, which has gone out by then, is for no server the beginning of another."""
    async with run(tmp_path) as behind:
        rig = await starter(origin=Origin("http", "127.0.0.1", behind.port))
        for body in BAD_BODIES.values():
            client = await rig.client(CHUNKED + body + SMUGGLED)
            await client.rest()
            await rig.line()
        last = await rig.client(request(b"Connection: close", line=b"GET /last HTTP/1.1"))
        assert (await last.answer()).body == b"ok"
        assert await behind.count() <= len(BAD_BODIES) + 1
