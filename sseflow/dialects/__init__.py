"""How kinds of APIs speak through SSE: what is data, content, usage, an error and an end in each."""

from .._form import Text as Text
from ._anthropic import AnthropicMessages as AnthropicMessages
from ._dialect import Dialect as Dialect
from ._dialect import DialectError as DialectError
from ._dialect import Reading as Reading
from ._json import error_in as error_in
from ._openai_chat import OpenAIChat as OpenAIChat
from ._openai_responses import OpenAIResponses as OpenAIResponses
from ._sse import PlainSSE as PlainSSE

__all__ = [
    "AnthropicMessages",
    "Dialect",
    "DialectError",
    "error_in",
    "OpenAIChat",
    "OpenAIResponses",
    "PlainSSE",
    "Reading",
    "Text",
]
