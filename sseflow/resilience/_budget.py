"""Keep retries from becoming a storm."""

from __future__ import annotations

import attrs

from .. import ConfigurationError


@attrs.define
class RetryBudget:
    """A bucket of tokens that requests fill and retries empty, so that retries stay a small part of all calls.

    Over any stretch of time there are at most ``share`` of its requests, plus ``floor`` for each of its seconds, plus
    ``most`` retries. One for each route. Pure: ``now`` is of a clock that does not go back.

    Args:
        share: retries for each request, 0.1 by default.
        floor: retries per second that are always allowed, 0.5 by default: with a few requests a minute, a tenth of
            them would be none.
        most: retries that can be saved up, 10 by default; there are as many at the beginning.

    Raises:
        ConfigurationError: a number is negative, or ``most`` less than 1.
    """

    share: float = attrs.field(default=0.1, kw_only=True)
    floor: float = attrs.field(default=0.5, kw_only=True)
    most: float = attrs.field(default=10.0, kw_only=True)

    requests: int = attrs.field(default=0, init=False)
    retries: int = attrs.field(default=0, init=False)
    refused: int = attrs.field(default=0, init=False)
    """Retries that there was no token for."""

    _tokens: float = attrs.field(default=0.0, init=False)
    _filled: float | None = attrs.field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        if not (self.share >= 0 and self.floor >= 0 and self.most >= 1):
            raise ConfigurationError("of a retry budget, share and floor must not be negative, and most at least 1")
        self._tokens = self.most

    def request(self) -> None:
        """Count a request, which is not a retry."""
        self.requests += 1
        self._tokens += self.share

    def take(self, now: float) -> bool:
        """Take a token for a retry, if there is one."""
        since = 0.0 if self._filled is None else max(0.0, now - self._filled)
        self._tokens = min(self.most, self._tokens + since * self.floor)
        self._filled = now
        if self._tokens < 1:
            self.refused += 1
            return False
        self._tokens -= 1
        self.retries += 1
        return True
