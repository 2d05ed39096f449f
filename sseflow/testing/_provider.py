"""A provider of a model that is none: it speaks as the real ones do, knows its keys, and fails when it is told to."""

from __future__ import annotations

import contextlib
import json
import math
import ssl
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Literal, Protocol, TypeAlias

import attrs

from .._errors import ConfigurationError
from ._forms import (
    ChatForm,
    Finish,
    Form,
    Json,
    MessagesForm,
    OpenRouterForm,
    Problem,
    ResponsesForm,
    Said,
    Stream,
    ToolCall,
    new_id,
)
from ._script import After, Call, Close, HeadStep, Hold, Script, Send, Step, Wait
from ._script import Finish as FinishStep
from ._upstream import ReceivedRequest, Upstream, serve_upstream

TEXT = "Hello from a provider that is none."

Fields: TypeAlias = tuple[tuple[str, str], ...]

#: As which provider a `FakeProvider` speaks.
ProviderKind: TypeAlias = Literal["openai", "anthropic", "openrouter", "sse"]


class Behaviour(Protocol):
    """What a provider does with one request."""

    def steps(self, asked: Asked, /) -> Iterable[Step]:
        """What is played for it."""


@attrs.frozen
class Asked:
    """A request that a provider has found nothing wrong with.

    Attributes:
        form: in which form it is answered.
        body: what was sent.
        fields: what the head of a good answer says.
        refusal: makes the answer that says what is wrong.
        answer: what the provider says by default.
    """

    form: Form
    body: Json
    fields: Fields
    refusal: Callable[[Form, Problem], Iterator[Step]]
    answer: Answer

    @property
    def streams(self) -> bool:
        """Whether it is to be answered by a stream."""
        return self.form.streams(self.body)

    def head(self) -> HeadStep:
        """The head of a stream."""
        return HeadStep(200, None, None, "text/event-stream; charset=utf-8", None, self.fields)


def _after(stream: Stream, after: int | None) -> tuple[bytes, ...]:
    """The events up to that piece of text; none at all for None."""
    return () if after is None else (*stream.opening, *stream.pieces[:after])


def _whole(status: int, body: bytes, fields: Fields) -> Iterator[Step]:
    yield HeadStep(status, "length", None, "application/json", None, fields)
    yield Send(body)
    yield FinishStep()


@attrs.frozen(kw_only=True)
class Answer:
    """A good answer: a stream if one was asked for, else one piece.

    Attributes:
        text: what the model says.
        chunks: into how many pieces the text is cut, at most one for each character; None: each word is one.
        pace: seconds before each piece of a stream.
        reasoning: what it thinks before; not shown by OpenAI's chat completions.
        tools: which tools it calls behind its text.
        finish: why it ends.
        input_tokens: what the usage says of the question. (The output is counted: one token a piece, or a word.)
        cached_tokens: how many of them came from a cache.
        hold: the name of a hold, at which the answer waits until the test calls ``release``.
        hold_after: behind how many pieces of text; 0: behind what opens the stream; None: before the head, as
            always with an answer in one piece.
        fields: more fields of the head.
    """

    text: str = TEXT
    chunks: int | None = attrs.field(default=None, validator=attrs.validators.optional(attrs.validators.ge(1)))
    pace: float = 0
    reasoning: str = ""
    tools: tuple[ToolCall, ...] = ()
    finish: Finish = "stop"
    input_tokens: int = 11
    cached_tokens: int = 0
    hold: str | None = None
    hold_after: int | None = 1
    fields: Mapping[str, str] = attrs.field(factory=dict[str, str])

    def said(self) -> Said:
        """The same, for a form to put into words."""
        return Said(
            pieces=tuple(_cut(self.text, self.chunks)),
            reasoning=self.reasoning,
            tools=self.tools,
            finish=self.finish,
            input_tokens=self.input_tokens,
            cached_tokens=self.cached_tokens,
        )

    def steps(self, asked: Asked, /) -> Iterator[Step]:
        asked = attrs.evolve(asked, fields=(*asked.fields, *self.fields.items()))
        if self.hold is not None and (self.hold_after is None or not asked.streams):
            yield Hold(self.hold)
        if asked.streams:
            yield from self._stream(asked)
            return
        answer = asked.form.whole(self.said(), asked.body)
        yield Call(lambda: asked.form.keep(answer, asked.body))
        yield from _whole(200, json.dumps(answer).encode(), asked.fields)

    def _stream(self, asked: Asked) -> Iterator[Step]:
        stream = asked.form.stream(self.said(), asked.body)
        yield asked.head()
        yield from (Send(event) for event in stream.opening)
        held_at = min(-1 if self.hold_after is None else self.hold_after, len(stream.pieces))
        for i, piece in enumerate((*stream.pieces, b"")):
            if self.hold is not None and i == held_at:
                yield Hold(self.hold)
            if piece and self.pace:
                yield Wait(self.pace)
            if piece:
                yield Send(piece)
        # Before the end goes out: whoever has read it may go on at once.
        yield Call(stream.keep)
        yield from (Send(event) for event in stream.closing)
        yield FinishStep()


def _cut(text: str, count: int | None) -> Iterator[str]:
    if count is None:
        words = text.split(" ")
        yield from (word if i == 0 else f" {word}" for i, word in enumerate(words) if text)
        return
    count = min(count, len(text))
    yield from (text[len(text) * i // count : len(text) * (i + 1) // count] for i in range(count))


@attrs.frozen
class Status:
    """An error, with a body in the provider's form.

    Attributes:
        status: the status.
        message, type, code, param: what the body says; by default what the provider says of this status.
        retry_after: seconds that ``Retry-After`` (and ``retry-after-ms``) asks for; None: there is none.
        body: sent instead, as it is.
        fields: more fields of the head.
    """

    status: int
    message: str | None = attrs.field(default=None, kw_only=True)
    type: str | None = attrs.field(default=None, kw_only=True)
    code: str | None = attrs.field(default=None, kw_only=True)
    param: str | None = attrs.field(default=None, kw_only=True)
    retry_after: float | None = attrs.field(default=None, kw_only=True)
    body: bytes | None = attrs.field(default=None, kw_only=True)
    fields: Mapping[str, str] = attrs.field(factory=dict[str, str], kw_only=True)

    def steps(self, asked: Asked, /) -> Iterator[Step]:
        fields = tuple(self.fields.items())
        if self.body is not None:
            yield from _whole(self.status, self.body, (*fields, *_waiting(self.retry_after)))
            return
        message = self.message or _MESSAGES.get(self.status, "Something went wrong.")
        problem = Problem(self.status, message, self.type, self.code, self.param, self.retry_after)
        for step in asked.refusal(asked.form, problem):
            yield attrs.evolve(step, fields=(*step.fields, *fields)) if isinstance(step, HeadStep) else step


_MESSAGES = {
    404: "The requested resource was not found.",
    408: "Request timed out.",
    429: "Rate limit reached for requests.",
    500: "The server had an error while processing your request. Sorry about that!",
    502: "Bad gateway.",
    503: "The engine is currently overloaded, please try again later.",
    504: "Gateway timeout.",
    529: "Overloaded",
}


def _waiting(seconds: float | None) -> Fields:
    if seconds is None:
        return ()
    return (("Retry-After", str(math.ceil(seconds))), ("retry-after-ms", f"{seconds * 1000:.0f}"))


@attrs.frozen
class Reset:
    """A reset of the connection, before a byte is answered."""

    def steps(self, asked: Asked, /) -> Iterator[Step]:
        yield Close("reset")


@attrs.frozen
class CutAfter:
    """An answer whose connection ends at a byte: its head, its framing and its body are counted.

    A shorter one is sent whole.

    Attributes:
        bytes: how many are sent.
        how: by an orderly close, ``"fin"``, or by a reset, ``"rst"``.
        answer: what is cut; None: the provider's default, if that is an `Answer`.
    """

    bytes: int
    how: Literal["fin", "rst"] = "fin"
    answer: Answer | None = None

    def steps(self, asked: Asked, /) -> Iterator[Step]:
        yield After(self.bytes, Close("cut" if self.how == "fin" else "reset"))
        yield from (self.answer or asked.answer).steps(asked)


@attrs.frozen
class Stall:
    """An answer that stops at a byte, and stays open for as long as the client does.

    Attributes:
        after_bytes: how many are sent, head and framing included.
        name: it goes on when the test calls ``release`` with this name.
        answer: what is stalled; None: the provider's default, if that is an `Answer`.
    """

    after_bytes: int = 0
    name: str | None = None
    answer: Answer | None = None

    def steps(self, asked: Asked, /) -> Iterator[Step]:
        yield After(self.after_bytes, Wait(math.inf) if self.name is None else Hold(self.name))
        yield from (self.answer or asked.answer).steps(asked)


@attrs.frozen(kw_only=True)
class ErrorEvent:
    """An error inside a stream, in the provider's form, and a clean end. An answer in one piece has a status instead.

    Attributes:
        status: which error it is; the client has long seen 200.
        message, type, code: what it says; by default what the provider says of this status.
        after: behind how many pieces of text; 0: behind what opens the stream; None: it is the first event.
        failed: OpenAI's Responses say ``response.failed`` instead of ``error``.
        answer: what it interrupts; None: the provider's default, if that is an `Answer`.
    """

    status: int = 529
    message: str = "Overloaded"
    type: str | None = None
    code: str | None = None
    after: int | None = None
    failed: bool = False
    answer: Answer | None = None

    def steps(self, asked: Asked, /) -> Iterator[Step]:
        if not asked.streams:
            yield from Status(self.status, message=self.message, type=self.type, code=self.code).steps(asked)
            return
        problem = Problem(self.status, self.message, self.type, self.code)
        stream = asked.form.stream((self.answer or asked.answer).said(), asked.body)
        events = _after(stream, self.after)
        say = asked.form.error_event
        if self.failed and isinstance(asked.form, ResponsesForm):
            say = asked.form.failed_event
        yield asked.head()
        yield from (Send(event) for event in events)
        yield Send(say(problem, stream.base, len(events)))
        yield FinishStep()


@attrs.frozen(kw_only=True)
class Truncated:
    """A stream that stops early, and is ended as if it were complete.

    Attributes:
        after: behind how many pieces of text; 0: behind what opens the stream.
        in_event: it stops inside the next event.
        answer: what is truncated; None: the provider's default, if that is an `Answer`.
    """

    after: int = 1
    in_event: bool = False
    answer: Answer | None = None

    def steps(self, asked: Asked, /) -> Iterator[Step]:
        said = (self.answer or asked.answer).said()
        if not asked.streams:
            body = json.dumps(asked.form.whole(said, asked.body)).encode()
            yield from _whole(200, body[: len(body) // 2], asked.fields)
            return
        stream = asked.form.stream(said, asked.body)
        yield asked.head()
        yield from (Send(event) for event in _after(stream, self.after))
        if self.in_event:
            following = (*stream.pieces[self.after :], *stream.closing, b"data: x")[0]
            yield Send(following[: len(following) // 2])
        yield FinishStep()


@attrs.frozen
class CommentsOnly:
    """A stream of comments, and a clean end."""

    count: int = 3

    def steps(self, asked: Asked, /) -> Iterator[Step]:
        if not asked.streams:
            yield from _whole(200, b"", asked.fields)
            return
        yield asked.head()
        yield from [Send(b": ping\n\n")] * self.count
        yield FinishStep()


@attrs.frozen
class Empty:
    """An answer of nothing: status 200, and a clean end."""

    def steps(self, asked: Asked, /) -> Iterable[Step]:
        return CommentsOnly(0).steps(asked)


@attrs.frozen
class Played:
    """The first section of a `Script`, for what nothing else does."""

    script: Script

    def steps(self, asked: Asked, /) -> Iterable[Step]:
        return self.script.sections[0].steps


class _Kind:
    """What is one provider's own: its paths, where its keys stand, its words. This one is nobody's: plain events."""

    def __init__(self, forms: Mapping[str, Form], others: Form | None = None) -> None:
        self.forms = forms
        self.others = others
        """The form of all other paths; None: there are none."""

    def key_of(self, request: ReceivedRequest) -> str | None:
        scheme, _, key = (request.get("authorization") or "").partition(" ")
        return key.strip() if scheme.lower() == "bearer" else None

    def refuse(self, request: ReceivedRequest) -> Problem | None:
        """What is wrong with the fields of a request, its key aside."""
        return None

    def unknown(self, key: str | None) -> Problem:
        return Problem(401, "Unauthorized")

    def limited(self, retry_after: float | None) -> Problem:
        return Problem(429, "Too many requests", retry_after=retry_after)

    def forbidden(self) -> Problem:
        return Problem(403, "Forbidden")

    def exhausted(self) -> Problem:
        return Problem(429, "Quota exceeded")

    def fields(self, left: int) -> Fields:
        """What each head says: the request's id, and how many more may come."""
        return (("x-request-id", new_id("req_")),)


class _OpenAI(_Kind):
    def unknown(self, key: str | None) -> Problem:
        where = "You can find your API key at https://platform.openai.com/account/api-keys."
        if key is None:
            return Problem(401, f"You didn't provide an API key. {where}")
        return Problem(401, f"Incorrect API key provided: {key[:3]}****. {where}", code="invalid_api_key")

    def limited(self, retry_after: float | None) -> Problem:
        again = "" if retry_after is None else f" Please try again in {retry_after:g}s."
        message = f"Rate limit reached in organization org-fake on requests per min (RPM): Limit 3, Used 3.{again}"
        return Problem(429, message, "requests", "rate_limit_exceeded", retry_after=retry_after)

    def forbidden(self) -> Problem:
        return Problem(403, "Project `proj_fake` does not have access to this model", code="model_not_found")

    def exhausted(self) -> Problem:
        message = "You exceeded your current quota, please check your plan and billing details."
        return Problem(429, message, "insufficient_quota", "insufficient_quota")

    def fields(self, left: int) -> Fields:
        limits = (("x-ratelimit-limit-requests", "3"), ("x-ratelimit-remaining-requests", str(left)))
        return (*super().fields(left), *limits, ("x-ratelimit-reset-requests", "20s"))


class _OpenRouter(_Kind):
    def unknown(self, key: str | None) -> Problem:
        return Problem(401, "No auth credentials found" if key is None else "User not found.")

    def limited(self, retry_after: float | None) -> Problem:
        return Problem(429, "Rate limit exceeded: free-models-per-min.", retry_after=retry_after)

    def forbidden(self) -> Problem:
        return Problem(403, "Key limit exceeded (total limit).")

    def exhausted(self) -> Problem:
        return Problem(402, "Insufficient credits. Add more using https://openrouter.ai/settings/credits")


class _Anthropic(_Kind):
    def key_of(self, request: ReceivedRequest) -> str | None:
        return request.get("x-api-key") or super().key_of(request)

    def refuse(self, request: ReceivedRequest) -> Problem | None:
        if request.get("anthropic-version") is None:
            return Problem(400, "anthropic-version: header is required")
        return None

    def unknown(self, key: str | None) -> Problem:
        return Problem(401, "x-api-key header is required" if key is None else "invalid x-api-key")

    def limited(self, retry_after: float | None) -> Problem:
        message = "This request would exceed your organization's rate limit of 3 requests per minute."
        return Problem(429, message, retry_after=retry_after)

    def forbidden(self) -> Problem:
        return Problem(403, "Your API key does not have permission to use the specified resource.")

    def exhausted(self) -> Problem:
        return Problem(400, "Your credit balance is too low to access the Anthropic API.")

    def fields(self, left: int) -> Fields:
        name = "anthropic-ratelimit-requests"
        return (("request-id", new_id("req_")), (f"{name}-limit", "3"), (f"{name}-remaining", str(left)))


def _make_kind(name: ProviderKind) -> _Kind:
    match name:
        case "openai":
            return _OpenAI({"/v1/chat/completions": ChatForm(), "/v1/responses": ResponsesForm()})
        case "openrouter":
            return _OpenRouter({"/api/v1/chat/completions": OpenRouterForm()})
        case "anthropic":
            return _Anthropic({"/v1/messages": MessagesForm()})
        case "sse":
            return _Kind({}, Form())
    raise ConfigurationError(f"{name!r} is no provider; there are openai, anthropic, openrouter and sse")


class FakeProvider(Upstream):
    """A server that speaks as a provider of models does, for tests of what stands in front of one.

    A request is refused, in the provider's words, if its key or its body is wrong; else it takes the next of what
    `next` was given, and when there is nothing, `default`. What is refused uses nothing up.

    Args:
        kind: as which provider it speaks.
        keys: whom it serves; None: everybody.
        default: what it does with a request for which nothing else is scripted.
        tls: a server's context, for TLS on each connection.

    Raises:
        ConfigurationError: there is no such kind.
    """

    def __init__(
        self,
        kind: ProviderKind,
        *,
        keys: Iterable[str] | None = None,
        default: Behaviour | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(tls=tls)
        self.kind: ProviderKind = kind
        """Who it is."""

        self._kind = _make_kind(kind)
        self._keys = None if keys is None else frozenset(keys)
        self._refused: dict[str, Problem] = {}
        self._queues: dict[str | None, deque[Behaviour]] = {}

        self.default: Behaviour = Answer() if default is None else default
        """What is done with a request for which nothing else is scripted."""

    @classmethod
    def serve(
        cls,
        kind: ProviderKind,
        *,
        keys: Iterable[str] | None = None,
        default: Behaviour | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> contextlib.AbstractAsyncContextManager[FakeProvider]:
        """The same, listening on a free port of the loopback interface until the block is left."""
        return serve_upstream(cls(kind, keys=keys, default=default, tls=tls))

    @property
    def waiting(self) -> int:
        """How many scripted behaviours no request has taken yet."""
        return sum(map(len, self._queues.values()))

    def next(self, *behaviours: Behaviour, key: str | None = None) -> None:
        """Script the next requests, in this order; those of ``key`` only, which then come first."""
        self._queues.setdefault(key, deque()).extend(behaviours)

    def limit(self, key: str, *, retry_after: float | None = None) -> None:
        """Refuse a key with 429, and ask for so many seconds of patience, until `allow` is called."""
        self._refused[key] = self._kind.limited(retry_after)

    def forbid(self, key: str) -> None:
        """Refuse a key with 403."""
        self._refused[key] = self._kind.forbidden()

    def exhaust(self, key: str) -> None:
        """Refuse a key as one whose money is spent: OpenAI says 429, OpenRouter 402, Anthropic 400."""
        self._refused[key] = self._kind.exhausted()

    def revoke(self, key: str) -> None:
        """Refuse a key with 401."""
        self._refused[key] = self._kind.unknown(key)

    def allow(self, key: str) -> None:
        """Serve a key again."""
        self._refused.pop(key, None)

    def forget(self) -> None:
        """Remember none of the responses that were answered: whoever continues one is told that it is not found."""
        for form in self._kind.forms.values():
            if isinstance(form, ResponsesForm):
                form.forget()

    def key_of(self, request: ReceivedRequest) -> str | None:
        """The key that came with a request, from where this provider looks for it."""
        return self._kind.key_of(request)

    def _steps_for(self, request: ReceivedRequest) -> Iterator[Step]:
        yield from self._answer(request)
        if (request.get("connection") or "").lower() == "close":
            yield Close("close")

    def _answer(self, request: ReceivedRequest) -> Iterable[Step]:
        form = self._kind.forms.get(request.path, self._kind.others)
        if form is None:
            there_are = ", ".join(self._kind.forms)
            form = next(iter(self._kind.forms.values()))
            return self._refuse(form, Problem(404, f"Unknown request URL; there are {there_are}"))
        if problem := self._refuse_head(request):
            return self._refuse(form, problem)
        body = _read_body(request)
        problem = _NO_OBJECT if body is None else form.refuse(body)
        if body is None or problem is not None:
            return self._refuse(form, problem or _NO_OBJECT)
        answer = self.default if isinstance(self.default, Answer) else Answer()
        asked = Asked(form, body, self._kind.fields(2), self._refuse, answer)
        return self._take(self._kind.key_of(request)).steps(asked)

    def _refuse_head(self, request: ReceivedRequest) -> Problem | None:
        key = self._kind.key_of(request)
        if self._keys is not None and key not in self._keys:
            return self._kind.unknown(key)
        return self._refused.get(key or "") or self._kind.refuse(request)

    def _refuse(self, form: Form, problem: Problem) -> Iterator[Step]:
        fields = (*self._kind.fields(0 if problem.status == 429 else 2), *_waiting(problem.retry_after))
        return _whole(problem.status, json.dumps(form.error(problem)).encode(), fields)

    def _take(self, key: str | None) -> Behaviour:
        for queue in (self._queues.get(key), self._queues.get(None)):
            if queue:
                return queue.popleft()
        return self.default


_NO_OBJECT = Problem(400, "We could not parse the JSON body of your request: it must be an object.")


def _read_body(request: ReceivedRequest) -> Json | None:
    """The object that was sent, which is empty if nothing was; None: it is none."""
    try:
        body = request.json() if request.body else {}
    except ValueError:
        return None
    return body if isinstance(body, dict) else None
