"""Proxies in Python, on interpreters that ``make peers`` makes: some cannot live with the others' versions."""

from __future__ import annotations

import contextlib
import functools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

from ..bench import Setup
from ..ends import KEY, MODEL
from ..processes import ROOT, Target, free_port, started
from ._peer import Peer, Wiring

SCRIPTS = Path(__file__).parent

VENV = ".venv-peers"
MITMPROXY_VENV = ".venv-peers-mitmproxy"
LITELLM_VENV = ".venv-peers-litellm"

PATIENCE = 120.0
"""Seconds for LiteLLM to listen: it imports for half a minute where the machine is busy."""


def _missing(venv: str, program: str) -> str | None:
    return None if (ROOT / venv / "bin" / program).exists() else f"make {venv}/.installed, or make peers"


#: The command, without its program, that listens on a port in front of a URL; it may write files to a folder.
Command: TypeAlias = Callable[[int, str, Path], Sequence[str]]


@contextlib.contextmanager
def _run(venv: str, program: str, arguments: Command, setup: Setup, wiring: Wiring) -> Iterator[Target]:
    port = free_port()
    with tempfile.TemporaryDirectory(dir=setup.folder) as folder:
        command = [str(ROOT / venv / "bin" / program), *arguments(port, wiring.upstream(setup), Path(folder))]
        with started(
            command,
            cores={setup.cores.subject},
            port=port,
            # What is measured finds its own packages, and LiteLLM asks nobody on the Internet for prices.
            more_environment={"PYTHONPATH": "", "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
            stops_cleanly=False,
            patience=PATIENCE,
        ) as target:
            yield target


def _script(name: str, port: int, upstream: str, folder: Path) -> Sequence[str]:
    return ["-I", str(SCRIPTS / name), str(port), upstream]


def _mitmproxy(port: int, upstream: str, folder: Path) -> Sequence[str]:
    options = ["--mode", f"reverse:{upstream}", "--listen-host", "127.0.0.1", "--listen-port", str(port)]
    return ["-q", *options, "--set", f"confdir={folder}", "-s", str(SCRIPTS / "mitmproxy_addon.py")]


_LITELLM = """\
model_list:
  - model_name: {model}
    litellm_params:
      model: openai/{model}
      api_base: {upstream}/v1
      api_key: benchmark
general_settings:
  master_key: {key}
"""


def _litellm(port: int, upstream: str, folder: Path) -> Sequence[str]:
    config = folder / "config.yaml"
    config.write_text(_LITELLM.format(model=MODEL, upstream=upstream, key=KEY))
    return ["--config", str(config), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]


AIOHTTP = Peer(
    name="aiohttp",
    start=functools.partial(_run, VENV, "python", functools.partial(_script, "aiohttp_proxy.py")),
    missing=functools.partial(_missing, VENV, "python"),
)
STARLETTE = Peer(
    name="starlette",
    start=functools.partial(_run, VENV, "python", functools.partial(_script, "starlette_proxy.py")),
    missing=functools.partial(_missing, VENV, "uvicorn"),
)
MITMPROXY = Peer(
    name="mitmproxy",
    start=functools.partial(_run, MITMPROXY_VENV, "mitmdump", _mitmproxy),
    missing=functools.partial(_missing, MITMPROXY_VENV, "mitmdump"),
    slowness=2,
)
LITELLM = Peer(
    name="litellm",
    start=functools.partial(_run, LITELLM_VENV, "litellm", _litellm),
    missing=functools.partial(_missing, LITELLM_VENV, "litellm"),
    rewrites=True,
    slowness=32,
)
