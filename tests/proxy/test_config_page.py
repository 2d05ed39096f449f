"""The reference of the configuration file says what is so, and its example works."""

from __future__ import annotations

import re
from pathlib import Path

import attrs
import pytest

from sseflow.http import HeadLimits, ServerLimits
from sseflow.proxy._cli import parser
from sseflow.proxy._config import load
from sseflow.proxy._config_page import PAGE, main, page
from sseflow.proxy._tables import (
    BreakerTable,
    Config,
    PolicyTable,
    ProviderTable,
    RetryTable,
    ServerTable,
    options,
    tables,
)

EXAMPLE = PAGE.parent / "sseflow.toml"
ENVIRON = {name: f"key-{name}" for name in re.findall(r"env:(\w+)", EXAMPLE.read_text(encoding="utf-8"))}

#: Options that the command line calls otherwise.
CALLED = {
    "trusted": "trusted",
    "allow_hosts": "allow_host",
    "trailers": "allow_trailer",
    "ca": "upstream_ca",
    "head_timeout": "upstream_head_timeout",
    "write_timeout": "upstream_write_timeout",
}


def _all_tables(table: type) -> list[type]:
    return [table, *(below for field in tables(table) for below in _all_tables(field.metadata["table"]))]


def test_the_page_is_what_the_tables_say() -> None:
    """It was written by `python -m sseflow.proxy._config_page --write`, and nothing has changed since."""
    assert PAGE.read_text(encoding="utf-8") == page()


def test_the_page_is_written_on_demand(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is printed, or goes where it belongs."""
    main([])
    assert capsys.readouterr().out == page()
    monkeypatch.setattr("sseflow.proxy._config_page.PAGE", tmp_path / "page.md")
    main(["--write"])
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == page()


@pytest.mark.parametrize("table", dict.fromkeys(_all_tables(Config)), ids=lambda table: table.__name__)
def test_every_option_is_explained(table: type) -> None:
    """Each option of each table has a row on the page, with a sentence; and stands in the example."""
    example = EXAMPLE.read_text(encoding="utf-8")
    for field in options(table):
        assert re.search(rf"^\| `{field.name}`.*[.!] \|$", page(), re.M), field.name
        assert re.search(rf"^(?:# )?{field.name} = |^\[[a-z.]*{field.name}\]", example, re.M), field.name


def test_the_example_is_right() -> None:
    """It loads without a warning, and where it shows the defaults these are the defaults."""
    config = load(EXAMPLE, ENVIRON)
    assert config.warnings == ()
    assert config.server == ServerTable()
    assert config.policy == PolicyTable()
    assert config.retry == RetryTable()
    assert config.breaker == BreakerTable()
    openai = config.providers["openai"]
    unchanged = [field.name for field in options(ProviderTable) if field.name not in ("type", "base_url", "keys")]
    assert [getattr(openai, name) for name in unchanged] == [
        field.default for field in options(ProviderTable) if field.name in unchanged
    ]


@pytest.mark.parametrize("table", [PolicyTable, ServerTable, ProviderTable], ids=lambda table: table.__name__)
def test_the_command_line_has_the_same_defaults(table: type) -> None:
    """An option that both have is called the same, and is the same if nothing is said."""
    flags = {action.dest: action.default for action in parser()._actions}
    compared = 0
    for field in options(table):
        called = field.name if table is ServerTable else CALLED.get(field.name, field.name)
        called = CALLED[field.name] if field.name in ("allow_hosts", "trailers") else called
        if called in flags:
            assert (flags[called] or 0) == (field.default or 0), field.name
            compared += 1
    assert compared >= 6


def test_the_limits_of_a_connection_are_those_of_the_server() -> None:
    """What is not said is left to the server's own defaults."""
    table, server, heads = ServerTable(), ServerLimits(), HeadLimits()
    assert table.max_request_body == server.max_body
    assert table.max_field == heads.max_line
    same = {field.name for field in attrs.fields(ServerLimits)} & {field.name for field in options(ServerTable)}
    assert {name: getattr(table, name) for name in same} == {name: getattr(server, name) for name in same}
