"""Which fields are secrets, and what becomes of those that a client sent for us."""

from __future__ import annotations

import re
import urllib.parse
from typing import Literal, TypeAlias

from .. import ConfigurationError
from ..http import Headers, Request
from ..resilience import Secret

#: A field with a key: its name and its value.
Credential: TypeAlias = tuple[bytes, bytes]

_KEY = re.compile(r"[\x21-\x7e]+")

#: With these, the best first, a client asks an API for something on its own account.
_KEYS = (b"x-api-key", b"api-key", b"x-goog-api-key", b"authorization")

#: What says who a client is, or whose account pays.
_CREDENTIALS = frozenset(
    {
        *_KEYS,
        b"cookie",
        b"proxy-authorization",
        b"anthropic-workspace-id",
        b"chatgpt-account-id",
        b"ocp-apim-subscription-key",
        b"openai-organization",
        b"openai-project",
        b"x-goog-user-project",
    }
)
_CREDENTIAL_ENDS = (b"api-key", b"apikey", b"authorization", b"auth-token", b"access-token", b"security-token")

#: The same in a query.
_PARAMETERS = frozenset(
    {
        b"key",
        b"token",
        b"api-key",
        b"apikey",
        b"x-api-key",
        b"x-goog-api-key",
        b"access-token",
        b"auth-token",
        b"authorization",
        b"subscription-key",
    }
)

#: And among the protocols that a WebSocket is opened with: a browser's can have no fields.
_PROTOCOLS = (b"openai-insecure-api-key.", b"openai-organization.", b"openai-project.")


def as_field(key: Secret, where: Literal["authorization", "x-api-key"]) -> Credential:
    """The field with a key: ``Authorization: Bearer`` as OpenAI and most others want it, or Anthropic's ``X-Api-Key``.

    Raises:
        ConfigurationError: the key has a character that no key has: a space, a line end, anything beyond ASCII.
    """
    value = key.reveal()
    if _KEY.fullmatch(value) is None:
        raise ConfigurationError("a key must be printable ASCII without spaces, and not empty")
    return (
        (b"Authorization", b"Bearer " + value.encode()) if where == "authorization" else (b"X-Api-Key", value.encode())
    )


def brings_key(headers: Headers) -> bool:
    """Whether a client has sent a key of its own, in a field."""
    return any(_holds_key(*field) for field in headers)


def _holds_key(name: bytes, value: bytes) -> bool:
    return name in _KEYS and value.lower() not in (b"", b"bearer")


def passes(request: Request, credential: object | None, pass_credentials: bool) -> bool:
    """Whether what a client sent for us goes on to an upstream that we have ``credential`` for.

    It does where that is wanted, unless there is a key of ours and none of the client's.
    """
    return pass_credentials and (credential is None or brings_key(request.headers))


def one_key(headers: Headers) -> Headers:
    """Fields with the best of the keys in them, and no other."""
    names = {name for name, value in headers if _holds_key(name, value)}
    best = next((name for name in _KEYS if name in names), None)
    return tuple(field for field in headers if field[0] == best or field[0] not in _KEYS)


def without_credentials(headers: Headers) -> Headers:
    """Fields without those that a client sent for us."""
    kept = ((name, _real_protocols(value) if name == b"sec-websocket-protocol" else value) for name, value in headers)
    return tuple(field for field in kept if not _is_clients(*field))


def _is_clients(name: bytes, value: bytes) -> bool:
    if name == b"sec-websocket-protocol":
        return not value  # there was nothing but secrets
    name = name.replace(b"_", b"-")
    return name in _CREDENTIALS or name.endswith(_CREDENTIAL_ENDS)


def _real_protocols(value: bytes) -> bytes:
    protocols = [one.strip() for one in value.split(b",")]
    return b", ".join(one for one in protocols if not one.lower().startswith(_PROTOCOLS))


def without_keys(target: bytes) -> bytes:
    """A path and query without the parameters that are keys; all else stays as it was written."""
    path, mark, query = target.partition(b"?")
    kept = [parameter for parameter in query.split(b"&") if not _is_key(parameter)]
    return path + mark + b"&".join(kept) if kept else path


def _is_key(parameter: bytes) -> bool:
    name = urllib.parse.unquote_to_bytes(parameter.partition(b"=")[0].replace(b"+", b" "))
    return name.strip().lower().replace(b"_", b"-") in _PARAMETERS
