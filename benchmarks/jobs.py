"""Say what the load generator is to do, and what came of it: both cross a pipe as JSON."""

from __future__ import annotations

import attrs


@attrs.frozen(kw_only=True)
class Job:
    """What to do: ``lockstep``, ``pour``, ``requests``, ``paced``, ``idle`` or ``soak``."""

    mode: str
    shape: str
    port: int | None
    """Of the target; None: no target, the client connects to the upstream."""

    pids: tuple[int, ...] = ()
    """Whose CPU time and memory count."""

    http: bool = True
    prefix: str = ""
    """What the paths of requests begin with, for a target that tells by it whom to ask."""

    stripped: bool = False
    """What comes is what the default pipeline lets out; otherwise it is what was sent, comments included."""

    rewritten: bool = False
    """The target writes every event anew, so that none can be compared: they are counted."""

    upstream_tls: bool = False
    """The upstream speaks TLS."""

    client_tls: bool = False
    """The target speaks TLS to its clients."""

    certificates: str = ""
    """The folder with what TLS needs: ``cert.pem``, ``key.pem``, and ``ca.pem``, which signed it."""

    streams: int = 1
    seconds: float = 1.0
    """Of the measurement; a fifth of it goes before, unmeasured."""

    repeat: int = 1
    """How often the body is sent for ``pour``, and how many pieces of it to each stream for ``paced`` and ``soak``."""

    rate: float = 0.0
    """Events per second, all streams together."""

    spin: bool = False
    """Look at the sockets without a pause, so that no time is lost by waking up."""

    limit: float = 60.0
    """Seconds for all of it."""


@attrs.frozen(kw_only=True)
class Report:
    """What came of it."""

    wrong: str | None = None
    """What was wrong; nothing else counts then."""

    count: float = 0
    """Events, or requests, in the time measured."""

    payload: int = 0
    """Bytes of event streams in the time measured."""

    seconds: float = 0.0
    cpu: float = 0.0
    """Seconds of CPU time of the target in that time."""

    waited: float = 0.0
    """Seconds of that time that target and generator together would have run, had nothing else had their cores."""

    idle: float = 0.0
    """Seconds of that time in which the generator had nothing to do: if there are none, it is the bottleneck."""

    median: float = 0.0
    """Of the times of single events or requests, in seconds."""

    p99: float = 0.0
    grown: int = 0
    """Bytes that the target's memory grew by."""

    samples: tuple[tuple[float, int], ...] = ()
    """Of ``soak``: seconds since its beginning, and the bytes that the target held in memory then."""
