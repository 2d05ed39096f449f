"""The documentation's examples run, its links lead somewhere, and its tables have a row for everything there is."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest
import trustme

from sseflow import stages
from sseflow.proxy._auth import Tokens
from sseflow.proxy._build import build
from sseflow.proxy._cli import parser
from sseflow.proxy._config import load
from sseflow.proxy._verdict import Verdict

from . import test_readme
from .test_readme import README, ROOT, Example, examples

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
EXAMPLES = [(page, example) for page in PAGES for example in examples(page.read_text(encoding="utf-8"))]

_TOML = re.compile(r"^```toml\n(.*?)^```$", re.M | re.S)
CONFIGURATIONS = [
    (page, text.count("\n", 0, block.start()) + 1, block[1])
    for page in [README, *PAGES]
    for text in [page.read_text(encoding="utf-8")]
    for block in _TOML.finditer(text)
]
A_PROVIDER = '[providers.some]\ntype = "openai-compat"\nbase_url = "http://127.0.0.1:8000"\n'

_LINK = re.compile(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)")


def _name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def _reference(name: str) -> str:
    return (DOCS / "reference" / name).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("page", "example"), EXAMPLES, ids=[f"{_name(page)}-line-{example.line}" for page, example in EXAMPLES]
)
def test_the_example_runs(page: Path, example: Example, tmp_path: Path) -> None:
    """The example ends well, warns of nothing, and prints exactly what the page shows."""
    test_readme.test_the_example_runs(example, tmp_path)


@pytest.mark.parametrize("page", [page for page in PAGES if page.parent.name == "tutorial"], ids=_name)
def test_a_tutorial_shows_what_its_examples_print(page: Path) -> None:
    """Each tutorial has examples, and says of each what it prints: a reader compares."""
    outputs = [example.output for where, example in EXAMPLES if where == page]
    assert outputs
    assert None not in outputs


@pytest.mark.parametrize("page", [README, *PAGES], ids=_name)
def test_links_lead_somewhere(page: Path) -> None:
    """Each link to a file of this repository leads to one."""
    missing = [link for link in _LINK.findall(page.read_text(encoding="utf-8")) if not (page.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize(
    ("page", "text"),
    [(page, text) for page, _, text in CONFIGURATIONS],
    ids=[f"{_name(page)}-line-{line}" for page, line, _ in CONFIGURATIONS],
)
def test_a_configuration_that_is_shown_is_right(page: Path, text: str, tmp_path: Path) -> None:
    """Each block of TOML can be read as it stands: a file of tokens, or a configuration, or a part of one."""
    tokens = tmp_path / "tokens.toml"
    if "[[tokens]]" in text:
        tokens.write_text(text, encoding="utf-8")
        assert len(Tokens.load(tokens))
        return
    text = text.replace("/var/lib/sseflow/history", str(tmp_path))
    file = tmp_path / "sseflow.toml"
    file.write_text(text if "[providers." in text else f"{text}\n{A_PROVIDER}", encoding="utf-8")
    tokens.write_text(f'[[tokens]]\nname = "a"\nsha256 = "{"0" * 64}"\n', encoding="utf-8")
    for name in re.findall('"file:([^"]+)"', text):
        (tmp_path / name).write_text(f"key-in-{name}", encoding="utf-8")
    for name, pem in _certificate().items():
        (tmp_path / name).write_bytes(pem)
    build(load(file, _Environment()))


class _Environment(dict[str, str]):
    """One in which every variable is set, each to something else."""

    def get(self, name: str, default: object = None) -> str:
        return f"key-of-{name}"


@functools.cache
def _certificate() -> dict[str, bytes]:
    """A certificate and its key, under the names that the pages have for them."""
    certificate = trustme.CA().issue_cert("localhost")
    chain = b"".join(pem.bytes() for pem in certificate.cert_chain_pems)
    return {"gateway.pem": chain, "gateway.key": certificate.private_key_pem.bytes()}


def test_every_page_can_be_found() -> None:
    """The index has a link to each page."""
    index = DOCS / "index.md"
    linked = {(DOCS / link).resolve() for link in _LINK.findall(index.read_text(encoding="utf-8"))}
    assert {page for page in PAGES if page != index} <= linked


def test_every_option_is_listed() -> None:
    """The table of options has each of the command line, with its default, and no other."""
    text = _reference("options.md")
    rows = dict(re.findall(r"^\| `(--[a-z0-9-]+)[^`]*` \| ([^|]*?) \|", text, re.M))
    options = {action.option_strings[-1]: action.default for action in parser()._actions}
    assert rows.keys() == options.keys() - {"--help"}
    numbers = {name: default for name, default in options.items() if isinstance(default, int | float)}
    assert numbers.pop("--demo") is False
    assert {name: _number(rows[name]) for name in numbers} == numbers


def _number(text: str) -> float:
    value, _, unit = text.replace(",", "").partition(" ")
    return float(value) * {"": 1, "s": 1, "KiB": 1024, "MiB": 1024 * 1024, "GiB": 1024**3}[unit]


def test_every_verdict_is_listed() -> None:
    """The table of verdicts has each there is, and no other."""
    table = _reference("log.md").partition("\n## Verdicts\n")[2]
    rows = re.findall(r"^\| `([a-z_]+)` \|", table, re.M)
    assert sorted(rows) == sorted(verdict.value for verdict in Verdict)


def test_every_stage_is_listed() -> None:
    """The table of stages has each there is, and no other."""
    rows = re.findall(r"^\| `(\w+)[^`]*` \|", _reference("stages.md").partition("\n## ")[0], re.M)
    assert sorted(rows) == sorted(name for name in stages.__all__ if isinstance(getattr(stages, name), type))
