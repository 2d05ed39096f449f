"""The race for the commit: an error in JSON, and the head of a stream behind it.

A gateway with a task that writes and another that decides has a moment in which an event was taken off the queue, and
the answer has not begun. An iteration that failed in that moment is answered with a status, and the writer goes on with
its head and its events. Here the state belongs to the task that writes, so there is no such moment.
"""

from __future__ import annotations

import pytest
import trio

from sseflow.proxy._exchange import Exchange

from .memory import Act, check, read_answer, run_exchange
from .peers import chunked
from .rig import DONE, LAST, STOP, STREAM, STREAM_HEAD, TOKEN
from .test_answer import ASK
from .test_exchange_injection import INTERFERE

ERROR = b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 2\r\n\r\n{}"
SECOND_REFUSED: list[Act] = [b"HTTP/1.1 429 Too Many\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"]
SECOND_LOST: list[Act] = ["reset"]


async def a_writer_beside_the_handler(steps: int) -> bytes:
    """What a client gets of such a gateway, if the second iteration fails so many steps behind the first."""
    out = bytearray()
    committed = False
    send, receive = trio.open_memory_channel[bytes](16)

    async def write() -> None:
        nonlocal committed
        async for event in receive:
            await trio.lowlevel.checkpoint()  # off the queue, and the head not written yet
            if not committed:
                out.extend(STREAM)
                committed = True
            out.extend(event)

    async def handle() -> None:
        async with send:
            await send.send(TOKEN)
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            if not committed and not send.statistics().current_buffer_used:
                out.extend(ERROR)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        nursery.start_soon(handle)
    return bytes(out)


async def test_two_tasks_can_answer_twice() -> None:
    """The moment is real: in one order of the tasks or another, there are two answers in one."""
    seen = [await a_writer_beside_the_handler(steps) for _ in range(50) for steps in range(4)]
    assert any(ERROR in out and STREAM in out for out in seen)


async def twice(exchange: Exchange) -> None:
    async with exchange.answer() as answer:
        await answer.relay(await exchange.call(), last=False)
        await answer.relay(await exchange.call(b"again"))


# Whose connection is not used again, so that the second call has one of its own.
_CLOSES = STREAM.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n")
FIRST: dict[str, tuple[list[Act], bool]] = {
    "withheld": ([_CLOSES + chunked(STOP, DONE) + LAST], False),
    "only just begun": ([_CLOSES + chunked(TOKEN), chunked(STOP, DONE) + LAST], True),
    "begun with its end": ([STREAM_HEAD + b"\r\n" + TOKEN + STOP + DONE, "eof"], True),
    "opened in time": ([_CLOSES + chunked(b": a\n\n"), 20.0, chunked(STOP, DONE) + LAST], True),
}


@pytest.mark.parametrize("then", [SECOND_REFUSED, SECOND_LOST], ids=["refused", "lost"])
@pytest.mark.parametrize(("first", "begun"), FIRST.values(), ids=FIRST)
@pytest.mark.parametrize("interfere", [None, "client_sends_ahead", "upstream_resets"])
def test_one_task_answers_once(first: list[Act], begun: bool, then: list[Act], interfere: str | None) -> None:
    """Whatever happens before whichever step: one head, and then either a status or a stream with an error event."""
    at = 0
    while True:
        at += 1
        exchange = run_exchange(
            ASK, first, then, handler=twice, at=at, interfere=None if interfere is None else INTERFERE[interfere]
        )
        check(exchange)
        answer = read_answer(exchange.client)
        heads = bytes(exchange.client.taken).count(b"HTTP/1.1 ")
        assert heads == 1 or (interfere == "client_sends_ahead" and heads == 2 and answer.complete)
        assert (answer.status == 200) == (not answer.complete)
        if interfere is None:
            assert (answer.status == 200) == begun
            return
        if exchange.steps < at:
            return
