"""The configuration file: what may be in it, and what is said of one that is wrong."""

from __future__ import annotations

import io
import ipaddress
import json
import math
import os
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st

from sseflow.http import Address
from sseflow.proxy import _config
from sseflow.proxy._config import ConfigurationErrors, check, load
from sseflow.proxy._options import Wrong
from sseflow.proxy._tables import (
    BreakerTable,
    Config,
    PolicyTable,
    ProviderTable,
    RetryTable,
    ServerTable,
    options,
    tables,
)

_TABLES = (Config, *(field.metadata["table"] for field in tables(Config)))
OPENAI = '[providers.openai]\ntype = "openai"\nkeys = ["env:KEY"]\n'
LOCAL = '[providers.local]\ntype = "openai-compat"\nbase_url = "http://127.0.0.1:8000"\n'
ANTHROPIC = '[providers.anthropic]\ntype = "anthropic"\nkeys = ["env:KEY"]\n'
SECRET = "sk-do-not-show-me-0123456789"
ENVIRON = {"KEY": SECRET, "SAME": SECRET, "EMPTY": "", "BLANK": "two words", "OTHER": "sk-another"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sseflow.toml"


def read(path: Path, text: str) -> Config:
    path.write_text(text, encoding="utf-8")
    return load(path, ENVIRON)


def problems(path: Path, text: str) -> dict[str, str]:
    """What is wrong, by the paths of what it is wrong with."""
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationErrors) as caught:
        load(path, ENVIRON)
    assert SECRET not in str(caught.value)
    found: dict[str, str] = {}
    for problem in caught.value.problems:
        found[problem.path] = f"{found.get(problem.path, '')}{problem.message}; {problem.right}"
    return found


def test_without_routes_each_provider_has_one_under_its_name(path: Path) -> None:
    """/openai/v1/... goes to openai, as people expect; it is served for this machine only, and that is said."""
    config = read(path, OPENAI + LOCAL)
    assert [(route.path, [share.provider for share in route.upstreams]) for route in config.routes] == [
        ("/openai", ["openai"]),
        ("/local", ["local"]),
    ]
    assert [listener.address for listener in config.listeners] == [Address("127.0.0.1", 8080)]
    assert config.is_local
    assert config.hosts == {b"localhost", b"127.0.0.1", b"[::1]"}
    assert any("this machine only: there is no [auth]" in line for line in _config.summary(config))


def test_where_the_world_has_one_place_for_a_type_it_is_the_base_url(path: Path) -> None:
    """OpenAI, Anthropic and OpenRouter; of all others it must be said."""
    config = read(path, OPENAI + ANTHROPIC + '[providers.openrouter]\ntype = "openrouter"\nkeys = ["env:KEY"]\n')
    assert [provider.base_url for provider in config.providers.values()] == [
        "https://api.openai.com/v1",
        "https://api.anthropic.com",
        "https://openrouter.ai/api/v1",
    ]
    for type in ("openai-compat", "sse"):
        assert "providers.x.base_url" in problems(path, f'[providers.x]\ntype = "{type}"\n')


def test_a_route_says_what_differs_from_what_is_for_all(path: Path) -> None:
    """Option by option: what it does not say itself is that of [policy], [retry] and [breaker]."""
    shared = '[policy]\nkeep_alive = 5\ncomments = "forward"\n[retry]\nattempts = 2\n'
    route = (
        '[[routes]]\npath = "/x"\nupstreams = ["local"]\n[routes.policy]\nkeep_alive = 7\n[routes.retry]\nbase = 3\n'
    )
    (config,) = [read(path, LOCAL + shared + route).routes[0]]
    assert config.policy == PolicyTable(keep_alive=7, comments="forward")
    assert config.retry == RetryTable(attempts=2, base=3.0)
    assert config.breaker is None


@pytest.mark.parametrize(
    ("shared", "own", "breaker"),
    [
        ("", "", None),
        ("[breaker]\n", "", BreakerTable()),
        ("", "[routes.breaker]\nopen = 9\n", BreakerTable(open=9.0)),
        ("[breaker]\nfailures = 2\n", "[routes.breaker]\nopen = 9\n", BreakerTable(failures=2, open=9.0)),
    ],
)
def test_without_a_breaker_there_is_none(path: Path, shared: str, own: str, breaker: BreakerTable | None) -> None:
    """A table of it, for all routes or for one, makes one."""
    text = LOCAL + shared + '[[routes]]\npath = "/x"\nupstreams = ["local"]\n' + own
    assert read(path, text).routes[0].breaker == breaker


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("10", 10.0),
        ("0.5", 0.5),
        ('"500ms"', 0.5),
        ('"10s"', 10.0),
        ('"1.5m"', 90.0),
        ('"2 h"', 7200.0),
        ('"1d"', 86400.0),
    ],
)
def test_a_duration_is_seconds_or_has_a_unit(path: Path, written: str, seconds: float) -> None:
    """A number is seconds; a text says of what it is a number."""
    assert read(path, LOCAL + f"[policy]\nlinger = {written}\n").policy.linger == seconds


@pytest.mark.parametrize(
    "written",
    ['"10"', '"10 parsecs"', "-1", "0", '"0s"', "nan", "inf", "true", "[]", '"1e3s"', '"-1s"', "1e308", '"99999d"'],
)
def test_what_is_no_duration_is_refused(path: Path, written: str) -> None:
    """Without a unit in a text nobody knows what was meant; none, no end and less than nothing are no time."""
    assert problems(path, LOCAL + f"[policy]\nlinger = {written}\n").keys() == {"policy.linger"}


@pytest.mark.parametrize(
    ("written", "size"), [("10", 10), ('"64KiB"', 65536), ('"4 MiB"', 4 << 20), ('"1.5GiB"', 3 << 29)]
)
def test_a_size_is_bytes_or_has_a_unit(path: Path, written: str, size: int) -> None:
    """A number is bytes; a text says of what it is a number."""
    assert read(path, LOCAL + f"[policy]\nmax_line = {written}\n").policy.max_line == size


@pytest.mark.parametrize("written", ['"10"', '"10KB"', "-1", "0", "1.5", '"1.5B"', "nan", "true", '"9999999TiB"'])
def test_what_is_no_size_is_refused(path: Path, written: str) -> None:
    """KB is a thousand to some and more to others; half a byte is none."""
    assert problems(path, LOCAL + f"[policy]\nmax_line = {written}\n").keys() == {"policy.max_line"}


@pytest.mark.parametrize(("written", "hedge"), [('"off"', None), ('"p95"', "p95"), ("5", 5.0), ('"750ms"', 0.75)])
def test_hedging_is_off_or_after_a_while(path: Path, written: str, hedge: float | str | None) -> None:
    """A duration, or what 95 of a hundred answers take."""
    text = LOCAL + OPENAI + '[[routes]]\npath = "/x"\nupstreams = ["local", "openai"]\n'
    assert read(path, text + f"hedge_after = {written}\n").routes[0].hedge_after == hedge


@pytest.mark.parametrize(
    ("text", "where", "says"),
    [
        ("", "providers", "there is none"),
        ("provider = 1\n" + LOCAL, "provider", "did you mean providers?"),
        (LOCAL + "keepalive = 1\n", "providers.local.keepalive", "no such option"),
        (LOCAL + "[policy]\nkeepalive = 1\n", "policy.keepalive", "did you mean keep_alive?"),
        (LOCAL + '[policy]\ngate = "contents"\n', "policy.gate", "did you mean content?"),
        (LOCAL + '[policy]\ncompress = ["gzip", "rar"]\n', "policy.compress[1]", "one of"),
        (LOCAL + '[policy]\ncomments = "replace"\nkeep_alive = 0\n', "policy.comments", "keep_alive is 0"),
        (LOCAL + '[policy]\ntrailers = ["a b"]\n', "policy.trailers[0]", "no name of a field"),
        (LOCAL + "[retry]\nbase = 5\ncap = 1\n", "retry.base", "longer than cap"),
        (LOCAL + "[retry]\nbudget = 2\n", "retry.budget", "from 0 to 1"),
        (LOCAL + "[server]\nworkers = 0\n", "server.workers", "from 1 to 1024"),
        (LOCAL + "[server]\nworkers = true\n", "server.workers", "whole number"),
        (LOCAL + '[server]\ntrusted = ["10.0.0.1/8"]\n', "server.trusted[0]", "bits behind the prefix"),
        (LOCAL + '[server]\nallow_hosts = ["a:80"]\n', "server.allow_hosts[0]", "without a port"),
        (LOCAL + '[server]\nallow_hosts = "a"\n', "server.allow_hosts", "a list"),
        ("server = 1\n" + LOCAL, "server", "is no table"),
        ("listeners = 1\n" + LOCAL, "listeners", "[[listeners]]"),
        ('listeners = ["127.0.0.1:80"]\n' + LOCAL, "listeners", "[[listeners]]"),
        ("providers = 1\n", "providers", "[providers.NAME]"),
        ("providers.x = 1\n", "providers", "[providers.NAME]"),
        (LOCAL + "[[listeners]]\n", "listeners[0].address", "is missing"),
        (LOCAL + '[[listeners]]\naddress = "127.0.0.1"\n', "listeners[0].address", "127.0.0.1:8080"),
        (LOCAL + '[[listeners]]\naddress = "127.0.0.1:99999"\n', "listeners[0].address", "no address"),
        (LOCAL + '[[listeners]]\naddress = "a b:80"\n', "listeners[0].address", "no address"),
        (LOCAL + 2 * '[[listeners]]\naddress = "127.0.0.1:1"\n', "listeners[1].address", "listeners[0]"),
        (LOCAL + 2 * '[[listeners]]\naddress = "unix:/x"\n', "listeners[1].address", "listeners[0]"),
        (LOCAL + '[[listeners]]\naddress = "127.0.0.1:1"\ntls_cert = "x"\n', "listeners[0].tls_key", "go together"),
        ('[providers.x]\nbase_url = "http://a"\n', "providers.x.type", "is missing"),
        ('[providers.x]\ntype = "openia"\n', "providers.x.type", "did you mean openai?"),
        ("[providers.Open_AI]\n" + OPENAI.partition("\n")[2], "providers.Open_AI", "single hyphens"),
        (OPENAI + "keys = []\n", "sseflow.toml:4:10", "Cannot overwrite a value"),
        (OPENAI.replace('["env:KEY"]', "[]"), "providers.openai.keys", "at least one"),
        (OPENAI.replace("env:KEY", "env:NOPE"), "providers.openai.keys[0]", "no NOPE in the environment"),
        (OPENAI.replace("env:KEY", "env:EMPTY"), "providers.openai.keys[0]", "not empty"),
        (OPENAI.replace("env:KEY", "env:BLANK"), "providers.openai.keys[0]", "without spaces"),
        (OPENAI.replace("env:KEY", f"env:{SECRET}"), "providers.openai.keys[0]", "no variable"),
        (OPENAI.replace("env:KEY", "file:nope"), "providers.openai.keys[0]", "No such file"),
        (OPENAI.replace('"env:KEY"', '""'), "providers.openai.keys[0]", "env:NAME"),
        (OPENAI.replace('"env:KEY"', "7"), "providers.openai.keys[0]", "env:NAME"),
        (OPENAI.replace("env:KEY", "file:"), "providers.openai.keys[0]", "no file behind"),
        (OPENAI.replace("env:KEY", "file:."), "providers.openai.keys[0]", "is no file"),
        (OPENAI.replace("env:KEY", SECRET), "providers.openai.keys[0]", "allow_literal_keys"),
        (OPENAI.replace('"env:KEY"', '"env:OTHER", "env:KEY", "env:SAME"'), "providers.openai.keys[2]", "keys[1]"),
        (LOCAL + 'ca = "nope.pem"\n', "providers.local.ca", "No such file"),
        (LOCAL + 'ca = "sseflow.toml"\n', "providers.local.ca", "no certificate"),
        (LOCAL + 'allow_destinations = ["x"]\n', "providers.local.allow_destinations[0]", "no network"),
        (LOCAL + "models = 1\n", "providers.local.models", "no table"),
        (LOCAL + "[providers.local.models]\nx = 1\n", "providers.local.models.x", "no text"),
        (LOCAL + '[[routes]]\nupstreams = ["local"]\n', "routes[0].path", 'path = "/openai"'),
        (LOCAL + '[[routes]]\npath = "/x"\n', "routes[0].upstreams", "is missing"),
        (LOCAL + '[[routes]]\npath = "/x"\nupstreams = []\n', "routes[0].upstreams", "at least one"),
        (LOCAL + '[[routes]]\npath = "/x"\nupstreams = ["lokal"]\n', "routes[0].upstreams[0]", "did you mean local?"),
        (LOCAL + '[[routes]]\npath = "/x"\nupstreams = ["local", "local"]\n', "routes[0].upstreams[1]", "upstreams[0]"),
        (LOCAL + "[admin]\naddress = '127.0.0.1:8080'\n", "admin.address", "of its own"),
        (LOCAL + "[admin]\naddress = '0.0.0.0:8081'\n", "admin.token", "other machines can connect"),
        (LOCAL + "[admin]\ntoken = 'env:NOPE'\n", "admin.token", "no NOPE in the environment"),
        (LOCAL + f"[admin]\ntoken = '{SECRET}'\n", "admin.token", "allow_literal_keys"),
        (LOCAL + "[auth]\n", "auth.tokens_file", "is missing"),
        (LOCAL + "[auth]\ntokens_file = 'nope'\n", "auth.tokens_file", "No such file"),
        (LOCAL + "[history]\n", "history.path", "is missing"),
        (LOCAL + "[history]\npath = 'nope/neither/history.db'\n", "history.path", "no folder"),
        (LOCAL + "[history]\npath = 'x'\nredact = ['(']\n", "history.redact[0]", "regular expression"),
        (LOCAL + "[history]\npath = 'x'\nredact = ['[[a]']\n", "history.redact[0]", "regular expression"),
        (LOCAL + "[logging]\nformat = 'jsn'\n", "logging.format", "did you mean json?"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_what_would_be_right(path: Path, text: str, where: str, says: str) -> None:
    """One problem each, with the path of the option."""
    found = problems(path, text)
    assert says in found[where]
    assert [name for name in found if name != where] == []


@pytest.mark.parametrize(
    "written",
    [
        "api.example.com", "ftp://api.example.com", "https://", "https://user@api.example.com",
        f"https://user:{SECRET}@api.example.com/v1", f"https://api.example.com/v1?key={SECRET}",
        f"https://api.example.com/#{SECRET}", "https://api.example.com/\\r\\nX-Evil: 1", "https://a b", "https://ä.example",
        "https://api.example.com:99999", "https://api.example.com/../x", "https://api.example.com/%2e%2e/x", "unix:",
        "https://[::1", f"{SECRET}@x", "https://api.example.com\\\\@evil.example", "https://a/\\u0000", "",
    ],
)  # fmt: skip
def test_what_is_no_base_url_is_refused(path: Path, written: str) -> None:
    """Nothing that a library would mend, or take for something else; and no user name, query or fragment."""
    text = LOCAL.replace("http://127.0.0.1:8000", written)
    assert problems(path, text).keys() == {"providers.local.base_url"}


@pytest.mark.parametrize(
    "written",
    ["openai", "/openai/", "/a//b", "/a/../b", "/.", "/a b", "/a%2fb", "/a?b", "/ä", "", "/-", "/-/x", "/a\\n"],
)
def test_what_is_no_path_of_a_route_is_refused(path: Path, written: str) -> None:
    """One spelling for each path, and none for the proxy's own pages."""
    text = LOCAL + f'[[routes]]\npath = "{written}"\nupstreams = ["local"]\n'
    assert problems(path, text).keys() == {"routes[0].path"}


def test_a_route_may_take_all_that_others_leave(path: Path) -> None:
    """The path "/" is no beginning, and so that of all."""
    config = read(path, LOCAL + '[[routes]]\npath = "/"\nupstreams = ["local"]\n')
    assert (config.routes[0].path, config.routes[0].prefix) == ("", "/")


def route(path: str, *upstreams: str, more: str = "") -> str:
    return f'[[routes]]\npath = "{path}"\nupstreams = {json.dumps(upstreams)}\n{more}'


@pytest.mark.parametrize(
    ("routes", "where"),
    [
        (route("/x", "local") + route("/x", "openai"), {"routes[1].path"}),
        (route("/x", "local") + route("/x/v1", "openai"), {"routes[1].path"}),
        (route("/v1", "local") + route("/", "openai"), {"routes[0].path"}),
        (route("/x", "local") + route("/x/y", "openai"), set()),
        (route("/x", "local") + route("/", "openai"), set()),
        (route("/x", "local") + route("/xv1", "openai"), set()),
    ],
)
def test_routes_that_take_each_others_requests_are_refused(path: Path, routes: str, where: set[str]) -> None:
    """The same path twice; and a path that is another's with the version behind it, where all of an API is."""
    text = LOCAL + OPENAI + routes
    if where:
        assert problems(path, text).keys() == where
    else:
        assert len(read(path, text).routes) == 2


@pytest.mark.parametrize(
    ("text", "where"),
    [
        (route("/x", "local", "openai"), set()),
        (route("/x", "local", "anthropic"), {"routes[0].upstreams"}),
        (route("/x", "local", "anthropic", more='dialect = "anthropic"\n'), set()),
        (route("/x", "openai", "anthropic", more='dialect = "anthropic"\n'), {"routes[0].dialect"}),
        (route("/x", "anthropic", more='dialect = "openai-chat"\n'), {"routes[0].dialect"}),
        (route("/x", "openai", more='dialect = "sse"\n'), {"routes[0].dialect"}),
    ],
)
def test_upstreams_of_a_route_speak_one_dialect(path: Path, text: str, where: set[str]) -> None:
    """Nobody could fail over between two; which one it is may be said, where all of them can speak it."""
    text = LOCAL + OPENAI + ANTHROPIC + text
    assert (problems(path, text).keys() if where else set(read(path, text).files)) == where


def test_weights_are_for_all_upstreams_of_a_route_or_for_none(path: Path) -> None:
    """With some only, nobody knows which of the others comes when."""
    begin = LOCAL + OPENAI + '[[routes]]\npath = "/x"\nupstreams = '
    config = read(path, begin + '[{provider = "local", weight = 3}, {provider = "openai", weight = 1}]\n')
    assert [(share.provider, share.weight) for share in config.routes[0].upstreams] == [("local", 3), ("openai", 1)]
    assert (
        "for each, or for none"
        in problems(path, begin + '[{provider = "local", weight = 3}, "openai"]\n')["routes[0].upstreams"]
    )
    wrong = problems(path, begin + '[{provider = "local", weight = 0}, {provider = "openai"}, 7]\n')
    assert wrong.keys() == {"routes[0].upstreams[0].weight", "routes[0].upstreams[1]", "routes[0].upstreams[2]"}


def test_everything_that_is_wrong_is_said_at_once(path: Path) -> None:
    """What is wrong in one place does not hide what is wrong in another, and is not held against a third."""
    text = """
    [[listeners]]
    address = "0.0.0.0:8080"
    [server]
    drain = "1x"
    wrkers = 3
    [providers.a]
    type = "openai"
    keys = ["env:NOPE", "file:nope"]
    [providers.B]
    type = "anthropik"
    keys = ["env:NOPE"]
    [[routes]]
    path = 4
    upstreams = ["a", "B", "c"]
    policy.gatee = 1
    """
    assert problems(path, text).keys() == {
        "listeners[0].address",
        "server.drain",
        "server.wrkers",
        "providers.a.keys[0]",
        "providers.a.keys[1]",
        "providers.B",
        "providers.B.type",
        "providers.B.keys[0]",
        "routes[0].path",
        "routes[0].upstreams[2]",
        "routes[0].policy.gatee",
    }


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "192.0.2.1", "llm.example.com", "127.example.com"])
def test_for_other_machines_it_listens_only_with_tokens(path: Path, host: str) -> None:
    """Without [auth] whoever can connect could use the keys."""
    text = LOCAL + f'[[listeners]]\naddress = "{host}:8080"\n'
    assert "[auth]" in problems(path, text)["listeners[0].address"]
    path.with_name("tokens.toml").write_text("")
    config = read(path, text + '[auth]\ntokens_file = "tokens.toml"\n')
    assert not config.is_local
    assert config.hosts == frozenset()


def test_any_free_port_is_never_the_same(path: Path) -> None:
    """Two listeners may ask for one each."""
    assert len(read(path, LOCAL + 2 * '[[listeners]]\naddress = "127.0.0.1:0"\n').listeners) == 2


def test_peers_are_trusted_by_their_networks_or_for_being_on_a_unix_socket(path: Path) -> None:
    """Nobody is by default."""
    server = read(path, LOCAL + '[server]\ntrusted = ["10.0.0.0/8", "unix", "::1"]\n').server
    assert [str(network) for network in server.trusted_networks] == ["10.0.0.0/8", "::1/128"]
    assert server.trust_unix
    assert read(path, LOCAL).server.trusted_networks == ()
    assert not read(path, LOCAL).server.trust_unix


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.1.2.3:1", "[::1]:1", "localhost:1", "unix:/run/x.sock"])
def test_for_this_machine_it_listens_without(path: Path, address: str) -> None:
    """Addresses that lead nowhere else."""
    assert read(path, LOCAL + f'[[listeners]]\naddress = "{address}"\n').is_local


def test_a_key_is_fetched_and_never_shown(path: Path) -> None:
    """It comes from the environment or a file, without what an editor puts behind it; no repr has it."""
    path.with_name("key").write_text(f"{SECRET}-of-a-file\n")
    path.with_name("key").chmod(0o600)
    config = read(path, OPENAI.replace('"env:KEY"', '"env:KEY", "file:key"'))
    keys = config.providers["openai"].keys
    assert [(key.source, key.value) for key in keys] == [("env:KEY", SECRET), ("file:key", f"{SECRET}-of-a-file")]
    assert SECRET not in repr(config)
    assert SECRET not in str(config)
    assert config.warnings == ()
    assert config.files == {path.with_name("key")}


def test_a_key_stands_in_the_file_only_if_that_is_wanted(path: Path) -> None:
    """It has to be said at the top."""
    config = read(path, "allow_literal_keys = true\n" + OPENAI.replace("env:KEY", SECRET))
    assert [key.value for key in config.providers["openai"].keys] == [SECRET]
    assert SECRET not in repr(config)
    assert SECRET not in "".join(_config.summary(config))


@pytest.mark.skipif(os.name == "nt", reason="files have other permissions there")
def test_a_key_that_everybody_may_read_is_worth_a_warning(path: Path) -> None:
    """No more: secrets that Docker and Kubernetes mount are like this."""
    path.with_name("key").write_text(SECRET)
    path.with_name("key").chmod(0o644)
    (warning,) = read(path, OPENAI.replace("env:KEY", "file:key")).warnings
    assert warning.path == "providers.openai.keys[0]"
    assert "everybody" in warning.message


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"", "is empty"), (b" \n", "is empty"), (b"a\nb", "one line"), (b"\xff", "no key"), (b"x" * 20000, "too long")],
)
def test_a_file_with_anything_but_one_key_is_refused(path: Path, content: bytes, says: str) -> None:
    """Whatever is in it would go out in a header."""
    path.with_name("key").write_bytes(content)
    found = problems(path, OPENAI.replace("env:KEY", "file:key"))
    assert found.keys() == {"providers.openai.keys[0]"}
    assert says in found["providers.openai.keys[0]"]


@pytest.mark.skipif(os.name == "nt", reason="files have other permissions there")
def test_a_configuration_with_a_key_that_everybody_may_read_is_worth_a_warning(path: Path) -> None:
    """It is a file with a key, too."""
    path.write_text("allow_literal_keys = true\n" + OPENAI.replace("env:KEY", SECRET))
    path.chmod(0o644)
    assert [warning.path for warning in load(path, {}).warnings] == ["providers.openai.keys[0]"]
    path.chmod(0o600)
    assert load(path, {}).warnings == ()


def test_a_file_that_is_not_there_is_named_so_that_it_can_be_watched(path: Path) -> None:
    """When it comes, the configuration is right: whoever watches has to know its name."""
    path.write_text(OPENAI.replace("env:KEY", "file:key"))
    with pytest.raises(ConfigurationErrors) as caught:
        load(path, {})
    assert caught.value.files == {path.with_name("key")}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are none")
def test_a_pipe_is_no_file(path: Path) -> None:
    """To open one would wait for somebody to write."""
    os.mkfifo(path.with_name("key"))
    assert problems(path, OPENAI.replace("env:KEY", "file:key")).keys() == {"providers.openai.keys[0]"}


@pytest.mark.parametrize(
    ("text", "where", "says"),
    [
        (OPENAI.replace('keys = ["env:KEY"]\n', ""), "providers.openai.keys", "answers nobody"),
        (LOCAL.replace("127.0.0.1", "a.example") + 'keys = ["env:KEY"]\n', "providers.local.base_url", "as they are"),
        (LOCAL + OPENAI + route("/x", "local"), "providers.openai", "no route"),
        (LOCAL + route("/x", "local", more="hedge_after = 1\n"), "routes[0].hedge_after", "no second"),
    ],
)  # fmt: skip
def test_what_can_be_meant_but_had_better_not_is_worth_a_warning(path: Path, text: str, where: str, says: str) -> None:
    """It is said, and the configuration is good."""
    (warning,) = read(path, text).warnings
    assert warning.path == where
    assert says in warning.message


def test_a_clients_credentials_stay_here_unless_one_provider_alone_is_to_have_them(path: Path) -> None:
    """Not by default; not where they are tokens for us; not where a second provider would get them, too."""
    assert not read(path, LOCAL).providers["local"].pass_credentials
    passing = LOCAL + "pass_credentials = true\n"
    assert read(path, passing).providers["local"].pass_credentials
    path.with_name("tokens.toml").write_text("")
    assert "providers.local.pass_credentials" in problems(path, passing + '[auth]\ntokens_file = "tokens.toml"\n')
    assert "routes[0].upstreams" in problems(path, passing + OPENAI + route("/x", "openai", "local"))


@pytest.mark.parametrize(
    ("base_url", "networks"),
    [
        ("http://127.0.0.1:8000", ["127.0.0.1/32"]),
        ("http://192.168.1.7/v1", ["192.168.1.7/32"]),
        ("http://[::1]:8000", ["::1/128"]),
        ("http://localhost:8000", ["127.0.0.0/8", "::1/128"]),
        ("http://llm.localhost:8000", ["127.0.0.0/8", "::1/128"]),
        ("https://api.example.com", []),
        ("https://localhost.example.com", []),
    ],
)
def test_only_an_address_in_its_base_url_may_be_private(path: Path, base_url: str, networks: list[str]) -> None:
    """A name may lead to what is public; where else, has to be said."""
    text = LOCAL.replace("http://127.0.0.1:8000", base_url)
    assert [str(network) for network in read(path, text).providers["local"].destinations] == networks
    allowed = read(path, text + 'allow_destinations = ["10.0.0.0/8"]\n').providers["local"].destinations
    assert ipaddress.ip_network("10.0.0.0/8") in allowed


@pytest.mark.parametrize(
    ("type", "base_url", "model", "wrong"),
    [
        ("openai", "https://openrouter.ai/api/v1", "anthropic/claude", True),
        ("openai", "https://OPENROUTER.AI./api/v1", "anthropic/claude", True),
        ("openai", "https://openrouter.ai/api/v1", "gpt-5", False),
        ("openai", "https://notopenrouter.ai/api/v1", "anthropic/claude", False),
        ("openai-compat", "https://openrouter.ai/api/v1", "anthropic/claude", False),
        ("openrouter", "https://openrouter.ai/api/v1", "anthropic/claude", False),
    ],
)
def test_a_type_that_would_spoil_a_model_is_the_problem(
    path: Path, type: str, base_url: str, model: str, wrong: bool
) -> None:
    """The type is blamed, not the model, and what is named is the type to choose."""
    text = (
        f'[providers.x]\ntype = "{type}"\nbase_url = "{base_url}"\nkeys = ["env:KEY"]\nmodels = {{fast = "{model}"}}\n'
    )
    if wrong:
        found = problems(path, text)
        assert found.keys() == {"providers.x.type"}
        assert 'type = "openrouter"' in found["providers.x.type"]
    else:
        assert read(path, text).providers["x"].models == {"fast": model}


def test_a_certificate_and_its_key_are_tried(path: Path) -> None:
    """A pair that does not work is found before anybody connects."""
    ca = trustme.CA()
    for name in ("one", "two"):
        cert = ca.issue_cert("localhost")
        cert.private_key_and_cert_chain_pem.write_to_path(path.with_name(f"{name}.pem"))
    listener = '[[listeners]]\naddress = "127.0.0.1:1"\ntls_cert = "one.pem"\ntls_key = "{}.pem"\n'
    config = read(path, LOCAL + listener.format("one"))
    assert config.listeners[0].tls_cert == path.with_name("one.pem")
    assert config.files == {path.with_name("one.pem")}
    assert problems(path, LOCAL + listener.format("two")).keys() == {"listeners[0].tls_cert"}
    path.with_name("empty.pem").touch()
    assert problems(path, LOCAL + listener.format("empty")).keys() == {"listeners[0].tls_cert"}
    assert problems(path, LOCAL + listener.format("three")).keys() == {"listeners[0].tls_key"}
    unix = listener.format("one").replace("127.0.0.1:1", "unix:/run/x.sock")
    assert problems(path, LOCAL + unix).keys() == {"listeners[0].tls_cert"}


@pytest.mark.parametrize(
    ("content", "where"),
    [
        (b"a = ", "sseflow.toml"),
        (b"a = 1\nb = = 2\n", "sseflow.toml:2:5"),
        (b"[a]\n[a]\n", "sseflow.toml:2:3"),
        (b"a = 1\n\xff\n", "sseflow.toml:2"),
        (b"a = " + b"9" * 5000, "sseflow.toml"),
        (b"a = " + b"[" * 20000, "sseflow.toml"),
        (b"#" * (_config.MAX_FILE + 1), "sseflow.toml"),
    ],
    ids=["no value", "no such value", "twice", "not UTF-8", "a number without end", "lists in lists", "too long"],
)
def test_what_is_no_toml_is_said_with_line_and_column(path: Path, content: bytes, where: str) -> None:
    """As far as anybody knows them."""
    path.write_bytes(content)
    with pytest.raises(ConfigurationErrors) as caught:
        load(path, {})
    assert [problem.path for problem in caught.value.problems] == [where]


def test_a_file_that_cannot_be_read_is_a_problem_like_others(tmp_path: Path) -> None:
    """It is not there, or is a folder."""
    for name in ("nope.toml", "."):
        with pytest.raises(ConfigurationErrors):
            load(tmp_path / name, {})


def test_check_says_each_problem_on_a_line_and_exits_with_2(path: Path) -> None:
    """Path, message, and what would be right."""
    path.write_text(LOCAL + "[policy]\nkeepalive = 1\ngate = 7\n")
    stream = io.StringIO()
    assert check(path, {}, stream) == 2
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    assert "policy.keepalive: there is no such option; did you mean keep_alive?" in lines


def test_check_says_what_a_good_configuration_amounts_to(path: Path) -> None:
    """Listeners, providers with where their keys are from, routes; and warnings. It exits with 0."""
    path.write_text(OPENAI + LOCAL + route("/x", "openai"))
    stream = io.StringIO()
    assert check(path, ENVIRON, stream) == 0
    assert stream.getvalue().splitlines() == [
        "warning: providers.local: no route leads to it; its name among the upstreams of a route",
        "listens on 127.0.0.1:8080 (this machine only: there is no [auth])",
        "provider openai: openai, https://api.openai.com/v1, 1 key (env:KEY)",
        "provider local: openai-compat, http://127.0.0.1:8000, 0 keys",
        "route /x: openai",
    ]


@pytest.mark.parametrize(
    "table",
    [ServerTable, ProviderTable, PolicyTable, RetryTable, BreakerTable],
    ids=lambda table: table.__name__,
)
def test_every_default_is_what_its_own_kind_shows(table: type) -> None:
    """What the reference shows as a default can be written, and is read as the default."""
    for field in options(table):
        shown = field.metadata["kind"].show(field.default)
        if shown != "none" and field.metadata["shown"] is None:
            value = tomllib.loads(f"x = {shown}")["x"]
            if value != []:
                assert field.metadata["kind"].read(value) == field.default, field.name


@pytest.mark.parametrize("bad", ["x\r\nX-Evil: 1", "x\n", "\0", "x\x85y", "x\u2028y"])
@pytest.mark.parametrize("table", _TABLES, ids=lambda table: table.__name__)
def test_no_option_takes_a_line_end(table: type, bad: str) -> None:
    """Whatever becomes of it, a header or a line of a log, it stays one. (Of keys, what was fetched is looked at.)"""
    for field in options(table):
        read_option = field.metadata["kind"].read
        with_it: list[Any] = [
            bad,
            [bad],
            {bad: "a"},
            {"a": bad},
            [{"provider": bad, "weight": 1}],
            f"env:{bad}",
            f"file:{bad}",
        ]
        if field.name in ("keys", "token"):
            with_it = [[with_it[-1]], [with_it[-2]]] if field.name == "keys" else with_it[-2:]
        for value in with_it:
            with pytest.raises((Wrong, ExceptionGroup)):
                read_option(value)


# Whatever is in a file.

FILES = {"ca", "tls_cert", "tls_key", "tokens_file", "path"}

_names = st.sampled_from(sorted({field.name for table in _TABLES for field in (*options(table), *tables(table))}))
_keys = _names | st.sampled_from(["a", "b", "openai"]) | st.text(max_size=5)
_texts = st.sampled_from(
    ["openai", "sse", "env:KEY", "file:key", "a", "/x", "127.0.0.1:1", "0.0.0.0:1", "10s", "1KiB", "http://127.0.0.1"]
)
_secrets = st.sampled_from(["{}", "env:{}", "env: {}", "https://{}@x", "{}:80", "http://x/?{}", "/{}", "ENV:{}"]).map(
    lambda form: form.format(SECRET)
)
_leaves = (
    st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats()
    | st.dates()
    | st.datetimes()
    | st.times()
    | _texts
    | _secrets
    | st.text(max_size=8)
)
_trees = st.dictionaries(
    _keys,
    st.recursive(
        _leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_keys, inner, max_size=4), max_leaves=25
    ),
    max_size=5,
)


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml(key)} = {_toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, str):
        return '"' + "".join(c if c.isalnum() and c.isascii() else f"\\U{ord(c):08x}" for c in value) + '"'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return re.sub(r"^(-?\d+)e", r"\1.0e", repr(value)) if math.isfinite(value) else str(value)
    return str(value) if isinstance(value, int) else value.isoformat()


def _names_a_file(tree: Any) -> bool:
    """Whether a secret stands where the name of a file belongs: that is shown."""
    if isinstance(tree, dict):
        return any((key in FILES and SECRET in str(inner)) or _names_a_file(inner) for key, inner in tree.items())
    return isinstance(tree, list) and any(map(_names_a_file, tree))


def _judge(folder: Path, tree: dict[str, Any]) -> None:
    path = folder / "sseflow.toml"
    path.write_bytes("".join(f"{_toml(key)} = {_toml(value)}\n" for key, value in tree.items()).encode())
    try:
        load(path, ENVIRON)
    except ConfigurationErrors as error:
        found = error
    else:
        return
    assert found.problems
    assert all(len(str(problem).splitlines()) == 1 for problem in found.problems)
    assert _names_a_file(tree) or SECRET not in f"{found} {found!r} {found.problems!r}"


@given(tree=_trees)
@settings(max_examples=100, deadline=None)
def test_whatever_is_in_it_there_are_problems_and_no_other_errors(
    tmp_path_factory: pytest.TempPathFactory, tree: dict[str, Any]
) -> None:
    """Each problem on one line; no value that may be a secret in any of them, nor in what was read."""
    _judge(tmp_path_factory.getbasetemp(), tree)


@st.composite
def _nearly_right(draw: st.DrawFn) -> dict[str, Any]:
    """Tables that are there, with options that are there, and with any values."""

    def fill(table: type) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for field in options(table):
            if draw(st.integers(0, 5)) == 0:
                found[field.name] = draw(_leaves | st.lists(_leaves, max_size=2))
        for field in tables(table):
            if draw(st.integers(0, 2)) == 0:
                inner = field.metadata["table"]
                match field.metadata["form"]:
                    case "one":
                        found[field.name] = fill(inner)
                    case "list":
                        found[field.name] = [fill(inner) for _ in range(draw(st.integers(0, 2)))]
                    case _:
                        found[field.name] = {draw(_keys): fill(inner) for _ in range(draw(st.integers(0, 2)))}
        return found

    return fill(Config)


@given(tree=_nearly_right())
@settings(max_examples=100, deadline=None)
def test_whatever_the_options_are_there_are_problems_and_no_other_errors(
    tmp_path_factory: pytest.TempPathFactory, tree: dict[str, Any]
) -> None:
    """The same, for files that nearly are what they should be."""
    _judge(tmp_path_factory.getbasetemp(), tree)
