"""A broken chain: the id is forgotten, the history sent instead, and what fails on the way does no harm."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import attrs
import pytest
import trio
from trio.testing import MockClock

from sseflow import UpstreamRefused
from sseflow.dialects import mark_for_cache
from sseflow.resilience import classify
from sseflow.resilience._chain import ChainRecovery

Message = dict[str, object]
Prompt = list[Message]


async def hang() -> Prompt:
    """Never come back."""
    await trio.sleep_forever()
    raise AssertionError


def message(text: str, role: str = "user") -> Message:
    """One message."""
    return {"role": role, "content": text}


FIRST = [message("what is new")]
HISTORY = [message("what was said"), message("what is new")]


def broken(text: str = "Previous response with id 'resp_1' not found.") -> UpstreamRefused:
    """What a provider says that has lost a response."""
    return UpstreamRefused(text, status=400, said=text, type="invalid_request_error")


BY_CODE = UpstreamRefused("the upstream refused", status=400, code="previous_response_not_found")
UNAVAILABLE = UpstreamRefused("later", status=503)


@attrs.define
class Run:
    """A run of a conversation: options, hooks that note that they were called, and the loop of attempts."""

    failures: list[Exception]
    """One for each attempt that fails; the ones behind them go well."""

    reload_error: Exception | None = None
    leave_error: Exception | None = None
    options: dict[str, object] = attrs.Factory(lambda: {"previous_response_id": "resp_1", "model": "m"})
    noted: list[str] = attrs.Factory(list)
    calls: list[tuple[dict[str, object], Prompt]] = attrs.Factory(list)
    errors: list[Exception] = attrs.Factory(list)
    history: Prompt = attrs.Factory(lambda: list(HISTORY))
    prompt: Prompt = attrs.Factory(list)

    async def leave(self) -> None:
        self.noted.append("leave")
        if self.leave_error is not None:
            raise self.leave_error

    async def reload(self) -> Prompt:
        self.noted.append("reload")
        if self.reload_error is not None:
            raise self.reload_error
        return self.history

    async def prepare(self, prompt: Prompt) -> Prompt:
        assert self.options.keys() == {"model"} or "reload" not in self.noted
        self.noted.append("prepare")
        return [message("prepared", "system"), *prompt]

    def recovery(
        self,
        *,
        leave: bool = True,
        reload: bool = True,
        prepare: Callable[[Prompt], Awaitable[Prompt]] | None = None,
        for_provider: Callable[[Prompt], Prompt] | None = None,
    ) -> ChainRecovery[Prompt]:
        return ChainRecovery(
            leave_chain=self.leave if leave else None,
            reload_history=self.reload if reload else None,
            prepare=prepare or self.prepare,
            prepare_for_provider=for_provider,
            on_error=self.errors.append,
        )

    async def step(self, recovery: ChainRecovery[Prompt]) -> None:
        """Call until it goes well, with the run's options."""
        while True:
            options = dict(self.options)
            self.calls.append((dict(options), self.prompt))
            if not self.failures:
                return
            error = self.failures.pop(0)
            if not classify(error).retryable:
                raise error
            self.prompt = await recovery.recover(error, self.prompt, options, self.options)
            self.options = {**self.options, **options}

    async def go(self, recovery: ChainRecovery[Prompt]) -> None:
        """Prepare, and make the first step."""
        self.prompt = await self.prepare(list(FIRST))
        await self.step(recovery)

    @property
    def ids(self) -> list[object]:
        """What each call went on from."""
        return [options.get("previous_response_id") for options, _ in self.calls]


@pytest.mark.parametrize(
    "error",
    [broken(), broken("PREVIOUS RESPONSE WITH ID 'r': NOT FOUND"), BY_CODE],
    ids=["text", "upper case", "code"],
)
async def test_a_broken_chain_is_recovered(error: Exception) -> None:
    """Two calls: the second goes on from nothing, and sends the reloaded history."""
    run = Run([error])
    recovery = run.recovery()
    await run.go(recovery)
    assert run.ids == ["resp_1", None]
    assert run.calls[1][1][1:] == HISTORY
    assert run.noted == ["prepare", "leave", "reload", "prepare"]
    assert recovery.recovered
    assert run.errors == []


async def test_the_reloaded_messages_are_prepared() -> None:
    """Preparation runs twice, and the second prompt has what it adds and what was reloaded."""
    run = Run([broken()])
    await run.go(run.recovery())
    assert run.noted.count("prepare") == 2
    assert [each["content"] for each in run.calls[1][1]] == ["prepared", "what was said", "what is new"]


async def test_the_reloaded_prompt_is_prepared_for_its_provider() -> None:
    """The marks for the cache stand on the last system message and on the last two messages."""
    run = Run([broken()])
    run.history = [message("b", "system"), message("c"), message("d", "assistant"), message("e")]
    await run.go(run.recovery(for_provider=mark_for_cache))
    assert ["cache_control" in str(each) for each in run.calls[1][1]] == [False, True, False, True, True]


async def test_a_history_is_reloaded_without_a_hook_that_leaves_the_chain() -> None:
    """The one hook does not need the other: two calls, one reload, two preparations."""
    run = Run([broken()])
    await run.go(run.recovery(leave=False))
    assert run.noted == ["prepare", "reload", "prepare"]
    assert run.ids == ["resp_1", None]


async def test_a_later_step_does_not_go_back_to_the_chain() -> None:
    """A failure, the recovered step, and one that follows it: none after the first carries the id."""
    run = Run([broken()])
    recovery = run.recovery()
    await run.go(recovery)
    run.prompt = [*run.prompt, message("the result of a tool")]
    await run.step(recovery)
    assert run.ids == ["resp_1", None, None]
    assert run.calls[2][1][1:3] == HISTORY


async def test_a_history_that_cannot_be_reloaded_still_leaves_the_chain() -> None:
    """The id is gone, the chain was left once, and the prompt is the one that was prepared at first, and only once."""
    run = Run([broken()], reload_error=OSError("the disk is gone"))
    recovery = run.recovery()
    await run.go(recovery)
    assert run.noted == ["prepare", "leave", "reload"]
    assert run.ids == ["resp_1", None]
    assert run.calls[1][1] is run.calls[0][1]
    assert run.errors == [run.reload_error]
    assert not recovery.recovered


async def test_recovery_without_a_chain_and_without_hooks_is_safe() -> None:
    """Nothing to remove, nothing to call: two calls with the same prompt."""
    run = Run([broken()], options={"model": "m"})
    await run.go(ChainRecovery())
    assert run.noted == ["prepare"]
    assert run.ids == [None, None]
    assert run.calls[0] == run.calls[1]


async def test_another_error_does_not_touch_the_chain() -> None:
    """A 503 is tried again with its id, and no hook is called."""
    run = Run([UNAVAILABLE])
    await run.go(run.recovery())
    assert run.noted == ["prepare"]
    assert run.ids == ["resp_1", "resp_1"]


async def test_a_reloaded_history_that_cannot_be_prepared_ends_the_run() -> None:
    """The preparation's error is raised, also where it would be worth a retry elsewhere."""

    async def fail(prompt: Prompt) -> Prompt:
        raise ConnectionError("the summariser is away")

    run = Run([broken()])
    with pytest.raises(ConnectionError) as caught:
        await run.go(run.recovery(prepare=fail))
    assert not classify(caught.value).retryable
    assert caught.value.__cause__ is not None
    assert "previous_response_id" not in run.options
    assert len(run.calls) == 1


async def test_a_chain_that_cannot_be_left_is_recovered_nevertheless() -> None:
    """The hook's failure is told, and the history is sent."""
    run = Run([broken()], leave_error=OSError("read only"))
    await run.go(run.recovery())
    assert run.noted == ["prepare", "leave", "reload", "prepare"]
    assert run.errors == [run.leave_error]


async def test_the_hooks_are_called_once_in_a_run() -> None:
    """A chain that breaks again has nothing more to reload: its id is forgotten, its prompt stays."""
    run = Run([broken(), broken()])
    await run.go(run.recovery())
    assert run.noted == ["prepare", "leave", "reload", "prepare"]
    assert run.calls[2][1] is run.calls[1][1]


async def test_a_hook_that_hangs_is_given_up(autojump_clock: MockClock) -> None:
    """It has failed after its time, and the run goes on without it."""
    errors: list[Exception] = []
    recovery = ChainRecovery(reload_history=hang, on_error=errors.append, timeout=3)
    options: dict[str, object] = {"previous_response_id": "r"}
    began = trio.current_time()
    assert await recovery.recover(broken(), FIRST, options) is FIRST
    assert [type(error) for error in errors] == [trio.TooSlowError]
    assert trio.current_time() - began == 3
    assert options == {}


async def test_a_cancelled_recovery_has_forgotten_the_id() -> None:
    """Cancellation goes through the hooks, and what is left never sends the id again."""
    options: dict[str, object] = {"previous_response_id": "r"}
    errors: list[Exception] = []
    recovery = ChainRecovery(reload_history=hang, on_error=errors.append)
    with trio.CancelScope() as scope:
        scope.cancel()
        await recovery.recover(broken(), FIRST, options)
    assert scope.cancelled_caught
    assert options == {}
    assert errors == []


async def test_hooks_that_are_not_given_are_not_missed() -> None:
    """A history that needs no preparation is the prompt; a failure that nobody wants to hear of stops nothing."""

    async def reload() -> Prompt:
        return HISTORY

    async def fail() -> None:
        raise OSError("away")

    assert await ChainRecovery(leave_chain=fail, reload_history=reload).recover(broken(), FIRST) is HISTORY
