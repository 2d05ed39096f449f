"""The page of the reference about the configuration file, made of its tables.

``python -m sseflow.proxy._config_page`` prints it; with ``--write`` it goes to docs/reference/configuration.md.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs

from ._tables import (
    AdminTable,
    AuthTable,
    BreakerTable,
    Config,
    HistoryTable,
    ListenerTable,
    LoggingTable,
    PolicyTable,
    ProviderTable,
    RetryTable,
    RouteTable,
    ServerTable,
    options,
    tables,
)

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "configuration.md"

_HEAD = """\
# The configuration file

`python -m sseflow.proxy --config sseflow.toml` reads it, and `python -m sseflow.proxy check sseflow.toml` says all that
is wrong with it, each with its path and what would be right; the exit status is 2 then. There is
[an example with everything](sseflow.toml). This page is written by `python -m sseflow.proxy._config_page --write`.

- A **duration** is a number of seconds, or a text with a unit: `"500ms"`, `"10s"`, `"2m"`, `"1h"`, `"30d"`.
- A **size** is a number of bytes, or a text with a unit: `"64KiB"`, `"4MiB"`, `"1GiB"`.
- A **path** is relative to the folder of the file.
- A **key** is never in the file itself: `env:NAME` is a variable of the environment, `file:PATH` a file that holds
  nothing else. No message and no log repeats a key, or any other value that was found where it should not be.

When the file changes, or a file that it names, or at SIGHUP, it is read anew. A file that is wrong is refused, and what
was there stays. Streams that have begun go on as they began. What is marked with (r) changes with a restart only.

"""
_SECTIONS: tuple[tuple[str, type[Any]], ...] = (
    ("At the top", Config),
    ("[[listeners]]", ListenerTable),
    ("[server]", ServerTable),
    ("[providers.NAME]", ProviderTable),
    ("[[routes]]", RouteTable),
    ("[policy], and [routes.policy] for one route", PolicyTable),
    ("[retry], and [routes.retry] for one route", RetryTable),
    ("[breaker], and [routes.breaker] for one route", BreakerTable),
    ("[auth]", AuthTable),
    ("[admin]", AdminTable),
    ("[history]", HistoryTable),
    ("[logging]", LoggingTable),
)
_ONLY_BEHIND_A_RESTART = {field.metadata["table"] for field in tables(Config) if field.metadata["restart"]}
_FOOT = """\
## Paths and models

What is behind the path of a route goes to the provider's `base_url`: `/openai/v1/chat/completions` becomes
`https://api.openai.com/v1/chat/completions`, whether or not `base_url` ends in `/v1`. Other paths of a provider pass
through untouched.

`type = "openai"` means OpenAI itself, and whoever speaks natively to it takes `vendor/model` for a vendor and a model.
So a provider of this type that is called `openrouter`, or whose host is OpenRouter's, and a model with such a name do
not go together: `check` refuses it, and at run time the request is, with 400. `type = "openrouter"` and
`type = "openai-compat"` keep the whole name.
"""


def page() -> str:
    """The page, in Markdown."""
    return _HEAD + "".join(_section(title, table) for title, table in _SECTIONS) + _FOOT


def _section(title: str, table: type[Any]) -> str:
    heading = f"`{title}`" if title.startswith("[") and "," not in title else _marked(title)
    about = "" if table is Config else inspect.cleandoc(table.__doc__ or "") + "\n\n"
    restart = " (r)" if table in _ONLY_BEHIND_A_RESTART else ""
    rows = "".join(_row(field, restart) for field in options(table))
    return f"## {heading}\n\n{about}| option | is a | default | |\n|---|---|---|---|\n{rows}\n"


def _marked(title: str) -> str:
    return " ".join(f"`{word.strip(',')}`{',' * word.endswith(',')}" if "[" in word else word for word in title.split())


def _row(field: attrs.Attribute[Any], restart: str) -> str:
    about = field.metadata
    mark = " (r)" if about["restart"] else restart
    shown = about["shown"] or _default(field)
    return f"| `{field.name}`{mark} | {about['kind'].name} | {shown} | {about['help']} |\n"


def _default(field: attrs.Attribute[Any]) -> str:
    shown: str = field.metadata["kind"].show(field.default)
    return shown if shown == "none" else f"`{shown}`"


def main(arguments: Sequence[str]) -> None:
    """Print the page, or write it where it belongs."""
    if "--write" in arguments:
        PAGE.write_text(page(), encoding="utf-8")
    else:
        print(page(), end="")


if __name__ == "__main__":
    main(sys.argv[1:])
