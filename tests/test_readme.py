"""The README's examples are run as a reader would run them, and print what it says they print.

`<!-- run -->` before a python block makes it an example; `<!-- output -->` before a text block, with nothing but prose
between the two, is all that it prints.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import attrs
import pytest

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"

_FENCE = re.compile(r"^(?:<!-- *(?P<mark>run|output) *-->\n+)?^```(?P<language>\S*)\n(?P<text>.*?)^```$", re.M | re.S)
_MARK = re.compile(r"<!-- *(?:run|output) *-->")


@attrs.frozen
class Example:
    """A program of the README, the line it begins at, and what it prints, if the README says so."""

    line: int
    code: str
    output: str | None = None


def examples(text: str) -> list[Example]:
    """Read the marked blocks of a document; a mark that marks nothing is an error, not an example less."""
    found: list[Example] = []
    marks = 0
    for block in _FENCE.finditer(text):
        line = text.count("\n", 0, block.start("text")) + 1
        match block["mark"], block["language"]:
            case None, _:
                continue
            case "run", "python":
                found.append(Example(line, block["text"]))
            case "output", "text" if found and found[-1].output is None:
                found[-1] = attrs.evolve(found[-1], output=block["text"])
            case mark, language:
                raise ValueError(f"line {line}: {mark!r} does not belong to this block ({language!r})")
        marks += 1
    if marks != len(_MARK.findall(text)):
        raise ValueError("a mark stands before no block")
    return found


EXAMPLES = examples(README.read_text(encoding="utf-8")) if README.exists() else []


def test_the_readme_has_an_example() -> None:
    """There is at least one example, and at least one that says what it prints."""
    assert any(example.output is not None for example in EXAMPLES)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: f"line-{example.line}")
def test_the_example_runs(example: Example, tmp_path: Path) -> None:
    """The example ends well, warns of nothing, and prints exactly what the README shows."""
    program = tmp_path / "example.py"
    program.write_text(example.code, encoding="utf-8")
    run = subprocess.run(
        [sys.executable, "-W", "error", program], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert (run.returncode, run.stderr) == (0, "")
    if example.output is not None:
        assert run.stdout == example.output


def test_marks_are_read() -> None:
    """Only what is marked is an example; its output is the marked text block behind it."""
    text = (
        "```python\nno()\n```\n<!-- run -->\n```python\nprint(1)\n```\nprints\n\n<!-- output -->\n\n```text\n1\n```\n"
        "<!-- run -->\n```python\nquiet()\n```\n```text\nnot this\n```\n"
    )
    assert examples(text) == [Example(6, "print(1)\n", "1\n"), Example(17, "quiet()\n")]


@pytest.mark.parametrize(
    "text",
    [
        "<!-- run -->\n\nprose\n",
        "<!-- run -->\nprose\n```python\npass\n```\n",
        "<!-- run -->\n```console\n$ ls\n```\n",
        "<!-- output -->\n```text\n1\n```\n",
        "<!-- run -->\n```python\npass\n```\n<!-- output -->\n```text\n1\n```\n<!-- output -->\n```text\n2\n```\n",
    ],
    ids=["nothing", "prose-between", "wrong-language", "output-of-nothing", "output-twice"],
)
def test_a_lost_mark_is_an_error(text: str) -> None:
    """An example that nobody runs any more must not look like one that passes."""
    with pytest.raises(ValueError, match=r"mark|belong"):
        examples(text)
