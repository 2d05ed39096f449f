"""Which provider a configuration means, how its URLs are joined, and which models a type of provider would spoil."""

from __future__ import annotations

import ipaddress
import re
import urllib.parse
from typing import ClassVar, Literal, TypeAlias

from .. import RequestError

#: How a provider is spoken to, and what it does with the names of models.
ProviderType: TypeAlias = Literal["openai", "openai-compat", "openrouter", "anthropic", "sse"]

BASE_URLS: dict[str, str] = {
    "openai": "https://api.openai.com/v1",
    "openrouter": "https://openrouter.ai/api/v1",
    "anthropic": "https://api.anthropic.com",
}
"""Where providers are that there is only one of."""

NAME_RULE = "lower-case letters and digits, with single hyphens between them, at most 63 characters"
_NAME = re.compile(r"(?=.{1,63}\Z)[a-z0-9]+(?:-[a-z0-9]+)*")
_VERSION = b"/v1"


def is_provider_name(name: str) -> bool:
    """Whether a provider may be called so: it becomes a path, a label and a part of log lines."""
    return _NAME.fullmatch(name) is not None


def join(base: bytes, rest: bytes) -> bytes:
    """The URL, or the path, behind which an API is found, and what a client asks it for, put together.

    Clients put ``/v1`` into what they ask for, or into what they take for the API's base; providers document bases
    with it and without. Where both have it, it is there once.
    """
    base = base.rstrip(b"/")
    if base.endswith(_VERSION) and rest.startswith(_VERSION) and rest[len(_VERSION) :][:1] in (b"", b"/", b"?"):
        rest = rest.removeprefix(_VERSION)
    return base + (rest if rest[:1] in (b"", b"/", b"?") else b"/" + rest)


def host_of(base_url: str) -> str:
    """The host that a URL leads to, in lower case, without port, user name and final dot; empty if there is none.

    A scheme may be missing. An IPv6 address is written as short as it can be, without brackets.
    """
    text = base_url.strip()
    host = _host(text)
    return _host(f"https://{text}") if not host and text and "://" not in text else host


def _host(url: str) -> str:
    try:
        # What is behind a backslash is a path to a browser, and a host to others.
        parts = urllib.parse.urlsplit(url.replace("\\", "/"))
        host = (parts.hostname or "").lower().removesuffix(".")
        return str(ipaddress.IPv6Address(host)) if ":" in host else host
    except ValueError:
        return ""


def looks_like_openrouter(name: str, base_url: str) -> bool:
    """Whether a provider is OpenRouter, by its name or by the host of its base URL."""
    host = host_of(base_url)
    return name.strip().lower() == "openrouter" or host == "openrouter.ai" or host.endswith(".openrouter.ai")


def spoils_model(type: str, name: str, base_url: str, model: str) -> bool:
    """Whether a provider of this type would take the name of a model apart, and call another one.

    What speaks natively to OpenAI takes ``vendor/model`` for a vendor, which it drops, and a model; to OpenRouter the
    whole is the name.
    """
    vendor, _, rest = model.strip().partition("/")
    return type == "openai" and bool(vendor.strip() and rest.strip()) and looks_like_openrouter(name, base_url)


SPOILS = 'type = "openai" drops what is before the slash in the name of a model, and this provider is OpenRouter'
"""What is wrong where `spoils_model`: the type, not the model."""

SPOILS_RIGHT = 'type = "openrouter" (or "openai-compat") keeps the whole name'
"""What would be right then."""


class ModelSpoiled(RequestError):
    """The provider that a request is for would call another model, or none: its type is wrong (400)."""

    kind: ClassVar[str] = "config"
    """It will fail in the same way again, until somebody mends the configuration."""

    retryable: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__(400, f"{SPOILS}; {SPOILS_RIGHT}", close=False)


def check_model(type: str, name: str, base_url: str, model: str) -> None:
    """See that a provider takes the name of a model as it is.

    Raises:
        ModelSpoiled: it does not. The message says which type does, and repeats nothing that the client sent.
    """
    if spoils_model(type, name, base_url, model):
        raise ModelSpoiled
