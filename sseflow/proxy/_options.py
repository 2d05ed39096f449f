"""What the options of a configuration file are: how each kind of value is written, read and shown.

Nothing here repeats a value in a message: it may be a secret that was put in the wrong place.
"""

from __future__ import annotations

import difflib
import ipaddress
import math
import re
import urllib.parse
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Generic, Literal, TypeAlias, TypeVar, cast

import attrs

from .. import ConfigurationError
from ..http import CODINGS, Address, Encoder, Origin

T = TypeVar("T")

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

#: Names of tables and options, and indices, from the root of a file to something in it.
Steps: TypeAlias = tuple[str | int, ...]

MAX_SECONDS = 3650 * 86400
MAX_SIZE = 1 << 50
MAX_COUNT = 1 << 31

_TEXT = re.compile(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")
_PATH = re.compile(r"(?:/[A-Za-z0-9._~-]+)+")
_HOST = re.compile(r"(?:[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?|\[[0-9A-Fa-f:.]+\])")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_QUANTITY = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?([A-Za-z]+)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


class Wrong(ValueError):
    """A value is not what it has to be.

    Args:
        message: what is wrong with it; never the value.
        right: what would be right.
        at: where in the value, if it has parts.
    """

    def __init__(self, message: str, right: str = "", *, at: Steps = ()) -> None:
        super().__init__(message)
        self.message = message
        self.right = right
        self.at = at


@attrs.frozen
class Kind(Generic[T]):
    """How an option is written and read."""

    name: str
    """As the reference calls it."""

    read: Callable[[object], T]
    """Raises `Wrong`, or a group of it."""

    show: Callable[[Any], str] = str
    """A default, as one would write it in a file."""


def option(default: T, kind: Kind[Any], help: str, *, shown: str | None = None, restart: bool = False) -> T:
    """A field that is an option.

    Args:
        shown: what the reference says instead of the default.
        restart: whether a change needs a new process.
    """
    metadata = {"kind": kind, "help": help, "shown": shown, "restart": restart}
    found: T = attrs.field(default=default, metadata=metadata)
    return found


def required(kind: Kind[Any], help: str, *, right: str, shown: str = "required") -> Any:
    """A field that is an option without a default. It is None only while a file is being read.

    Args:
        right: what to write if it is missing.
    """
    metadata = {"kind": kind, "help": help, "shown": shown, "restart": False, "right": right}
    return attrs.field(default=None, metadata=metadata)


def table(cls: type[Any], default: T, *, form: Literal["one", "list", "named"] = "one", restart: bool = False) -> T:
    """A field that is a table of options, a list of them, or one for each name."""
    found: T = attrs.field(default=default, metadata={"table": cls, "form": form, "restart": restart})
    return found


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """What would be right where there is no such name."""
    known = sorted(known)
    close = difflib.get_close_matches(given, known, n=1)
    return f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}" if known else "there are none"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _quantity(value: object, units: Mapping[str, float]) -> float | None:
    """A number, or a text of a number and a unit; None: neither."""
    if _is_number(value):
        return float(cast(float, value)) if abs(cast(float, value)) < 1e300 else math.inf
    found = _QUANTITY.fullmatch(value) if isinstance(value, str) else None
    return float(found[1]) * units[found[2]] if found and found[2] in units else None


def _show_seconds(value: float | None) -> str:
    if not value:
        return "0" if value == 0 else "none"
    unit = next(
        unit
        for unit in ("d", "h", "m", "s", "ms")
        if value / _SECONDS[unit] >= 1 and not (value * 1000) % (_SECONDS[unit] * 1000)
    )
    return f'"{value / _SECONDS[unit]:g}{unit}"'


def _show_size(value: int) -> str:
    unit = next(unit for unit in reversed(_BYTES) if not value % _BYTES[unit])
    return f'"{value // _BYTES[unit]}{unit}"' if unit != "B" else str(value)


def _show_list(value: Iterable[object]) -> str:
    return f"[{', '.join(f'{str(part)!r}' for part in value)}]".replace("'", '"')


def _show_text(value: object) -> str:
    return "none" if value is None else f'"{value}"'


def _duration(*, zero: bool) -> Kind[float]:
    right = f'seconds, or a text like "500ms", "10s", "2m", "1h" or "30d", {"0 or more" if zero else "more than 0"}'

    def read(value: object) -> float:
        seconds = _quantity(value, _SECONDS)
        if seconds is None or not 0 <= seconds < math.inf or not (seconds or zero):
            raise Wrong("is no such duration", right)
        if seconds > MAX_SECONDS:
            raise Wrong("is too long", "at most ten years")
        return seconds

    return Kind("duration", read, _show_seconds)


#: Seconds, 0 for none.
DURATION = _duration(zero=True)

#: Seconds, more than 0.
SOME_TIME = _duration(zero=False)


def _read_size(value: object) -> int:
    size = _quantity(value, _BYTES)
    if size is None or not 1 <= size < math.inf or size != int(size) or isinstance(value, float):
        raise Wrong("is no size", 'bytes, or a text like "64KiB", "4MiB" or "1GiB", 1 byte or more')
    if size > MAX_SIZE:
        raise Wrong("is too big", "at most 1024TiB")
    return int(size)


#: Bytes.
SIZE = Kind("size", _read_size, _show_size)


def count(least: int = 1, most: int = MAX_COUNT, name: str = "number") -> Kind[int]:
    """A whole number."""

    def read(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise Wrong("is no such number", f"a whole number from {least} to {most}")
        return value

    return Kind(name, read)


def _read_share(value: object) -> float:
    if not _is_number(value) or not 0 <= cast(float, value) <= 1:
        raise Wrong("is no share", "a number from 0 to 1")
    return float(cast(float, value))


#: From 0 to 1.
SHARE = Kind("share", _read_share, lambda value: f"{value:g}")


def _read_flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise Wrong("is neither true nor false", "true or false, without quotes")
    return value


FLAG = Kind("true or false", _read_flag, lambda value: str(value).lower())


def choice(*names: str) -> Kind[str]:
    """One of several words."""

    def read(value: object) -> str:
        if not isinstance(value, str) or value not in names:
            all = "one of " + ", ".join(names)
            close = difflib.get_close_matches(value, names, n=1) if isinstance(value, str) else []
            raise Wrong(f"must be {all}", f"did you mean {close[0]}?" if close else all)
        return value

    return Kind(" or ".join(f"`{name}`" for name in names), read, _show_text)


def _read_text(value: object) -> str:
    if not isinstance(value, str) or _TEXT.fullmatch(value) is None or value != value.strip():
        raise Wrong("is no text", "a text that is not empty, without line ends and other controls")
    return value


def _read_path(value: object) -> Path:
    return Path(_read_text(value))


#: Of a file; what is relative is so to the folder of the configuration.
FILE = Kind("path", _read_path, _show_text)


def _read_address(value: object) -> Address:
    wrong = Wrong("is no address", "like 127.0.0.1:8080, [::1]:8080 or unix:/run/sseflow.sock")
    try:
        address = Address.parse(_read_text(value))
    except ConfigurationError:
        raise wrong from None
    if address.path is None and _HOST.fullmatch(f"[{address.host}]" if ":" in address.host else address.host) is None:
        raise wrong
    return address


ADDRESS = Kind("address", _read_address, _show_text)


def _read_base_url(value: object) -> str:
    text = _read_text(value).rstrip("/")
    right = "like https://api.example.com/v1, http://127.0.0.1:8000 or unix:/run/vllm.sock"
    if "@" in text and not text.startswith("unix:"):
        raise Wrong("has a user name", f"without one: keys belong in keys; {right}")
    # Whatever urlsplit would take away, mend or guess at, is no URL to us.
    if not text.isascii() or set(text) & set(' "<>\\^`{|}'):
        raise Wrong("has characters that a URL has not", right)
    try:
        origin = Origin.parse(text)
    except ConfigurationError:
        raise Wrong("is no URL of an API", f"without query and fragment, {right}") from None
    if any(part in (".", "..") for part in urllib.parse.unquote(origin.prefix).split("/")):
        raise Wrong("has dots for a folder in its path", right)
    return text


#: Of an API.
BASE_URL = Kind("URL", _read_base_url, _show_text)


def _read_route_path(value: object) -> str:
    if value == "/":
        return ""
    if not isinstance(value, str) or _PATH.fullmatch(value) is None or {".", ".."} & set(value.split("/")):
        raise Wrong("is no path", 'like "/openai", of letters, digits, and - . _ ~, without a slash at the end')
    if value == "/-" or value.startswith("/-/"):
        raise Wrong("is where the pages of the proxy itself are", 'anything that does not begin with "/-/"')
    return value


#: What paths begin with; of all paths the empty text.
ROUTE_PATH = Kind("path of a URL", _read_route_path, lambda value: f'"{value or "/"}"')


def listed(name: str, read: Callable[[object], T], *, empty: bool = True) -> Kind[tuple[T, ...]]:
    """A list whose parts are read one by one; every one that is wrong is named."""

    def read_all(value: object) -> tuple[T, ...]:
        if not isinstance(value, list):
            raise Wrong("is no list", 'a list, like ["...", "..."]')
        if not value and not empty:
            raise Wrong("is empty", "at least one")
        found, wrongs = [], []
        for i, part in enumerate(value):
            try:
                found.append(read(part))
            except Wrong as wrong:
                wrongs.append(Wrong(wrong.message, wrong.right, at=(i, *wrong.at)))
        if wrongs:
            raise ExceptionGroup("parts of a list are wrong", wrongs)
        return tuple(found)

    return Kind(name, read_all, _show_list)


def _read_network(value: object) -> Network:
    try:
        return ipaddress.ip_network(_read_text(value))
    except ValueError:
        raise Wrong("is no network", "like 10.0.0.0/8, fd00::/8 or 192.0.2.1, without bits behind the prefix") from None


def _read_trusted(value: object) -> Network | Literal["unix"]:
    return "unix" if value == "unix" else _read_network(value)


NETWORKS = listed("networks", _read_network)
TRUSTED = listed('networks, or `"unix"`', _read_trusted)


def _read_host(value: object) -> bytes:
    if not isinstance(value, str) or _HOST.fullmatch(value) is None:
        raise Wrong("is no name of a host", "like llm.example.com or [::1], without a port")
    return value.lower().encode()


def _read_field(value: object) -> bytes:
    if not isinstance(value, str) or _TOKEN.fullmatch(value) is None:
        raise Wrong("is no name of a field", "like x-checksum")
    return value.lower().encode()


def _as_set(kind: Kind[tuple[T, ...]]) -> Kind[frozenset[T]]:
    return Kind(kind.name, lambda value: frozenset(kind.read(value)), lambda value: _show_list(sorted(value)))


HOSTS = _as_set(listed("names", _read_host))
FIELDS = _as_set(listed("names", _read_field))


def _read_coding(value: object) -> str:
    if not isinstance(value, str) or value not in CODINGS:
        raise Wrong("is no coding that can be made", f"one of {', '.join(CODINGS)}")
    try:
        Encoder(value)
    except ImportError:
        raise Wrong("needs a package that is not there", "pip install 'sseflow[proxy]'") from None
    return value


#: Content codings.
CODINGS_KIND = listed("codings", _read_coding)


def _read_pattern(value: object) -> str:
    text = _read_text(value)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # of what will mean something else one day
            re.compile(text)
    except (re.error, OverflowError, RecursionError, Warning):
        raise Wrong("is no regular expression", "one as Python's re module has it") from None
    return text


PATTERNS = listed("regular expressions", _read_pattern)


@attrs.frozen
class Key:
    """A key, and where it is from. The key is in no repr; equal are those that are the same, from the same place."""

    source: str
    """``env:NAME``, ``file:PATH`` or ``literal``."""

    value: str = attrs.field(default="", repr=False)
    """Empty until it was fetched."""


def _read_secret(value: object) -> Key:
    right = '"env:NAME" for a variable of the environment, or "file:PATH"'
    text = value if isinstance(value, str) else ""
    where, colon, name = text.partition(":")
    if colon and where == "env":
        if _VARIABLE.fullmatch(name) is None:
            raise Wrong("names no variable behind env:", "letters, digits and _; " + right)
        return Key(text)
    if colon and where == "file":
        if _TEXT.fullmatch(name) is None:
            raise Wrong("names no file behind file:", right)
        return Key(text)
    if not text:
        raise Wrong("is no text", right)
    return Key("literal", text)


KEY = Kind("`env:NAME` or `file:PATH`", _read_secret, _show_text)
KEYS = listed("list of `env:NAME` and `file:PATH`", _read_secret, empty=False)


def _read_models(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise Wrong("is no table", 'like {"fast" = "gpt-5-mini"}')
    found, wrongs = {}, []
    for name, model in value.items():
        try:
            found[_read_text(name)] = _read_text(model)
        except Wrong as wrong:
            wrongs.append(Wrong(wrong.message, wrong.right, at=(name,)))
    if wrongs:
        raise ExceptionGroup("names of models are wrong", wrongs)
    return found


MODELS = Kind("table of names", _read_models, lambda value: "{}")


@attrs.frozen
class Share:
    """A provider of a route."""

    provider: str
    weight: int | None = None
    """How often it is asked first, beside the weights of the others; None: they are asked in their order."""


_WEIGHT = count(1, 1000)


def _read_one_upstream(value: object) -> Share:
    if isinstance(value, str):
        return Share(_read_text(value))
    if not isinstance(value, dict) or value.keys() != {"provider", "weight"}:
        raise Wrong("names no provider", '"NAME", or {provider = "NAME", weight = 3}')
    try:
        weight = _WEIGHT.read(value["weight"])
    except Wrong as wrong:
        raise Wrong(wrong.message, wrong.right, at=("weight",)) from None
    return Share(_read_text(value["provider"]), weight)


_SHARES = listed("names of providers", _read_one_upstream, empty=False)


def _read_upstreams(value: object) -> tuple[Share, ...]:
    shares = _SHARES.read(value)
    if len({share.weight is None for share in shares}) > 1:
        raise Wrong("has weights for some only", "a weight for each, or for none: then they are asked in their order")
    return shares


UPSTREAMS = Kind(_SHARES.name, _read_upstreams)


def _read_hedge(value: object) -> float | Literal["p95"] | None:
    if value == "off":
        return None
    if value == "p95":
        return "p95"
    try:
        return SOME_TIME.read(value)
    except Wrong as wrong:
        raise Wrong("is no such duration", '"off", "p95", or ' + wrong.right) from None


HEDGE = Kind('duration, `"p95"` or `"off"`', _read_hedge, lambda value: '"off"')
