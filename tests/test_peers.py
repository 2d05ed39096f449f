"""What sseflow is measured beside passes every byte, too; and where it cannot be measured, that is said."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator

import attrs
import pytest

from benchmarks import __main__ as program
from benchmarks import proxy, scenarios
from benchmarks.bench import Setup
from benchmarks.jobs import Job
from benchmarks.peers import PEERS, Peer, Wiring
from benchmarks.peers.compiled import SOURCES
from benchmarks.processes import Target, Wrong, is_supported
from benchmarks.results import ALONE, Missing, Reading
from benchmarks.scenarios import Scenario

pytestmark = pytest.mark.skipif(not is_supported(), reason="the load generator needs Linux: epoll and /proc")


@pytest.fixture
def setup() -> Iterator[Setup]:
    """A generator, and a place for files."""
    with Setup(smoke=True) as made:
        yield made


# LiteLLM takes a minute until it has answered its first request.
@pytest.fixture(params=[name for name in PEERS if name != "litellm"])
def peer(request: pytest.FixtureRequest) -> Peer:
    """Each that is installed."""
    found = PEERS[request.param]
    if (what_to_do := found.missing()) is not None:
        pytest.skip(f"{found.name} is not installed: {what_to_do}")
    return found


@pytest.mark.slow
def test_a_peer_passes_every_byte(peer: Peer, setup: Setup) -> None:
    """Comments, too, if it is not there to strip them: what comes is checked."""
    job = Job(mode="pour", shape="comments", port=None, streams=2, repeat=2)
    report = proxy.through(peer, setup, Wiring(), job)
    assert report.count == 2 * 40 * max(1, 2 // peer.slowness)
    assert report.cpu > 0


@pytest.mark.slow
def test_a_peer_that_says_so_speaks_tls(peer: Peer, setup: Setup) -> None:
    """To its clients and to the upstream, whose certificate it checks."""
    if not peer.tls:
        pytest.skip(f"{peer.name} is not measured over TLS")
    job = Job(mode="lockstep", shape="token", port=None, streams=2, seconds=0.02, upstream_tls=True, client_tls=True)
    assert proxy.through(peer, setup, Wiring(upstream_tls=True, client_tls=True), job).count > 0


@pytest.mark.slow
def test_a_peer_that_strips_nothing_is_found_out(peer: Peer, setup: Setup) -> None:
    """And one that strips, if it must not."""
    job = Job(mode="pour", shape="comments", port=None)
    with pytest.raises(Wrong, match="is not what was sent"):
        proxy.through(attrs.evolve(peer, strips=not peer.strips), setup, Wiring(), job)


@pytest.mark.slow
def test_all_processes_of_a_peer_count(setup: Setup) -> None:
    """nginx has a master and a worker."""
    nginx = PEERS["nginx"]
    if nginx.missing() is not None:
        pytest.skip("nginx is not installed")
    with nginx.start(setup, Wiring()) as target:
        setup.do(Job(mode="lockstep", shape="token", port=target.port, seconds=0.02))
        assert len(target.pids) == 2


@pytest.mark.slow
def test_a_peer_that_cannot_be_measured_is_said_to_be_so() -> None:
    """It is not there, or it does not start: the others are measured all the same."""

    def broken(setup: Setup, wiring: Wiring) -> contextlib.AbstractContextManager[Target]:
        raise Wrong("it does not start")

    absent = Peer(name="absent", start=broken, missing=lambda: "apt-get install absent")
    failing = Peer(name="failing", start=broken, missing=lambda: None)
    scenario = Scenario(name="s", job=lambda _: Job(mode="pour", shape="token", port=None), figures=scenarios.WHOLE)
    with Setup(smoke=True, peers=[absent, failing]) as setup:
        found = list(proxy.run(scenario, setup))
    assert [(type(each), each.subject) for each in found] == [
        (Reading, ALONE),
        (Reading, "sseflow"),
        (Missing, "absent"),
        (Missing, "failing"),
    ]
    assert [(each.short, each.why) for each in found if isinstance(each, Missing)] == [
        ("not installed", "apt-get install absent"),
        ("failed", "it does not start"),
    ]


@pytest.mark.slow
def test_what_is_wrong_with_ours_is_raised_behind_the_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are measured all the same, and so is what comes behind it."""

    def broken(setup: Setup, wiring: Wiring) -> contextlib.AbstractContextManager[Target]:
        raise Wrong("a byte was lost")

    ours = attrs.evolve(proxy.SSEFLOW, start=broken)
    sound = attrs.evolve(proxy.SSEFLOW, name="sound")
    monkeypatch.setattr(proxy, "SSEFLOW", ours)
    first = Scenario(name="s", job=lambda _: Job(mode="pour", shape="token", port=None), figures=scenarios.WHOLE)
    second = attrs.evolve(first, name="t")
    found: list[Reading | Missing] = []
    with Setup(smoke=True, peers=[sound]) as setup, pytest.raises(Wrong, match="a byte was lost"):
        found.extend(proxy._all(lambda _: (first, second), setup))
    assert [(each.benchmark, each.subject) for each in found] == [
        (benchmark, subject) for benchmark in ("s", "t") for subject in (ALONE, "sseflow", "sound")
    ]


def test_names_choose_peers() -> None:
    """None without the option, all without a name, and an unknown one is refused with those that there are."""
    assert program.parse([]).peers == []
    assert program.parse(["--peers"]).peers == list(PEERS.values())
    assert program.parse(["--peers", "go", "nginx"]).peers == [PEERS["nginx"], PEERS["go"]]
    with pytest.raises(ValueError, match=r"there are: nginx, .*litellm"):
        program.choose_peers(["nonsense"])
    with pytest.raises(SystemExit) as exited:
        program.main(["--peers", "nonsense"])
    assert exited.value.code == 2


def test_the_sources_in_go_are_formatted() -> None:
    """As gofmt writes them."""
    gofmt = shutil.which("gofmt")
    if gofmt is None:
        pytest.skip("go is not installed: apt-get install golang-go")
    done = subprocess.run([gofmt, "-l", str(SOURCES)], capture_output=True, text=True, check=True)
    assert done.stdout == ""
