"""No fault of an upstream is silent for any client, and the page about it has a row for each."""

from __future__ import annotations

import pytest

pytest.importorskip("anthropic", reason="the anthropic SDK is not installed; `make interop` installs it")
pytest.importorskip("httpx_sse", reason="httpx-sse is not installed; `make interop` installs it")
pytest.importorskip("openai", reason="the openai SDK is not installed; `make interop` installs it")

from .faults import CLIENTS, FAULTS, PAGE, SILENT, ask, places

pytestmark = [
    pytest.mark.interop,
    # The async generators of a stream that raised are closed by nobody; see test_openai.py.
    pytest.mark.filterwarnings(r"ignore:Async generator ':ResourceWarning"),
]


@pytest.mark.parametrize("name", CLIENTS)
async def test_no_fault_is_silent(name: str) -> None:
    """Through the proxy each client notices each fault, and takes for complete what is."""
    async with places() as (_, through):
        said = {fault: await ask(CLIENTS[name], through, fault) for fault in FAULTS}
    assert said.pop("complete") == SILENT
    assert {fault: what for fault, what in said.items() if what in (SILENT, "waits for ever")} == {}


def test_the_page_has_each_fault_and_each_client() -> None:
    """It was written by the command, and not by hand; a new fault is not forgotten."""
    through, directly = PAGE.read_text(encoding="utf-8").partition("## Directly")[::2]
    for half in (through, directly):
        rows = [line for line in half.splitlines() if line.startswith("|")]
        assert [name for name in CLIENTS if name not in rows[0]] == []
        assert [row.partition("(`")[2].partition("`)")[0] for row in rows[2:]] == list(FAULTS)
