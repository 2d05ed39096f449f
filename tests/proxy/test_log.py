"""The log: one line for each exchange, no secret in it, and nothing that anybody sends can break it."""

from __future__ import annotations

import io
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sseflow.http import Origin
from sseflow.proxy._log import MAX_TEXT, make_logger, plain

from .peers import chunked
from .rig import CHAT, DONE, GET, LAST, STOP, STREAM, TOKEN, Rig, Starter

CANARY = b"sk-CANARY-1234"


async def test_one_line_says_what_became_of_an_exchange(rig: Rig) -> None:
    """What an operator asks of a stream is in one line, in the words of the documentation."""
    client, upstream = await rig.reach(CHAT.replace(b"completions", b"completions?x=y"))
    events = chunked(b": hm\n\n", TOKEN, b": hm\n\n" + STOP, DONE)
    await upstream.send(STREAM + events + LAST)
    await client.answer()
    line = await rig.line()
    assert line.keys() == {
        *("timestamp", "level", "event", "id", "peer", "method", "path", "status", "verdict", "ended_by", "committed"),
        *(
            "reason",
            "error",
            "write_error",
            "close_error",
            "upstream",
            "provider",
            "api_key_hint",
            "upstream_status",
            "upstream_content_type",
        ),
        *("calls", "model", "events", "comments", "empty_events", "saw_end", "usage", "keep_alives"),
        *("bytes_in", "bytes_out", "first_byte", "first_data", "duration"),
    }
    assert (line["peer"], line["method"], line["path"]) == ("127.0.0.1", "POST", "/v1/chat/completions")
    assert (line["events"], line["comments"]) == (3, 2)
    assert line["bytes_out"] == len(TOKEN + STOP + DONE)
    assert line["bytes_in"] == line["bytes_out"] + 2 * len(b": hm\n\n")
    assert 0 < line["first_data"] <= line["first_byte"] <= line["duration"]
    assert not rig.log.unread("exchange")


async def test_our_own_answers_are_logged_where_they_say_something(rig: Rig) -> None:
    """Health checks are not: they come every second."""
    client = await rig.client(b"GET /-/health HTTP/1.1\r\nHost: a\r\n\r\n")
    await client.answer()
    assert not rig.log.text


SECRETS = (
    b"Authorization: Bearer " + CANARY,
    b"X-Api-Key: " + CANARY,
    b"Api-Key: " + CANARY,
    b"Cookie: session=" + CANARY,
    b"Proxy-Authorization: Basic " + CANARY,
    b"X-Other: " + CANARY,
)
HEAD = b"POST /v1/chat/completions?key=" + CANARY + b" HTTP/1.1\r\nHost: a\r\n" + b"\r\n".join(SECRETS) + b"\r\n"
BODY = b'{"api_key": "%s"}' % CANARY
SECRET_REQUEST = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY

REPLIES = {
    "a stream": STREAM + chunked(TOKEN, STOP, DONE) + LAST,
    "a stream that breaks off": STREAM + chunked(TOKEN),
    "nothing": b"",
    "garbage": b"HTTP/1.1 200 OK\r\nSet-Cookie: " + CANARY + b"\x00\r\n\r\n",
    "a phrase": b"HTTP/1.1 500 " + CANARY + b"\r\nContent-Length: 0\r\n\r\n",
    "a bad chunk": STREAM + CANARY + b"\r\n",
    "a bad length": b"HTTP/1.1 200 OK\r\nContent-Length: " + CANARY + b"\r\n\r\n",
    "an error event": STREAM + chunked(TOKEN, b'data: {"error":{"message":"%s"}}\n\n' % CANARY) + LAST,
}


@pytest.mark.parametrize("reply", REPLIES.values(), ids=REPLIES)
async def test_no_secret_is_logged(rig: Rig, reply: bytes) -> None:
    """What a client or an upstream sends is in no line, and in no error body (T05)."""
    client, upstream = await rig.reach_head(SECRET_REQUEST)
    assert CANARY in upstream.head.target
    assert await upstream.exactly(len(BODY)) == BODY
    await upstream.send(reply)
    await upstream.finish()
    answer = await client.answer()
    if answer.status in (502, 504):
        assert CANARY not in answer.raw
    await rig.line()
    assert CANARY.decode() not in rig.log.text


BROKEN = {
    "a NUL": (b"\r\n\r\n", b"\x00\r\n\r\n"),
    "a bare LF": (b"\r\nCookie", b"\nCookie"),
    "a space before the colon": (b"Api-Key:", b"Api-Key :"),
    "folded": (b"Cookie: ", b"Cookie:\r\n "),
    "no colon": (b"Cookie: ", b"Cookie "),
    "twin": (b"X-Api-Key", b"X_Api_Key"),
    "target": (b"?key=", b"?#key="),
    "user in the host": (b"Host: a", b"Host: " + CANARY + b"@a"),
    "method": (b"POST", CANARY.replace(b"-", b"(")),
    "version": (b"HTTP/1.1", b"HTTP/9.1"),
    "length": (b"Content-Length: ", b"Content-Length: " + CANARY),
    "both framings": (b"Content-Length", b"Transfer-Encoding: " + CANARY + b"\r\nContent-Length"),
    "too long": (b"X-Other: ", b"X-Other: " + b"x" * 20_000),
    "expectation": (b"X-Other: ", b"Expect: "),
    "loop": (b"X-Other: ", b"Connection: cookie\r\nX-Other: "),
}


@pytest.mark.parametrize(("old", "new"), BROKEN.values(), ids=BROKEN)
async def test_what_is_refused_is_not_repeated(rig: Rig, old: bytes, new: bytes) -> None:
    """The words about a bad request hold nothing of it."""
    client = await rig.client(SECRET_REQUEST.replace(old, new, 1))
    raw = await client.rest() if old != b"X-Other: " else (await client.answer()).raw
    assert b"HTTP/1.1 4" in raw or b"HTTP/1.1 505" in raw
    assert CANARY not in raw
    assert "CANARY" not in rig.log.text


async def test_an_unreachable_upstream_keeps_secrets(rig: Rig) -> None:
    """Nor do the words about an upstream that cannot be reached."""
    rig.change(upstream=Origin("http", "127.0.0.1", 1))
    client = await rig.client(SECRET_REQUEST)
    answer = await client.answer()
    assert answer.status == 502
    assert b"127.0.0.1" not in answer.body, "where the upstream is, is nobody's business"
    line = await rig.line()
    assert "127.0.0.1:1" in line["error"]
    assert "CANARY" not in rig.log.text


async def test_what_should_not_happen_is_logged_and_answered(starter: Starter, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure of our own is a 500 without details, a line with them, and no failure of anybody else."""
    monkeypatch.setenv("HTTPS_PROXY", "socks5://me:sk-CANARY@127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    rig = await starter(origin=Origin("https", "a.example", 443))
    client = await rig.client(GET)
    for _ in range(2):
        answer = await client.answer()
        assert (answer.status, answer.complete) == (500, True)
        assert b"Something went wrong" in answer.body
        assert b"proxy" not in answer.body.lower()
        assert (await rig.line())["verdict"] == "internal_error"
        assert "HTTPS_PROXY" in (await rig.log.next("an exchange failed"))["error"]
        await client.send(GET)
    await client.answer()
    await rig.log.next("an exchange failed")
    assert "CANARY" not in rig.log.text


PATHS = {
    "escapes": b"/\x1b[31m".replace(b"\x1b", b"%1b"),
    "a line end, encoded": b"/%0d%0a{}",
    "quotes": b'/"},{"event":"exchange","x":"',
    "very long": b"/" + b"x" * 16_000,
    "percent": b"/%s%(x)s{0}",
}


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
async def test_a_path_cannot_break_a_line(rig: Rig, path: bytes) -> None:
    """Whatever is asked for, one request is one line that can be read (T14)."""
    client, upstream = await rig.reach(GET.replace(b"/x", path))
    await upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    await client.answer()
    line = await rig.line()
    assert rig.log.text.count("\n") == 1
    assert len(line["path"]) <= MAX_TEXT + 3
    assert line["path"].startswith(path[:MAX_TEXT].decode())


@given(st.binary())
@example(b"\x1b[2J\r\n\x00\x7f\x85\xe2\x80\xa8\xff")
def test_plain_is_printable(value: bytes) -> None:
    """A value from outside becomes printable ASCII on one line, of a bounded length."""
    text = plain(value)
    assert text.isascii()
    assert text == "" or text.isprintable()
    assert len(text) <= MAX_TEXT + 3


@pytest.mark.parametrize("json_", [True, False], ids=["json", "text"])
def test_each_form_is_one_line(json_: bool) -> None:
    """Both forms have all that was said, in one line."""
    out = io.StringIO()
    make_logger(out, json=json_).info("exchange", path=plain(b"/\r\n\x1b[31m"), status=200)
    assert out.getvalue().count("\n") == 1
    assert "\x1b" not in out.getvalue()
    assert "200" in out.getvalue()
    if json_:
        assert json.loads(out.getvalue())["path"] == "/\\x0d\\x0a\\x1b[31m"


def test_a_log_that_is_closed_is_silent() -> None:
    """Logging never raises into an exchange."""
    out = io.StringIO()
    log = make_logger(out, json=True)
    out.close()
    log.info("exchange")
