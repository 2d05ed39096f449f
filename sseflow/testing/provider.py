"""``python -m sseflow.testing.provider``: a provider of a model that is none."""

from __future__ import annotations

import argparse
import contextlib
import sys

import trio

from ._provider import Answer, FakeProvider
from ._upstream import serve_until_signalled


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m sseflow.testing.provider",
        description="Answer as a provider of models does, with a text of your own: to try what stands in front of one.",
        epilog="Exit status: 0 after Ctrl-C or SIGTERM, 1 if it cannot listen, 2 if the command line is wrong.",
    )
    kinds = ["openai", "anthropic", "openrouter", "sse"]
    parser.add_argument("kind", choices=kinds, help="as which provider it speaks")
    parser.add_argument("--listen", default="127.0.0.1:8001", metavar="HOST:PORT", help="(default: %(default)s)")
    parser.add_argument("--key", action="append", metavar="KEY", help="serve this key, and no others; may be repeated")
    parser.add_argument("--text", default=Answer().text, help="what the model says (default: %(default)s)")
    pace = "before each word (default: %(default)s)"
    parser.add_argument("--pace", type=float, default=0.05, metavar="SECONDS", help=pace)
    options = parser.parse_args(arguments)
    provider = FakeProvider(options.kind, keys=options.key, default=Answer(text=options.text, pace=options.pace))
    if wrong := trio.run(serve_until_signalled, provider, options.listen):
        print(f"{parser.prog}: {wrong}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
