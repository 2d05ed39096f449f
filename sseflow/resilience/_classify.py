"""What an error means: of which kind it is, and whether to try again."""

# What is known comes first: the error's class, its type and code, its status. Words come last, since a provider may
# change them on any day. A status of 500, 502, 503 or 504 says little more than that something failed, so the words
# are asked before it counts. No words can make another one below 500 worth a retry.
#
# There is one table, in the order in which its rules apply. It is gone through by class, by code and status, by words.

from __future__ import annotations

import concurrent.futures
import enum
import re
from typing import TypeVar

import attrs
import trio

from .. import (
    ConfigurationError,
    CutMidEvent,
    EmptyStream,
    IdleTimeout,
    ProgressTimeout,
    RequestError,
    TooLong,
    Truncated,
    UpstreamLost,
    UpstreamProtocolError,
    UpstreamRefused,
    UpstreamTimeout,
)
from ..dialects import DialectError, error_in

MOST_DETAIL = 500
"""Code points of an upstream's own words that are shown; an ellipsis follows where there were more."""

MOST_TEXT = 64 * 1024
"""Code points of an error's text in which anything is looked for."""

RETRYABLE = frozenset({408, 429, 500, 502, 503, 504, 529})
"""Statuses that are worth another attempt, unless something else is known."""

E = TypeVar("E", bound=Exception)


class Kind(enum.Enum):
    """What an error is about."""

    OVERLOADED = "overloaded"
    RATE_LIMIT = "rate_limit"
    TIMEOUT = "timeout"
    STREAM_SILENCE_TIMEOUT = "stream_silence_timeout"
    USAGE_LIMIT = "usage_limit"
    AUTH = "auth"
    CONFIG = "config"
    MISSING_KEY = "missing_key"
    PROVIDER_DISABLED = "provider_disabled"
    CONTENT_FILTER = "content_filter"
    GENERIC = "generic"


_MESSAGES = {
    Kind.OVERLOADED: "The provider is overloaded.",
    Kind.RATE_LIMIT: "The provider is limiting the rate of requests.",
    Kind.TIMEOUT: "The provider could not be reached, or broke off.",
    Kind.STREAM_SILENCE_TIMEOUT: "The provider has sent nothing for too long.",
    Kind.USAGE_LIMIT: "The usage limit of the provider's account is reached.",
    Kind.AUTH: "The provider does not accept the credentials.",
    Kind.CONFIG: "The provider does not accept the request as it is.",
    Kind.MISSING_KEY: "There is no key for the provider.",
    Kind.PROVIDER_DISABLED: "The provider is disabled.",
    Kind.CONTENT_FILTER: "The provider's content filter has stopped the answer.",
    Kind.GENERIC: "The provider has failed.",
}


@attrs.frozen(kw_only=True)
class Classification:
    """What an error means."""

    kind: Kind

    retryable: bool
    """Whether another attempt may go well."""

    message: str = attrs.field(default=attrs.Factory(lambda self: _MESSAGES[self.kind], takes_self=True))
    """What happened, in words for a user; by default those of the kind."""

    detail: str = ""
    """What the upstream said, up to 500 code points."""

    provider: str | None = None

    status: int | None = None
    """The HTTP status, if there is one."""

    retry_after: float | None = None
    """The seconds that the upstream asked to be left alone for."""

    chain_broken: bool = False
    """The response that the request goes on from is not there any more: try again with the whole history."""


class NotCalled(UpstreamRefused):
    """Refused by us, before the upstream was called: it says nothing about the upstream.

    Args:
        message: what happened; a client may see it, too.
        classification: what it means, with the status and the ``retry_after`` that a client should see.
        type, code: what it is in a dialect's words.
    """

    def __init__(self, message: str, classification: Classification, *, status: int, type: str, code: str) -> None:
        super().__init__(
            message, status=status, said=message, type=type, code=code, retry_after=classification.retry_after
        )
        self.classification = attrs.evolve(classification, detail=message, status=status)


def _words(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


@attrs.frozen(kw_only=True)
class _Rule:
    """A row of the table: it applies if any of what it has is there."""

    kind: Kind
    retryable: bool
    errors: tuple[type[Exception], ...] = ()
    codes: frozenset[str] = frozenset()
    statuses: frozenset[int] = frozenset()
    words: re.Pattern[str] | None = None
    unless_config: bool = False
    """Neither a status nor words count if the text speaks of a model or a request that is wrong."""

    detail: str | None = None
    """Shown instead of the upstream's words, where these name things that only the upstream knows."""


OUT_OF_QUOTA = frozenset(
    {"insufficient_quota", "billing_error", "billing_hard_limit_reached", "billing_not_active", "insufficient_credits"}
)
"""Types and codes of errors that mean: the account has nothing left."""

_CONFIG = _words(
    r"(?:invalid|unknown|unsupported) model|model[ _]not[ _]found"
    r"|model [^\n]{0,100}?(?:does not exist|is not supported)"
    r"|context[ _](?:length|window)[ _]exceeded|maximum context length|prompt is too long"
)

_RULES = (
    _Rule(kind=Kind.GENERIC, retryable=False, words=_words(r"\b(?:chat|request|operation) interrupted\b")),
    _Rule(
        kind=Kind.GENERIC,
        retryable=False,
        words=_words(r"no tool output found"),
        detail="The output of a tool call is missing in the conversation.",
    ),
    _Rule(
        kind=Kind.GENERIC,
        retryable=False,
        words=_words(r"without its required (?:'reasoning'|following) item"),
        detail="A reasoning item, or what belongs to it, is missing in the conversation.",
    ),
    _Rule(
        kind=Kind.OVERLOADED,
        retryable=True,
        codes=frozenset({"overloaded_error", "overloaded"}),
        statuses=frozenset({529}),
        words=_words(r"overloaded"),
    ),
    _Rule(
        kind=Kind.USAGE_LIMIT,
        retryable=False,
        codes=OUT_OF_QUOTA,
        statuses=frozenset({402}),
        words=_words(r"\bquota\b|insufficient_quota|\bbilling\b|payment required|credit balance"),
    ),
    _Rule(
        kind=Kind.MISSING_KEY,
        retryable=False,
        codes=frozenset({"missing_api_key"}),
        words=_words(r"missing api key|no api key|did(?:n't| not) provide an api key"),
    ),
    _Rule(
        kind=Kind.AUTH,
        retryable=False,
        codes=frozenset({"authentication_error", "invalid_api_key"}),
        statuses=frozenset({401}),
        words=_words(r"authentication|unauthorized|invalid api key|incorrect api key"),
    ),
    _Rule(
        kind=Kind.CONTENT_FILTER,
        retryable=False,
        codes=frozenset({"content_filter", "content_policy_violation"}),
        words=_words(r"content filter|content[ _]policy"),
    ),
    _Rule(
        kind=Kind.AUTH,
        retryable=False,
        codes=frozenset({"permission_error"}),
        statuses=frozenset({403}),
        words=_words(r"\bforbidden\b"),
        unless_config=True,
    ),
    _Rule(
        kind=Kind.RATE_LIMIT,
        retryable=True,
        codes=frozenset({"rate_limit_error", "rate_limit_exceeded"}),
        statuses=frozenset({429}),
        words=_words(r"rate[ _-]?limit|too many requests"),
        unless_config=True,
    ),
    _Rule(
        kind=Kind.PROVIDER_DISABLED,
        retryable=False,
        codes=frozenset({"provider_disabled"}),
        words=_words(r"provider (?:is )?disabled|provider_disabled"),
    ),
    _Rule(kind=Kind.STREAM_SILENCE_TIMEOUT, retryable=True, errors=(IdleTimeout, ProgressTimeout)),
    _Rule(
        kind=Kind.TIMEOUT,
        retryable=True,
        errors=(UpstreamTimeout, TimeoutError, trio.TooSlowError),
        words=_words(r"deadline exceeded|deadline (?:has )?passed"),
    ),
    _Rule(
        kind=Kind.TIMEOUT,
        retryable=True,
        # An exception that says "cancelled" is somebody else's cancellation: ours is no `Exception`.
        errors=(
            UpstreamLost, UpstreamProtocolError, Truncated, CutMidEvent, ConnectionError, EOFError,
            trio.BrokenResourceError, concurrent.futures.CancelledError,
        ),
        codes=frozenset({"timeout_error"}),
        statuses=frozenset({408, 502, 503, 504}),
        words=_words(
            r"time[sd]?[ -]?out|\beof\b|broken pipe|connection (?:was )?(?:reset|refused)|\bgoaway\b"
            r"|http/?2[^\n]{0,40}?(?:stream|connection) (?:was )?closed|client connection (?:lost|closed)"
            r"|closed before (?:message_stop|response\.completed|its (?:terminal|last) event)"
            r"|\b(?:no_error|internal_error|refused_stream|cancel|enhance_your_calm)\b"
            r"[^\n]{0,20}?received from (?:the )?peer"
        ),
        unless_config=True,
    ),
    _Rule(
        kind=Kind.CONFIG,
        retryable=False,
        errors=(RequestError, ConfigurationError),
        codes=frozenset({"context_length_exceeded", "model_not_found", "not_found_error", "request_too_large"}),
        words=_CONFIG,
    ),
    _Rule(kind=Kind.GENERIC, retryable=True, errors=(EmptyStream,)),
    _Rule(kind=Kind.GENERIC, retryable=False, errors=(TooLong,)),
    _Rule(
        kind=Kind.GENERIC,
        retryable=True,
        statuses=frozenset({500}),
        words=_words(r"(?:internal )?server[ _]error"),
    ),
)  # fmt: skip

_SAYS_LITTLE = frozenset({500, 502, 503, 504})

_CHAIN_BROKEN = "previous_response_not_found"

_PROVIDERS = (
    ("openai-compat", _words(r"openai[ _-]compat")),
    ("azure", _words(r"\bazure")),
    ("openrouter", _words(r"openrouter")),
    ("bedrock", _words(r"bedrock")),
    ("vercel", _words(r"vercel")),
    ("anthropic", _words(r"anthropic")),
    ("google", _words(r"google|gemini")),
    ("openai", _words(r"openai")),
)

_SAID_STATUS = _words(r"\b(?:status(?:[ _]?code)?|http(?:/\d(?:\.\d)?)?)\s*[:=]?\s*([45]\d\d)\b")
_NO_STATUS = _words(r"[\w.\]-]:\d+|\bstream(?:[ _-]?id)?\s*[:=#]?\s*\d+")
_BARE_STATUS = re.compile(r"(?<![\w.])(401|403|408|429|500|502|503|504|529)(?![\w]|\.\d)")


@attrs.frozen(kw_only=True)
class _Facts:
    """What is known of an error."""

    error: Exception
    codes: frozenset[str]
    known_status: int | None
    """As an attribute of the error."""

    status: int | None
    """Known, or found in the text."""

    retry_after: float | None
    text: str
    detail: str

    @property
    def speaks_of_config(self) -> bool:
        return _CONFIG.search(self.text) is not None


def classify(error: Exception, *, provider: str | None = None) -> Classification:
    """Say what an error means, by what is known of it first and by its words last.

    An error that carries a classification keeps it. Of a group with one error in it that error counts. Errors of other
    libraries are understood by their ``status`` or ``status_code``, ``type``, ``code`` and ``retry_after``.

    Args:
        provider: who was called, if that is known; otherwise it is looked for in the text.
    """
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    carried = getattr(error, "classification", None)
    if isinstance(carried, Classification):
        return carried
    facts = _facts(error)
    provider = provider or next((name for name, words in _PROVIDERS if words.search(facts.text)), None)
    broken = _is_chain_broken(facts)
    rule = _CHAIN_RULE if broken else _rule_for(facts)
    return Classification(
        kind=rule.kind,
        retryable=rule.retryable,
        detail=_shorten(rule.detail or facts.detail),
        provider=provider or ("openai" if broken else None),
        status=facts.status,
        retry_after=facts.retry_after,
        chain_broken=broken,
    )


def carry(error: E, classification: Classification) -> E:
    """Have an error carry a classification, for whoever knows better; `classify` then returns that one."""
    error.__dict__["classification"] = classification
    return error


def empty_answer(finish_reason: str | None, *, text: str, tool_calls: int) -> EmptyStream | None:
    """The error that an answer without text and without a tool call is; None if it is none.

    One that says ``stop`` or ``length`` is accepted with nothing in it: the model had nothing to say.
    """
    if tool_calls or text.strip() or finish_reason in {"stop", "length"}:
        return None
    return EmptyStream(f"the answer has neither text nor a tool call, and its finish reason is {finish_reason!r}")


def _shorten(text: str) -> str:
    """At most 500 code points of ``text``, and an ellipsis if there are more."""
    return text if len(text) <= MOST_DETAIL else text[:MOST_DETAIL] + "…"


_CHAIN_RULE = _Rule(kind=Kind.GENERIC, retryable=True)
_REFUSED = _Rule(kind=Kind.CONFIG, retryable=False)
_UNKNOWN = _Rule(kind=Kind.GENERIC, retryable=False)


def _facts(error: Exception) -> _Facts:
    said = error.said if isinstance(error, UpstreamRefused) else None
    text = (said or str(error) or type(error).__name__)[:MOST_TEXT]
    start = text.find("{")
    body = (error_in(text[start:].encode(errors="replace")) if start >= 0 else None) or DialectError()
    codes = (getattr(error, "code", None), getattr(error, "type", None), body.code, body.type)
    status = getattr(error, "status", None) or getattr(error, "status_code", None)
    known = status if isinstance(status, int) and 400 <= status <= 599 else None
    seconds = getattr(error, "retry_after", None)
    return _Facts(
        error=error,
        codes=frozenset(code for code in codes if isinstance(code, str)),
        known_status=known,
        status=known or _status_in(text) or body.status,
        # It may have stood in a stream, where nobody has checked it.
        retry_after=seconds if isinstance(seconds, int | float) and seconds >= 0 else None,
        text=text,
        detail=body.message or text,
    )


def _status_in(text: str) -> int | None:
    found = _SAID_STATUS.search(text) or _BARE_STATUS.search(_NO_STATUS.sub(" ", text))
    return int(found[1]) if found else None


def _is_chain_broken(facts: _Facts) -> bool:
    text = facts.text.casefold()
    return _CHAIN_BROKEN in facts.codes or ("previous response with id" in text and "not found" in text)


def _by_class(rule: _Rule, facts: _Facts) -> bool:
    return isinstance(facts.error, rule.errors)


def _by_code(rule: _Rule, facts: _Facts) -> bool:
    if not facts.codes.isdisjoint(rule.codes):
        return True
    if facts.known_status not in rule.statuses - _SAYS_LITTLE:
        return False
    return not (rule.unless_config and facts.speaks_of_config)


def _by_words(rule: _Rule, facts: _Facts) -> bool:
    if facts.status not in rule.statuses and not (rule.words is not None and rule.words.search(facts.text)):
        return False
    if rule.retryable and facts.status is not None and facts.status < 500 and facts.status not in RETRYABLE:
        return False
    return not (rule.unless_config and facts.speaks_of_config)


def _rule_for(facts: _Facts) -> _Rule:
    for applies in (_by_class, _by_code, _by_words):
        for rule in _RULES:
            if applies(rule, facts):
                return rule
    return _REFUSED if facts.status is not None and facts.status < 500 else _UNKNOWN
