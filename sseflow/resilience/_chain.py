"""Go on where a provider has lost the response that a conversation was to go on from."""

# A turn that goes on from a response sends only what is new, and its id. Once the provider has lost that response,
# every attempt fails in the same way, until the whole history is sent instead. The id is forgotten first: whatever
# goes wrong behind that, it is never sent again.

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Generic, TypeVar

import trio

from ._classify import Classification, Kind, carry, classify

P = TypeVar("P")
T = TypeVar("T")

_TERMINAL = Classification(kind=Kind.GENERIC, retryable=False)


class ChainRecovery(Generic[P]):
    """Recover one run of a conversation from a broken chain, between two attempts.

    Call `recover` with each error that another attempt may follow, before that one. It does nothing but for an error
    that says that the chain is broken (`Classification.chain_broken`). ``P`` is whatever a prompt is to the caller.

    Args:
        leave_chain: told that the run no longer goes on from a response. Called once.
        reload_history: loads the whole history. Called once.
        prepare: makes a prompt of the history, as it did before the first attempt.
        prepare_for_provider: edits that prompt as its provider wants it; see `sseflow.dialects.mark_for_cache`.
        on_error: told of a hook that failed without ending the run: ``leave_chain`` or ``reload_history``.
        timeout: seconds for each hook; one that takes longer has failed, with `trio.TooSlowError`.
    """

    def __init__(
        self,
        *,
        leave_chain: Callable[[], Awaitable[object]] | None = None,
        reload_history: Callable[[], Awaitable[P]] | None = None,
        prepare: Callable[[P], Awaitable[P]] | None = None,
        prepare_for_provider: Callable[[P], P] | None = None,
        on_error: Callable[[Exception], object] | None = None,
        timeout: float = 10.0,
    ) -> None:
        self._leave_chain = leave_chain
        self._reload_history = reload_history
        self._prepare = prepare
        self._prepare_for_provider = prepare_for_provider
        self._on_error = on_error
        self._timeout = timeout
        self.recovered = False
        """Whether a prompt was made of the reloaded history."""

    async def recover(self, error: Exception, prompt: P, *options: MutableMapping[str, object]) -> P:
        """Say what the next attempt sends.

        On a broken chain ``previous_response_id`` is removed from all options first. Then the chain is left, the
        history is reloaded, and prepared. Where it cannot be reloaded the prompt stays: it goes without its chain,
        and the provider may make less of it. A second broken chain of the same run only loses its id.

        Args:
            error: what the last attempt failed with.
            prompt: what it sent.
            options: of the call, and of the run and whatever else a later call takes its options from.

        Raises:
            Exception: the reloaded history could not be prepared. The error carries a classification that says not to
                try again.
        """
        if not classify(error).chain_broken:
            return prompt
        for each in options:
            each.pop("previous_response_id", None)
        leave, self._leave_chain = self._leave_chain, None
        if leave is not None:
            await self._attempt(leave)
        reload, self._reload_history = self._reload_history, None
        history = await self._attempt(reload) if reload is not None else None
        if history is None:
            return prompt
        try:
            prompt = await self._prepared(history)
        except Exception as failure:
            raise carry(failure, _TERMINAL) from error
        self.recovered = True
        return prompt

    async def _prepared(self, history: P) -> P:
        if self._prepare is not None:
            with trio.fail_after(self._timeout):
                history = await self._prepare(history)
        return history if self._prepare_for_provider is None else self._prepare_for_provider(history)

    async def _attempt(self, hook: Callable[[], Awaitable[T]]) -> T | None:
        """What a hook returns; None if it fails, of which ``on_error`` is told."""
        try:
            with trio.fail_after(self._timeout):
                return await hook()
        except Exception as failure:
            if self._on_error is not None:
                self._on_error(failure)
            return None
