"""Hold what nobody may read by accident."""

from __future__ import annotations

import hmac
from typing import NoReturn, final


@final
class Secret:
    """Hold a value that comes out by `reveal` only: never by ``repr``, ``str``, a comparison, a copy or a pickle.

    Two secrets are equal only if they are the same object; whether they hold the same is asked by `matches`.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str, /) -> None:
        self._value = value

    def reveal(self) -> str:
        """The value itself."""
        return self._value

    def matches(self, other: Secret, /) -> bool:
        """Whether the other holds the same value; the time that this takes does not tell where they differ."""
        return hmac.compare_digest(self._value.encode(errors="replace"), other._value.encode(errors="replace"))

    @property
    def hint(self) -> str:
        """The ends of the value, for people who must tell their keys apart; how long it is, is not shown."""
        size = len(self._value)
        shown = 4 if size >= 20 else 2 if size >= 10 else 1 if size >= 5 else 0
        if not shown:
            return "..." if size else ""
        return f"{self._value[:shown]}...{self._value[-shown:]}"

    def __repr__(self) -> str:
        return "Secret(...)"

    def __reduce_ex__(self, protocol: object, /) -> NoReturn:
        raise TypeError("a secret is neither pickled nor copied")
