"""What an error is to a client: a status, words without jargon, and the type that RFC 9209 has for it."""

from __future__ import annotations

from .. import RequestError, StreamError, TooLong, UpstreamError, UpstreamRefused, UpstreamTimeout
from ..dialects import DialectError
from ._verdict import Drained, Interrupted, of_error

_REQUEST_ERRORS = {401: "authentication_error", 403: "permission_error", 503: "api_error"}


def as_answer(error: Exception) -> tuple[int, DialectError]:
    """Status and words for the client's user; the operator's words are in the log."""
    kind = of_error(error).value
    match error:
        case RequestError():
            type_ = _REQUEST_ERRORS.get(error.status, "invalid_request_error")
            return error.status, DialectError(str(error), type_, None)
        case UpstreamRefused():
            message = error.said or "The model's server answered with an error."
            return error.status, DialectError(message, error.type or "api_error", error.code)
        case UpstreamTimeout():
            return error.status, DialectError(
                "The model's server did not answer in time. Please try again.", "api_error", kind
            )
        case UpstreamError():
            message = "The model's server could not be reached, or broke off. Please try again."
            return error.status, DialectError(message, "api_error", kind)
        case TooLong():
            return 502, DialectError("The model's server sent more than can be passed on.", "api_error", kind)
        case StreamError():
            message = "The model's server did not give a complete answer. Please try again."
            return 502, DialectError(message, "api_error", kind)
        case Drained():
            return 503, DialectError("This service is restarting. Please try again.", "api_error", kind)
        case Interrupted():
            return 503, DialectError("The answer was interrupted.", "api_error", kind)
        case _:
            return 500, DialectError("Something went wrong in this service.", "api_error", kind)


def reason_of(error: Exception) -> str:
    """The error type of RFC 9209, section 2.3."""
    match error:
        case UpstreamError():
            return error.reason
        case TooLong():
            return "http_response_body_size"
        case StreamError():
            return "http_response_incomplete"
        case RequestError(status=508):
            return "proxy_loop_detected"
        case RequestError(status=503):
            return "connection_limit_reached"
        case RequestError():
            return "http_request_error"
        case Drained() | Interrupted():
            return "proxy_internal_response"
        case _:
            return "proxy_internal_error"
