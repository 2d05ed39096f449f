"""Tokens: who has one comes in, where it is good, and nobody learns it from us."""

from __future__ import annotations

import hashlib
import hmac
import os
import sys
import tomllib
from pathlib import Path

import pytest

from sseflow import ConfigurationError, RequestError
from sseflow.http import Headers
from sseflow.proxy._auth import (
    MAX_FILE,
    MAX_TOKENS,
    Identity,
    NotAllowed,
    NotAuthenticated,
    Tokens,
    describe_token,
    make_token,
)
from sseflow.proxy._words import as_answer

CANARY = "sk-CANARY-5e2d1c"


def digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def entry(name: str, token: str, routes: str = "") -> str:
    return f'[[tokens]]\nname = "{name}"\nsha256 = "{digest(token)}"\n{routes}\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file of three tokens, of two owners."""
    file = tmp_path / "tokens.toml"
    file.write_text(
        entry("ci", "one", 'routes = ["/openai", "/anthropic/v1"]') + entry("ci", "two") + entry("ann", "three")
    )
    return file


@pytest.fixture
def tokens(file: Path) -> Tokens:
    """Those in the file."""
    return Tokens.load(file)


GIVEN: dict[str, Headers] = {
    "OpenAI's client": ((b"authorization", b"Bearer three"),),
    "Anthropic's client": ((b"x-api-key", b"three"),),
    "Azure's client": ((b"api-key", b"three"),),
    "a scheme in lower case": ((b"authorization", b"bearer  three"),),
    "the same in two fields": ((b"authorization", b"Bearer three"), (b"x-api-key", b"three")),
    "an empty field beside it": ((b"authorization", b"Bearer"), (b"x-api-key", b"three")),
    "other fields": ((b"host", b"a"), (b"x-api-key", b"three"), (b"x-other", b"two")),
}


@pytest.mark.parametrize("headers", GIVEN.values(), ids=GIVEN)
def test_a_token_is_where_the_clients_of_the_apis_put_their_key(tokens: Tokens, headers: Headers) -> None:
    """So that a client needs nothing but another address and another key."""
    assert tokens.identify(headers) == Identity("ann")


UNKNOWN: dict[str, Headers] = {
    "none": (),
    "an empty one": ((b"authorization", b"Bearer "), (b"x-api-key", b"")),
    "a wrong one": ((b"authorization", b"Bearer four"),),
    "the hash": ((b"authorization", b"Bearer " + digest("three").encode()),),
    "another scheme": ((b"authorization", b"Basic three"),),
    "no scheme and two words": ((b"authorization", b"three three"),),
    "another field": ((b"x-token", b"three"), (b"cookie", b"three"), (b"proxy-authorization", b"Bearer three")),
    "another case": ((b"x-api-key", b"THREE"),),
    "a beginning": ((b"x-api-key", b"thre"),),
}


@pytest.mark.parametrize("headers", UNKNOWN.values(), ids=UNKNOWN)
def test_without_a_known_token_nobody_comes_in(tokens: Tokens, headers: Headers) -> None:
    """It is a 401 that says what is needed, and keeps the connection."""
    assert tokens.identify(headers) is None
    with pytest.raises(NotAuthenticated) as raised:
        tokens.authenticate(headers, "/openai")
    status, error = as_answer(raised.value)
    assert (status, error.type) == (401, "authentication_error")
    assert raised.value.headers == ((b"WWW-Authenticate", b"Bearer"),)
    assert not raised.value.close


def test_two_different_keys_are_refused(tokens: Tokens) -> None:
    """Which of them counts is for nobody to guess, also if one of them is good."""
    for second in ((b"x-api-key", b"three"), (b"authorization", b"Basic eDp5"), (b"authorization", b"Bearer one")):
        with pytest.raises(RequestError, match="two different keys") as raised:
            tokens.identify(((b"authorization", b"Bearer two"), second))
        assert raised.value.status == 400


@pytest.mark.parametrize(
    ("route", "allowed"),
    [
        ("/openai", True),
        ("/openai/v1", True),
        ("/anthropic/v1", True),
        ("/anthropic/v1/", True),
        ("/anthropic", False),
        ("/openai-eu", False),
        ("/", False),
        ("", False),
    ],
)
def test_a_token_may_be_good_for_some_routes_only(tokens: Tokens, route: str, allowed: bool) -> None:
    """Elsewhere it is a 403; a route that only begins with the same letters is another route."""
    one, two = ((b"x-api-key", b"one"),), ((b"x-api-key", b"two"),)
    assert tokens.authenticate(two, route).name == "ci"
    if allowed:
        assert tokens.authenticate(one, route).name == "ci"
        return
    with pytest.raises(NotAllowed) as raised:
        tokens.authenticate(one, route)
    status, error = as_answer(raised.value)
    assert (status, error.type) == (403, "permission_error")


def test_a_token_for_the_root_is_good_for_all(tmp_path: Path) -> None:
    """`/` is above every route."""
    file = tmp_path / "tokens.toml"
    file.write_text(entry("a", "one", 'routes = ["/"]'))
    assert Tokens.load(file).authenticate(((b"x-api-key", b"one"),), "/openai/v1").may_use("/x")


def test_a_name_may_have_several_tokens(tokens: Tokens) -> None:
    """So one can be changed while both are good; what is stored belongs to the name."""
    assert len(tokens) == 3
    names = [tokens.identify(((b"x-api-key", token),)) for token in (b"one", b"two")]
    assert [identity.name for identity in names if identity is not None] == ["ci", "ci"]


def test_the_routes_that_tokens_name_can_be_checked(tokens: Tokens) -> None:
    """A configuration can say that there is no such route."""
    assert tokens.routes == {"/openai", "/anthropic/v1"}


@pytest.mark.parametrize("token", [b"one", b"two", b"three", b"four"])
def test_every_token_is_compared_in_constant_time(
    tokens: Tokens, token: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How long it takes says neither how much of a token was right nor where in the file it stands."""
    compared = []
    compare = hmac.compare_digest

    def counted(a: bytes, b: bytes) -> bool:
        compared.append((len(a), len(b)))
        return compare(a, b)

    monkeypatch.setattr(hmac, "compare_digest", counted)
    tokens.identify(((b"x-api-key", token),))
    assert compared == [(32, 32)] * 3


def test_nothing_of_a_token_is_shown(tokens: Tokens) -> None:
    """Neither it nor its hash is in any words."""
    errors = []
    for headers in (*UNKNOWN.values(), ((b"x-api-key", b"one"),), ((b"x-api-key", b"one"), (b"api-key", b"two"))):
        with pytest.raises(RequestError) as raised:
            tokens.authenticate(headers, "/nowhere")
        errors.append(repr(raised.value))
    shown = "".join([repr(tokens), str(tokens), *errors])
    for secret in ("one", "two", "three", "four"):
        assert digest(secret)[:8] not in shown
        assert secret not in shown.replace("send one, in one field", "").replace("two different", "")


# The file.

WRONG = {
    "nothing": ("", ["there is no [[tokens]]"]),
    "something else": ("tokens = 3", ["there is no [[tokens]]"]),
    "one table": ('[tokens]\nname = "a"', ["there is no [[tokens]]"]),
    "no tables": ("tokens = [1]", ["there is no [[tokens]]"]),
    "an empty list": ("tokens = []", ["there is no [[tokens]]"]),
    "another table": (entry("a", "x") + "[other]\n", ["beside [[tokens]]"]),
    "no name": (f'[[tokens]]\nsha256 = "{digest("x")}"', ["tokens[0].name"]),
    "a bad name": (entry("a b", "x"), ["tokens[0].name"]),
    "a path": (entry("../a", "x"), ["tokens[0].name"]),
    "a long name": (entry("a" * 65, "x"), ["tokens[0].name"]),
    "no hash": ('[[tokens]]\nname = "a"', ["tokens[0].sha256"]),
    "a token": (f'[[tokens]]\nname = "a"\nsha256 = "{CANARY}"', ["tokens[0].sha256", "token NAME"]),
    "a token in clear": (entry("a", "x", f'token = "{CANARY}"'), ["tokens[0].*"]),
    "a token as a name": (entry(CANARY + " ", "x"), ["tokens[0].name"]),
    "upper case": (entry("a", "x").replace(digest("x"), digest("x").upper()), ["tokens[0].sha256"]),
    "a number": ("[[tokens]]\nname = 3\nsha256 = 4\nroutes = 5", ["[0].name", "[0].sha256", "[0].routes"]),
    "a route without a slash": (entry("a", "x", 'routes = ["openai"]'), ["tokens[0].routes"]),
    "no routes": (entry("a", "x", "routes = []"), ["tokens[0].routes"]),
    "a route that is a number": (entry("a", "x", "routes = [1]"), ["tokens[0].routes"]),
    "the same twice": (entry("a", "x") + entry("b", "x"), ["tokens[1].sha256: the same token"]),
    "too many": ("".join(entry("a", str(i)) for i in range(MAX_TOKENS + 1)), ["more than 1000"]),
    "too long": ("#" * MAX_FILE + "\n", ["longer than"]),
    "no TOML": (f"[[tokens]]\nname = {CANARY}", ["is no TOML: at line 2"]),
    "an open string": (f'[[tokens]]\nname = "{CANARY}', ["is no TOML"]),
    "a name twice": (f'[[tokens]]\n"{CANARY}" = 1\n"{CANARY}" = 2', ["is no TOML"]),
}


@pytest.mark.parametrize(("text", "said"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_with_a_file_is_said_without_its_values(tmp_path: Path, text: str, said: list[str]) -> None:
    """A token that was put into the wrong place is not repeated."""
    file = tmp_path / "tokens.toml"
    file.write_text(text)
    with pytest.raises(ConfigurationError) as raised:
        Tokens.load(file)
    for words in said:
        assert words in str(raised.value)
    assert "CANARY" not in str(raised.value)
    assert raised.value.__cause__ is None


def test_everything_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    """A line for each, with the file and the place."""
    file = tmp_path / "tokens.toml"
    file.write_text("[x]\n" + '[[tokens]]\nname = ""\n' + entry("a", "x") + entry("b", "x", "routes = 3"))
    with pytest.raises(ConfigurationError) as raised:
        Tokens.load(file)
    lines = str(raised.value).splitlines()
    assert [line.removeprefix(f"{file}: ").partition(":")[0] for line in lines] == [
        "there is something beside [[tokens]]",
        "tokens[0].name",
        "tokens[0].sha256",
        "tokens[2].routes",
    ]


def test_a_file_that_cannot_be_read_is_a_mistake_of_the_configuration(tmp_path: Path) -> None:
    """Whatever the reason."""
    with pytest.raises(ConfigurationError, match="No such file"):
        Tokens.load(tmp_path / "nowhere")
    with pytest.raises(ConfigurationError, match="Is a directory"):
        Tokens.load(tmp_path)
    (tmp_path / "binary").write_bytes(b"\xff")
    with pytest.raises(ConfigurationError, match="UTF-8"):
        Tokens.load(tmp_path / "binary")


@pytest.mark.skipif(sys.platform == "win32", reason="files have no such modes there")
def test_a_file_that_everybody_may_write_is_refused(file: Path) -> None:
    """Whoever can write it can let himself in. Reading it tells nobody a token."""
    os.chmod(file, 0o646)
    with pytest.raises(ConfigurationError, match="chmod o-w"):
        Tokens.load(file)
    os.chmod(file, 0o644)
    assert len(Tokens.load(file)) == 3


# Making one.


def test_a_new_token_is_known_once_its_stanza_is_in_the_file(tmp_path: Path) -> None:
    """What is printed is what is needed; of the token itself nothing is in the stanza."""
    token, stanza = make_token("ci")
    assert token not in stanza
    (tmp_path / "tokens.toml").write_text(stanza)
    identity = Tokens.load(tmp_path / "tokens.toml").identify(((b"authorization", b"Bearer " + token.encode()),))
    assert identity == Identity("ci")


def test_tokens_cannot_be_guessed() -> None:
    """Each is new, with 256 bits, and one word for a shell and a header."""
    made = {make_token("a")[0] for _ in range(100)}
    assert len(made) == 100
    assert all(len(token) == len("sseflow-") + 43 for token in made)
    assert all(token.replace("-", "").replace("_", "").isalnum() for token in made)


def test_what_is_printed_can_be_pasted() -> None:
    """All of it is a file of tokens but the token's own line."""
    printed = describe_token("ci")
    (token,) = (line for line in printed.splitlines() if line.startswith("sseflow-"))
    assert tomllib.loads(printed.replace(token, "")) == {"tokens": [{"name": "ci", "sha256": digest(token)}]}


@pytest.mark.parametrize("name", ["", "a b", '"', "a\n", "-x", "ä", "a" * 65])
def test_what_is_no_name_gets_no_token(name: str) -> None:
    """Names are in logs and files."""
    with pytest.raises(ConfigurationError):
        make_token(name)
