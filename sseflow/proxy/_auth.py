"""Who a client is: tokens, of which only the hashes are kept."""

# SHA-256 and no slow hash: a token has 256 bits from the system's generator, so nobody can guess at it, however quickly
# guesses can be tried. A slow hash is for passwords, and would be work that any stranger could have us do.

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import stat
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from .. import ConfigurationError, RequestError
from ..http import Headers

MAX_TOKENS = 1000
"""Tokens in a file. Each is looked at for each request, which takes about a tenth of a millisecond then."""

MAX_FILE = 1024 * 1024
"""Bytes of a file; a token takes 150."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_ROUTE = re.compile(r"/[A-Za-z0-9._~/-]*")
_CARRIERS = frozenset({b"authorization", b"x-api-key", b"api-key"})

NAME_RULE = "letters, digits, '.', '_' and '-', at most 64, and none of the last three first"


class NotAuthenticated(RequestError):
    """A request without a token that is known (401)."""

    headers: Headers = ((b"WWW-Authenticate", b"Bearer"),)
    """Of the answer, beside the usual ones."""

    def __init__(self) -> None:
        super().__init__(401, "this service needs a valid token, where a key for the API would be", close=False)


class NotAllowed(RequestError):
    """A request with a token that is not good for its route (403)."""

    def __init__(self) -> None:
        super().__init__(403, "this token is not good for this route", close=False)


@attrs.frozen
class Identity:
    """Who a client is, as far as its token tells."""

    name: str
    """Of the token, or of several of one owner. What a client stores belongs to this name."""

    routes: frozenset[str] | None = None
    """The prefixes of the routes that the token is good for; None: all."""

    def may_use(self, route: str) -> bool:
        """Whether the token is good for the route with that prefix (as it is configured: never what a client wrote)."""
        return self.routes is None or any(_is_below(route, allowed) for allowed in self.routes)


def _is_below(route: str, allowed: str) -> bool:
    route, allowed = route.rstrip("/") + "/", allowed.rstrip("/") + "/"
    return route.startswith(allowed)


@attrs.frozen
class Tokens:
    """The tokens that clients may have. Nothing of them is in its repr."""

    _known: tuple[tuple[bytes, Identity], ...] = attrs.field(repr=False)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Tokens:
        """Read a file of tokens, each ``[[tokens]]`` with ``name``, ``sha256`` and, if not for all, ``routes``.

        A name may be there several times, so that a token can be changed without a moment in which none is good.

        Raises:
            ConfigurationError: the file cannot be read, or is wrong; the message has a line for each thing that is,
                and no value that was found.
        """
        where = Path(path)
        try:
            with where.open("rb") as file:
                _check_mode(where, file.fileno())
                data = file.read(MAX_FILE + 1)
            if len(data) > MAX_FILE:
                raise ConfigurationError(f"{where}: is longer than {MAX_FILE} bytes")
            content = tomllib.loads(data.decode())
        except OSError as error:
            raise ConfigurationError(f"{where}: cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ConfigurationError(f"{where}: is not UTF-8") from None
        except tomllib.TOMLDecodeError as error:
            raise ConfigurationError(f"{where}: is no TOML: {_place(error)}") from None
        known, problems = _read(content)
        if problems:
            raise ConfigurationError("\n".join(f"{where}: {problem}" for problem in problems))
        return cls(tuple(known))

    def __len__(self) -> int:
        return len(self._known)

    @property
    def routes(self) -> frozenset[str]:
        """The prefixes that tokens name, so that a configuration can check that there are such routes."""
        return frozenset(route for _, identity in self._known for route in identity.routes or ())

    def identify(self, headers: Headers) -> Identity | None:
        """Who has sent a request with these fields; None: nobody that is known.

        The token is where the clients of the APIs put their key: in ``Authorization`` (``Bearer``), ``X-Api-Key`` or
        ``Api-Key``. All tokens are compared, each in constant time, whether or not one was found.

        Raises:
            RequestError: 400, it has two different ones.
        """
        given = {_token(name, value) for name, value in headers if name in _CARRIERS} - {b""}
        if len(given) > 1:
            raise RequestError(400, "the request has two different keys: send one, in one field", close=False)
        digest = hashlib.sha256(given.pop() if given else b"").digest()
        found = None
        for known, identity in self._known:
            if hmac.compare_digest(known, digest):
                found = identity
        return found

    def authenticate(self, headers: Headers, route: str) -> Identity:
        """Who may use the route with that prefix.

        Raises:
            NotAuthenticated: nobody that is known (401).
            NotAllowed: somebody whose token is not good for that route (403).
            RequestError: 400, the request has two different tokens.
        """
        identity = self.identify(headers)
        if identity is None:
            raise NotAuthenticated
        if not identity.may_use(route):
            raise NotAllowed
        return identity


def make_token(name: str) -> tuple[str, str]:
    """A new token for ``name``, and what to put into the file of tokens for it.

    Raises:
        ConfigurationError: that is no name.
    """
    if _NAME.fullmatch(name) is None:
        raise ConfigurationError(f"that is no name for a token: {NAME_RULE}")
    token = f"sseflow-{secrets.token_urlsafe(32)}"
    digest = hashlib.sha256(token.encode()).hexdigest()
    return token, f'[[tokens]]\nname = "{name}"\nsha256 = "{digest}"\n'


def describe_token(name: str) -> str:
    """The same for a person: what ``python -m sseflow.proxy token NAME`` prints. Raises as `make_token` does."""
    token, stanza = make_token(name)
    return f"# The token of {name}, which is shown this once:\n{token}\n\n# For the file of tokens:\n{stanza}"


def _token(name: bytes, value: bytes) -> bytes:
    """The token in the value of a field; what is no bearer's token is one that nobody has."""
    scheme, _, token = value.partition(b" ")
    is_bearer = name == b"authorization" and scheme.lower() == b"bearer"
    return token.strip() if is_bearer else value


def _check_mode(where: Path, descriptor: int) -> None:
    # Everybody may read it: hashes of what cannot be guessed are no secret. Who can write it can let himself in.
    if sys.platform != "win32" and os.fstat(descriptor).st_mode & stat.S_IWOTH:
        raise ConfigurationError(f"{where}: everybody may write to it, and so let himself in: chmod o-w")


def _place(error: tomllib.TOMLDecodeError) -> str:
    """Where a file is wrong, without what stands there."""
    found = re.search(r"\(at [^)]*\)\Z", str(error))
    return found[0].strip("()") if found else "it cannot be understood"


def _read(content: Mapping[str, Any]) -> tuple[list[tuple[bytes, Identity]], list[str]]:
    """The tokens in a file, and what is wrong with it."""
    tables = content.get("tokens")
    problems = [] if content.keys() <= {"tokens"} else ["there is something beside [[tokens]]"]
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        return [], [*problems, "there is no [[tokens]], so nobody could come in"]
    if len(tables) > MAX_TOKENS:
        return [], [*problems, f"there are more than {MAX_TOKENS} tokens"]
    known: dict[bytes, Identity] = {}
    for i, table in enumerate(tables):
        faults = _faults(table)
        digest = b"" if faults else bytes.fromhex(table["sha256"])
        if digest in known:
            faults = ["sha256: the same token is there twice"]
        if not faults:
            routes = table.get("routes")
            known[digest] = Identity(table["name"], None if routes is None else frozenset(routes))
        problems += [f"tokens[{i}].{fault}" for fault in faults]
    return list(known.items()), problems


def _faults(table: Mapping[str, Any]) -> list[str]:
    """What is wrong with one entry. No value is repeated: it may be a token that was put in the wrong place."""
    name, digest, routes = table.get("name"), table.get("sha256"), table.get("routes")
    faults = []
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        faults.append(f"name: must be {NAME_RULE}")
    if not isinstance(digest, str) or _DIGEST.fullmatch(digest) is None:
        faults.append("sha256: must be 64 digits from 0 to f: make it with `python -m sseflow.proxy token NAME`")
    if "routes" in table and not (isinstance(routes, list) and routes and all(map(_is_route, routes))):
        faults.append('routes: must be like ["/openai"], or be left out for all routes')
    if not table.keys() <= {"name", "sha256", "routes"}:
        faults.append("*: there is something beside name, sha256 and routes")
    return faults


def _is_route(value: object) -> bool:
    return isinstance(value, str) and _ROUTE.fullmatch(value) is not None
