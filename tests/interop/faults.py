"""What real clients say of each fault of an upstream, directly and through the proxy.

``python -m tests.interop.faults`` tries all, and prints the table; with ``--write`` it goes into
docs/reference/faults.md. The exit status is 1 if a client takes a fault for a complete answer though the proxy stands
in between.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path

import anthropic
import attrs
import httpx
import httpx_sse
import openai
import trio

from sseflow.http import Address, Origin, listen
from sseflow.proxy._app import App
from sseflow.proxy._log import make_logger
from sseflow.testing import SCRIPTS, ScriptedUpstream

from ..proxy.rig import settings_for

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "reference" / "faults.md"
PATIENCE = 3.0
"""Seconds until a client counts as waiting for ever; the proxy's own deadlines are shorter."""

SILENT = "**complete**"
"""What a client says that has noticed nothing."""

#: The faults, with what a person would call them. Where there is nothing wrong, nothing is to be said.
FAULTS: Mapping[str, str] = {
    "complete": "none",
    "no-head": "never answers",
    "close-after-request": "closes without an answer",
    "half-a-head": "closes in the middle of its head",
    "garbage-head": "speaks no HTTP",
    "status-429": "status 429",
    "json-error-with-200": "status 200, and an error in JSON",
    "html-with-200": "status 200, and a page",
    "empty": "an empty stream",
    "only-comments": "a stream of comments",
    "error-first": "an error as the first event",
    "error-event": "an error behind the first token",
    "no-end": "ends cleanly, without its last event",
    "clean-end-in-event": "ends cleanly, inside an event",
    "no-last-chunk": "breaks off between two events",
    "cut-in-event": "breaks off inside an event",
    "reset-in-event": "resets the connection",
    "bad-chunk-size": "breaks its framing",
    "stall": "falls silent",
    "pings-for-ever": "pings for ever",
}
WHOLE = "Hello world"

_START = (
    'named message_start {"type":"message_start","message":{"id":"m","type":"message","role":"assistant","model":"m",'
    '"content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":1,"output_tokens":0}}}\n'
    'named content_block_start {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}\n'
)
_DELTA = (
    'named content_block_delta {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"%s"}}\n'
)
_STOP = (
    'named content_block_stop {"type":"content_block_stop","index":0}\n'
    'named message_delta {"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},'
    '"usage":{"output_tokens":2}}\n'
    'named message_stop {"type":"message_stop"}\n'
)
_ERROR = 'named error {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}\n'


def for_anthropic(script: str) -> str:
    """The same fault in a stream of Anthropic's."""
    out, started = "", False
    for line in script.splitlines():
        name, _, text = line.partition(" ")
        if name in ("token", "stop") and not started:
            out, started = out + _START, True
        match name:
            case "token":
                out += _DELTA % text
            case "stop":
                out += _STOP
            case "done":
                pass
            case "event":
                out += _ERROR
            case _:
                out += line + "\n"
    return out


_PAGE = """<script>
const faults = %s, results = {};
(async () => {
  for (const fault of faults) {
    let text = "";
    try {
      const answer = await fetch("/" + fault + "/v1/chat/completions", {method: "POST", body: '{"stream": true}',
        signal: AbortSignal.timeout(%d)});
      if (!answer.ok) { results[fault] = "status " + answer.status; continue; }
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      for (;;) { const {value, done} = await reader.read(); if (done) break; text += value; }
      results[fault] = text.includes('{"error":') ? "error event" : "SILENT";
    } catch (error) {
      results[fault] = error.name === "TimeoutError" ? "waits for ever"
        : text.includes('{"error":') ? "error event, " + error.name : error.name;
    }
  }
  await fetch("/report", {method: "POST", body: JSON.stringify(results)});
})();
</script>"""


def script() -> str:
    """All faults by their paths, and a page for a browser."""
    sections = ""
    for name in FAULTS:
        text = SCRIPTS[name].replace("hold reset\n", "wait 0.05\n")
        sections += f"on /{name}/v1/chat/completions\n{text}on /{name}/v1/messages\n{for_anthropic(text)}"
    page = (_PAGE % (json.dumps(list(FAULTS)), PATIENCE * 1000)).replace("\n", " ").replace("\\", "\\\\")
    return f"{sections}on /page\nhead length type=text/html\ndata {page}\nend\non /report\nhead 204\n"


@attrs.frozen
class Place:
    """Where a client is pointed at: the upstream itself, or the proxy in front of it."""

    url: str
    upstream: ScriptedUpstream


@contextlib.asynccontextmanager
async def places() -> AsyncIterator[tuple[Place, Place]]:
    """The upstream, and the proxy in front of it with deadlines of a second or less."""
    upstream = ScriptedUpstream(script())
    async with trio.open_nursery() as nursery:
        await nursery.start(upstream.run)
        settings = settings_for(
            Origin.parse(upstream.url),
            upstream_head_timeout=1.0,
            idle_timeout=0.5,
            progress_timeout=1.0,
        )
        listeners = listen(Address("127.0.0.1", 0))
        with open("/dev/null", "w") as nowhere:  # noqa: ASYNC230 - it does not wait
            await nursery.start(App(settings, make_logger(nowhere, json=True)).run, listeners)
            yield Place(upstream.url, upstream), Place(f"http://{listeners[0].address}", upstream)
            nursery.cancel_scope.cancel()


async def with_openai(place: Place, fault: str) -> str:
    """The openai SDK."""
    text = ""
    async with openai.AsyncOpenAI(api_key="k", base_url=f"{place.url}/{fault}/v1", max_retries=0) as api:
        try:
            stream = await api.chat.completions.create(
                model="m", messages=[{"role": "user", "content": "?"}], stream=True
            )
            async for chunk in stream:
                text += "".join(choice.delta.content or "" for choice in chunk.choices)
        except openai.APIStatusError as error:
            return f"{type(error).__name__} {error.status_code}"
        except openai.OpenAIError as error:
            return type(error).__name__
    return SILENT


async def with_anthropic(place: Place, fault: str) -> str:
    """The anthropic SDK."""
    async with anthropic.AsyncAnthropic(api_key="k", base_url=f"{place.url}/{fault}", max_retries=0) as api:
        try:
            async with api.messages.stream(
                model="m", max_tokens=9, messages=[{"role": "user", "content": "?"}]
            ) as stream:
                async for _ in stream.text_stream:
                    pass
                await stream.get_final_message()
        except anthropic.APIStatusError as error:
            return f"{type(error).__name__} {error.status_code}"
        except Exception as error:
            return type(error).__name__
    return SILENT


async def with_httpx_sse(place: Place, fault: str) -> str:
    """httpx with httpx-sse."""
    last = ""
    async with httpx.AsyncClient(timeout=PATIENCE * 2) as client:
        url, body = f"{place.url}/{fault}/v1/chat/completions", {"stream": True}
        try:
            async with httpx_sse.aconnect_sse(client, "POST", url, json=body) as source:
                if source.response.status_code >= 400:
                    return f"status {source.response.status_code}"
                async for event in source.aiter_sse():
                    last = event.data
        except (httpx.HTTPError, httpx_sse.SSEError) as error:
            said = "error event, " if last.startswith('{"error"') else ""
            return said + type(error).__name__
    return "error event" if last.startswith('{"error"') else SILENT


async def with_curl(place: Place, fault: str) -> str:
    """curl, and what a script would look at: its exit status, the status, the text."""
    url = f"{place.url}/{fault}/v1/chat/completions"
    options = ["-sSN", "--max-time", str(PATIENCE), "-w", "\\n%{http_code}", "-d", '{"stream": true}']
    run = await trio.run_process(["curl", *options, url], capture_stdout=True, capture_stderr=True, check=False)
    body, _, status = run.stdout.decode(errors="replace").rpartition("\n")
    if run.returncode == 28:
        return "waits for ever"
    said = [f"status {status}"] if status >= "400" else []
    said += ["error event"] if '{"error":' in body and not said else []
    said += [f"exit {run.returncode}"] if run.returncode else []
    return ", ".join(said) or SILENT


Client = Callable[[Place, str], Awaitable[str]]

CLIENTS: Mapping[str, Client] = {
    "curl": with_curl,
    "openai": with_openai,
    "anthropic": with_anthropic,
    "httpx-sse": with_httpx_sse,
}


async def ask(client: Client, place: Place, fault: str) -> str:
    """What one client says of one fault."""
    with trio.move_on_after(PATIENCE):
        return await client(place, fault)
    return "waits for ever"


def chromium() -> str | None:
    """Where the browser is."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


async def with_chromium(place: Place) -> dict[str, str]:
    """A page that fetches all of them, one after the other, and reports."""
    program = chromium()
    assert program is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [program, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"]
        command += ["--disable-background-networking", "--disable-component-update", f"--user-data-dir={profile}"]
        before = len(place.upstream.requests)
        process = await trio.lowlevel.open_process(
            [*command, f"{place.url}/page"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            with trio.fail_after(PATIENCE * len(FAULTS) + 30):
                while not (found := [r for r in place.upstream.requests[before:] if r.target == "/report"]):
                    await place.upstream.arrival(len(place.upstream.requests) + 1)
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
    results: dict[str, str] = json.loads(found[0].body)
    return {fault: said.replace("SILENT", SILENT) for fault, said in results.items()}


async def table(progress: Callable[[str], object]) -> dict[str, dict[str, tuple[str, str]]]:
    """For each fault and client, what it says directly and through the proxy."""
    said: dict[str, dict[str, tuple[str, str]]] = {fault: {} for fault in FAULTS}
    async with places() as (direct, through):
        for name, client in CLIENTS.items():
            progress(name)
            for fault in FAULTS:
                said[fault][name] = (await ask(client, direct, fault), await ask(client, through, fault))
        if chromium() is not None:
            progress("a browser")
            first, second = await with_chromium(direct), await with_chromium(through)
            for fault in FAULTS:
                said[fault]["Chromium, fetch"] = (first[fault], second[fault])
    return said


_INTRO = """# What clients say of a fault

What real clients make of each thing that can go wrong with an upstream: directly, and through sseflow with its default
settings, deadlines apart, which are a second or less here. {silent} is what a client says that has noticed nothing: it
takes what it got for the answer.

The table is written by `python -m tests.interop.faults --write`, with {versions}.
"""


def as_markdown(said: dict[str, dict[str, tuple[str, str]]]) -> str:
    """The page."""
    versions = f"openai {openai.__version__}, anthropic {anthropic.__version__}, httpx {httpx.__version__}"
    lines = [_INTRO.format(silent=SILENT, versions=versions)]
    clients = list(next(iter(said.values())))
    for heading, at in (("Through sseflow", 1), ("Directly", 0)):
        lines += [f"## {heading}\n", f"| the upstream | {' | '.join(clients)} |", "|---" * (len(clients) + 1) + "|"]
        for fault, by_client in said.items():
            cells = " | ".join(by_client[client][at] for client in clients)
            lines.append(f"| {FAULTS[fault]} (`{fault}`) | {cells} |")
        lines.append("")
    return "\n".join(lines)


def silent(said: dict[str, dict[str, tuple[str, str]]]) -> list[str]:
    """Who has noticed nothing, though the proxy stands in between."""
    return [
        f"{client}: {fault}"
        for fault, by_client in said.items()
        for client, (_, through) in by_client.items()
        if (through == SILENT) != (fault == "complete") or through == "waits for ever"
    ]


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name}")
    options = parser.parse_args()
    said = trio.run(table, lambda name: print(name, file=sys.stderr, flush=True))
    page = as_markdown(said)
    if options.write:
        PAGE.write_text(page, encoding="utf-8")
    else:
        print(page)
    for line in (found := silent(said)):
        print(f"silent through sseflow: {line}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
