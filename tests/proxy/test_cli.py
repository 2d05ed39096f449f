"""The command line: what it says, what it takes, and what it says of what it does not take."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path

import attrs
import pytest
import trustme

from sseflow import ConfigurationError
from sseflow.http import Address, HeadLimits, Origin, ServerLimits
from sseflow.proxy.__main__ import main
from sseflow.proxy._cli import parse, parser
from sseflow.proxy._settings import Binding, Policy, Route, Settings, Upstream

UPSTREAM = ("--upstream", "http://127.0.0.1:8000")

#: Which option sets what, and a value for it that is not its default.
OPTIONS = {
    "upstream.origin": ("--upstream", "https://a.example/v1"),
    "listen": ("--listen", "[::1]:0"),
    "trusted": ("--trusted", "10.0.0.0/8"),
    "trust_unix": ("--trusted", "unix"),
    "hosts": ("--allow-host", "A.example"),
    "policy.trailers": ("--allow-trailer", "X-Checksum"),
    "drain": ("--drain", "0"),
    "max_connections": ("--max-connections", "7"),
    "upstream.connect_timeout": ("--connect-timeout", "7.5"),
    "upstream.head_timeout": ("--upstream-head-timeout", "7.5"),
    "upstream.write_timeout": ("--upstream-write-timeout", "7.5"),
    "policy.gate_open_after": ("--gate-open-after", "0"),
    "policy.idle_timeout": ("--idle-timeout", "0"),
    "policy.linger": ("--linger", "7.5"),
    "policy.max_line": ("--max-line", "7"),
    "policy.max_event": ("--max-event", "7"),
    "policy.max_ratio": ("--max-ratio", "7"),
    "policy.max_decoded": ("--max-decoded", "7"),
    "max_per_address": ("--max-per-address", "7"),
    "policy.compress": ("--compress", "br, gzip"),
    "upstream.max_idle": ("--max-idle", "7"),
    "upstream.max_idle_time": ("--max-idle-time", "7.5"),
    "upstream.tls_timeout": ("--tls-timeout", "7.5"),
    "max_streams": ("--max-streams", "7"),
    "policy.gate": ("--gate", "warm"),
    "policy.keep_alive": ("--keep-alive", "7.5"),
    "policy.comments": ("--comments", "replace"),
    "policy.error_end": ("--error-end", "clean"),
    "policy.on_client_gone": ("--on-client-gone", "drain"),
    "policy.client_drain_time": ("--client-drain-time", "7.5"),
    "policy.client_drain_bytes": ("--client-drain-bytes", "7"),
    "policy.progress_timeout": ("--progress-timeout", "7.5"),
    "server.max_body": ("--max-request-body", "7"),
    "server.head_timeout": ("--head-timeout", "7.5"),
    "server.keepalive_timeout": ("--keepalive-timeout", "7.5"),
    "server.body_timeout": ("--body-timeout", "7.5"),
    "server.min_body_rate": ("--min-body-rate", "0"),
    "server.write_timeout": ("--write-timeout", "7.5"),
    "server.head.max_head": ("--max-head", "7"),
    "server.head.max_fields": ("--max-fields", "7"),
    "server.head.max_target": ("--max-target", "7"),
    "server.head.max_line": ("--max-field", "7"),
}
FILES = {"upstream.tls": "--upstream-ca"}

#: What only a configuration file can say.
IN_FILES_ONLY = {
    "admin",
    "policy.transcript",
    "admin_token",
    "history",
    "tokens",
    "upstream.allow_networks",
    "upstream.key_field",
    "upstream.keys",
    "upstream.models",
    "upstream.pass_credentials",
    "upstream.tell_who",
    "upstream.type",
}


def value(settings: Settings, path: str) -> object:
    """The value at a dotted path."""
    [route] = settings.routes
    found: object = settings
    for name in path.split("."):
        if name in ("policy", "upstream"):
            found = route.policy if name == "policy" else route.upstreams[0]
            continue
        found = getattr(found, name)
    return found


def help_text(capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as raised:
        main(["--help"])
    assert raised.value.code == 0
    return capsys.readouterr().out


def test_each_setting_has_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing that bounds or waits is without a place on the command line, and `--help` knows it."""
    names = {field.name for field in attrs.fields(Settings)} - {"server", "routes"}
    names |= {f"policy.{field.name}" for field in attrs.fields(Policy)}
    names |= {f"upstream.{field.name}" for field in attrs.fields(Upstream)} - {"upstream.head", "upstream.name"}
    names |= {f"server.{field.name}" for field in attrs.fields(ServerLimits)} - {"server.head"}
    names |= {f"server.head.{field.name}" for field in attrs.fields(HeadLimits)}
    assert names == {*OPTIONS, *FILES, *IN_FILES_ONLY}
    text = help_text(capsys)
    for option in (
        *(option for option, _ in OPTIONS.values()),
        *FILES.values(),
        "--tls-cert",
        "--tls-key",
        "--demo",
        "--log",
        "--workers",
    ):
        assert f"{option} " in text


def test_help_says_what_an_operator_asks(capsys: pytest.CaptureFixture[str]) -> None:
    """Defaults, signals, the exit status and the two paths of our own are in it, and no line is too long."""
    text = help_text(capsys)
    for word in ("default: 127.0.0.1:8080", "default: 30", "SIGTERM", "exit status", "/-/health", "/-/ready"):
        assert word in text
    assert not re.search(r"default: (None|==)", text)


@pytest.mark.parametrize("path", OPTIONS)
def test_each_option_sets_its_setting(path: str) -> None:
    """What is given on the command line arrives where it belongs."""
    default = parse(UPSTREAM).settings
    changed = parse((*(() if path == "upstream.origin" else UPSTREAM), *OPTIONS[path])).settings
    assert value(changed, path) != value(default, path)
    text = OPTIONS[path][1]
    if re.fullmatch("[0-9.]+", text):
        assert value(changed, path) == float(text)
    if path.startswith("server.head"):
        assert value(changed, "upstream.head") == changed.server.head
    expected = {
        "upstream.origin": Origin("https", "a.example", 443, "/v1"),
        "listen": (Binding(Address("::1", 0)),),
        "trusted": (ipaddress.ip_network("10.0.0.0/8"),),
        "hosts": frozenset({b"localhost", b"127.0.0.1", b"[::1]", b"a.example"}),
        "policy.trailers": frozenset({b"x-checksum"}),
        "policy.compress": ("br", "gzip"),
    }
    if path in expected:
        assert value(changed, path) == expected[path]


def test_the_defaults_are_those_of_the_settings() -> None:
    """A default stands in one place."""
    settings = parse(UPSTREAM).settings
    origin = Origin("http", "127.0.0.1", 8000)
    route = Route(upstreams=(Upstream(name=str(origin), origin=origin),))
    assert settings == Settings(routes=(route,), listen=settings.listen, hosts=settings.hosts)
    assert settings.listen == (Binding(Address("127.0.0.1", 8080)),)


@pytest.mark.parametrize(
    ("listen", "checked"),
    [
        (("127.0.0.1:0",), True),
        (("unix:x",), True),
        (("localhost:0", "[::1]:0"), True),
        (("0.0.0.0:0",), False),
        (("127.0.0.1:0", "10.0.0.1:0"), False),
    ],
)
def test_the_host_is_checked_where_only_this_machine_connects(listen: tuple[str, ...], checked: bool) -> None:
    """On loopback the names of this machine are allowed; elsewhere nobody knows by which name we are reached."""
    arguments = [part for address in listen for part in ("--listen", address)]
    settings = parse([*UPSTREAM, *arguments]).settings
    assert settings.hosts == (frozenset({b"localhost", b"127.0.0.1", b"[::1]"}) if checked else frozenset())


BAD = {
    "nothing": ([], "--upstream", "--demo"),
    "both": ([*UPSTREAM, "--demo"], "--demo", "not allowed with"),
    "no upstream": (["--upstream", "127.0.0.1:8000"], "--upstream", "http://127.0.0.1:8000"),
    "upstream with a user": (["--upstream", "http://a:sk-CANARY@b"], "--upstream", "neither user name"),
    "upstream with a strange port": (["--upstream", "http://a:99999"], "--upstream", "out of range"),
    "no coding": ([*UPSTREAM, "--compress", "gzip,zip"], "--compress", "there are gzip, br, zstd, deflate"),
    "no whole number": ([*UPSTREAM, "--min-body-rate", "-1"], "--min-body-rate", "whole number, 0 or more"),
    "no address": ([*UPSTREAM, "--listen", "8080"], "--listen", "127.0.0.1:8080"),
    "no number": ([*UPSTREAM, "--drain", "soon"], "--drain", "'soon' must be a number of seconds"),
    "not a number": ([*UPSTREAM, "--drain", "nan"], "--drain", "must be a number of seconds"),
    "negative": ([*UPSTREAM, "--idle-timeout", "-1"], "--idle-timeout", "0 or more"),
    "for ever": ([*UPSTREAM, "--head-timeout", "inf"], "--head-timeout", "must be a number"),
    "no time": ([*UPSTREAM, "--head-timeout", "0"], "--head-timeout", "more than 0"),
    "no worker": ([*UPSTREAM, "--workers", "0"], "--workers", "1 or more"),
    "no size": ([*UPSTREAM, "--max-head", "64k"], "--max-head", "whole number"),
    "nothing of a size": ([*UPSTREAM, "--max-head", "0"], "--max-head", "1 or more"),
    "keep-alives instead of comments, and none": (
        [*UPSTREAM, "--comments", "replace", "--keep-alive", "0"],
        "--comments",
        "give seconds",
    ),
    "no network": ([*UPSTREAM, "--trusted", "10.0.0.1/8"], "--trusted", "host bits"),
    "half a pair": ([*UPSTREAM, "--tls-cert", "x"], "--tls-cert", "--tls-key"),
    "no such certificate": (
        [*UPSTREAM, "--tls-cert", "/nowhere", "--tls-key", "/nowhere"],
        "--tls-cert",
        "No such file",
    ),
    "no such authority": (["--upstream", "https://a", "--upstream-ca", "/nowhere"], "--upstream-ca", "No such file"),
    "unknown": ([*UPSTREAM, "--turbo"], "--turbo", "--help"),
}


@pytest.mark.parametrize(("arguments", "where", "what"), BAD.values(), ids=BAD)
def test_what_is_wrong_is_said(arguments: list[str], where: str, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong command line ends with 2, and says which option is wrong and what would be right, without a traceback."""
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    assert raised.value.code == 2
    out, err = capsys.readouterr()
    assert not out
    assert where in err
    assert what in err
    assert len(err.splitlines()) <= 2
    assert "CANARY" not in err
    assert "_" not in err.replace("sseflow", "")


def test_files_of_tls_are_read(tmp_path: Path) -> None:
    """Certificates that are good make contexts; the upstream's are checked, and both ends say what they speak."""
    authority = trustme.CA()
    cert = authority.issue_cert("a.example")
    cert.cert_chain_pems[0].write_to_path(tmp_path / "cert")
    cert.private_key_pem.write_to_path(tmp_path / "key")
    authority.cert_pem.write_to_path(tmp_path / "ca")
    files = ("--tls-cert", str(tmp_path / "cert"), "--tls-key", str(tmp_path / "key"))
    settings = parse(["--upstream", "https://a", *files, "--upstream-ca", str(tmp_path / "ca")]).settings
    tls = settings.routes[0].upstreams[0].tls
    assert settings.listen[0].tls is not None
    assert tls is not None
    assert tls.check_hostname
    assert len(tls.get_ca_certs()) == 1
    assert parse(["--upstream", "https://a"]).settings.routes[0].upstreams[0].tls is not None
    assert parse(UPSTREAM).settings.routes[0].upstreams[0].tls is None


def test_a_proxy_that_cannot_be_used_is_said_at_the_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What `HTTPS_PROXY` says is looked at before anybody connects, and only if it is needed."""
    monkeypatch.setenv("HTTPS_PROXY", "socks5://127.0.0.1:1")
    parse(UPSTREAM)
    with pytest.raises(SystemExit) as raised:
        main(["--upstream", "https://a.example"])
    assert raised.value.code == 2
    assert "HTTPS_PROXY" in capsys.readouterr().err


def test_an_error_is_of_ours() -> None:
    """Who parses a command line in a program of their own gets an exception for what argparse does not know."""
    with pytest.raises(ConfigurationError):
        parse([*UPSTREAM, "--tls-key", "x"])
    assert parser().prog == "python -m sseflow.proxy"
