"""Each error that sseflow writes is raised by the SDK that reads it, and the page about it says so."""

from __future__ import annotations

import pytest

pytest.importorskip("anthropic", reason="the anthropic SDK is not installed; `make interop` installs it")
pytest.importorskip("openai", reason="the openai SDK is not installed; `make interop` installs it")

from sseflow.proxy._words import as_answer

from .errors import CLIENTS, ERRORS, FORMS, PAGE, Client, after, as_tables, ask, before, table

pytestmark = [
    pytest.mark.interop,
    # The async generators of a stream that raised are closed by nobody; see test_openai.py.
    pytest.mark.filterwarnings(r"ignore:Async generator ':ResourceWarning"),
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
async def test_no_client_swallows_an_error(client: Client, form: str) -> None:
    """Whatever the error is, and wherever it comes, the client raises."""
    assert [name for name, error in ERRORS.items() if await ask(client, form, error) is None] == []


@pytest.mark.parametrize("form", [form for form, write in FORMS.items() if write in (before, after)])
@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
async def test_what_is_raised_says_what_happened(client: Client, form: str) -> None:
    """The message is the error's own, and not that of a connection that broke; before the answer, so is the status."""
    for error in ERRORS.values():
        status, said = as_answer(error)
        raised = await ask(client, form, error)
        assert said.message is not None
        assert said.message in f"{raised} {getattr(raised, 'body', '')}"
        if FORMS[form] is before:
            assert getattr(raised, "status_code", None) == status >= 400


async def test_the_page_is_up_to_date() -> None:
    """Its tables are what the SDKs raise now; `make clients` writes them anew."""
    page = PAGE.read_text(encoding="utf-8")
    assert page[page.index("\n## ") + 1 :] == as_tables(await table())
