"""Who may write: an epoch decides, not a status."""

# A status says what somebody else thought of a stream when he last looked, and the one who is stopped is the last to
# learn of it. So nobody is asked whether he still owns a stream. Who begins to work on it takes a lease, which makes
# every older one stale, and whoever writes shows his own. Stopping a stream takes no lease away: what it has produced
# is written by the one who produced it, as long as nobody has begun anew.

from __future__ import annotations

import itertools

import attrs

from .. import Error

DEFAULT_MAX_STREAMS = 65_536
"""As many as may be worked on at once by far; each is a few hundred bytes."""


class StaleLease(Error):
    """Somebody else has begun to work on the stream since; what was to be written belongs to a past that is over."""

    def __init__(self, stream_id: str, epoch: int) -> None:
        super().__init__(stream_id, epoch)
        self.stream_id = stream_id
        self.epoch = epoch

    def __str__(self) -> str:
        return f"the lease of epoch {self.epoch} on {self.stream_id!r} is stale"


@attrs.frozen
class Lease:
    """The right to write what becomes of a stream, until somebody takes a newer one."""

    stream_id: str
    epoch: int
    """Grows with each lease, of whatever stream, so that none comes twice."""


class Epochs:
    """Hands out leases, and knows which are stale.

    Args:
        max_streams: streams whose leases are known, 65,536 by default. With one more the lease that was taken longest
            ago is stale: in doubt nobody writes.
    """

    def __init__(self, *, max_streams: int = DEFAULT_MAX_STREAMS) -> None:
        if max_streams < 1:
            raise ValueError(f"max_streams={max_streams}: must be at least 1")
        self._max_streams = max_streams
        self._numbers = itertools.count(1)
        self._newest: dict[str, Lease] = {}  # that taken longest ago comes first

    def acquire(self, stream_id: str) -> Lease:
        """Take a lease on a stream. All older ones on it are stale from now on."""
        lease = Lease(stream_id, next(self._numbers))
        self._newest.pop(stream_id, None)
        self._newest[stream_id] = lease
        if len(self._newest) > self._max_streams:
            del self._newest[next(iter(self._newest))]
        return lease

    def check(self, lease: Lease) -> None:
        """Call it in the same step as the write, with no checkpoint between the two.

        Raises:
            StaleLease: somebody took a newer one, or this one was released or forgotten.
        """
        if self._newest.get(lease.stream_id) != lease:
            raise StaleLease(lease.stream_id, lease.epoch)

    def release(self, lease: Lease) -> None:
        """Forget a lease when there is nothing more to write. Of a stale one there is nothing to forget."""
        if self._newest.get(lease.stream_id) == lease:
            del self._newest[lease.stream_id]
