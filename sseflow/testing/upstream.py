"""``python -m sseflow.testing.upstream``: an upstream that misbehaves as a script says."""

from __future__ import annotations

import argparse
import contextlib
import re
import ssl
import sys
from pathlib import Path

import trio

from .._errors import ConfigurationError
from ._script import Script
from ._scripts import SCRIPTS
from ._upstream import ScriptedUpstream, serve_until_signalled

_EPILOG = """\
A script has one step a line:

    head 200 'X-Name: value'
    token Hello
    wait 0.5
    cut

Every step is in docs/reference/faulty-upstream.md. Exit status: 0 after Ctrl-C or SIGTERM, 1 if it cannot listen,
2 if the script or the command line is wrong.
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m sseflow.testing.upstream",
        description="Play a script to each client: an HTTP/1.1 upstream that stalls, cuts, resets and lies at will.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("script", nargs="?", metavar="SCRIPT", help="a file with a script; - is standard input")
    what.add_argument("--inline", metavar="STEPS", help="the script itself, with ; between the steps")
    what.add_argument("--fault", choices=sorted(SCRIPTS), metavar="NAME", help="a script that comes with it")
    what.add_argument("--list", action="store_true", help="print the names and the scripts of all faults")
    parser.add_argument("--listen", default="127.0.0.1:8001", metavar="HOST:PORT", help="(default: %(default)s)")
    framings = ["chunked", "length", "close"]
    parser.add_argument("--framing", choices=framings, default="chunked", help="(default: %(default)s)")
    parser.add_argument("--tls-cert", metavar="FILE", help="serve TLS with this certificate chain")
    parser.add_argument("--tls-key", metavar="FILE", help="its key, if that is not in the same file")
    options = parser.parse_args(arguments)
    if options.list:
        print("\n".join(f"== {name}\n{text}" for name, text in SCRIPTS.items()), end="")
        return 0
    try:
        script = Script.parse(_text(options))
        tls = _tls(options.tls_cert, options.tls_key)
    except (ConfigurationError, OSError, ssl.SSLError) as error:
        print(f"{parser.prog}: {options.script or options.inline or options.fault}:\n{error}", file=sys.stderr)
        return 2
    wrong = trio.run(serve_until_signalled, ScriptedUpstream(script, tls=tls, framing=options.framing), options.listen)
    if wrong is not None:
        print(f"{parser.prog}: {wrong}", file=sys.stderr)
        return 1
    return 0


def _text(options: argparse.Namespace) -> str:
    if options.fault is not None:
        return SCRIPTS[options.fault]
    if options.inline is not None:
        return re.sub(r"; *", "\n", options.inline)
    return sys.stdin.read() if options.script == "-" else Path(options.script).read_text(encoding="utf-8")


def _tls(certificate: str | None, key: str | None) -> ssl.SSLContext | None:
    if certificate is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    return context


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
