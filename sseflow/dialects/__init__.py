"""How kinds of APIs speak through SSE: what is data, content, usage, an error and an end in each."""

from .._form import Text as Text
from ._anthropic import AnthropicMessages as AnthropicMessages
from ._assemble import assemble as assemble
from ._assembled import Assembled as Assembled
from ._assembled import Choice as Choice
from ._assembled import ToolCall as ToolCall
from ._assembled import ToolError as ToolError
from ._cache_marks import mark_for_cache as mark_for_cache
from ._dialect import BegunCall as BegunCall
from ._dialect import Dialect as Dialect
from ._dialect import DialectError as DialectError
from ._dialect import Reading as Reading
from ._json import error_in as error_in
from ._openai_chat import OpenAIChat as OpenAIChat
from ._openai_responses import OpenAIResponses as OpenAIResponses
from ._request import RequestBody as RequestBody
from ._request import elements as elements
from ._responses_items import CompleteResponse as CompleteResponse
from ._responses_items import as_input as as_input
from ._responses_items import input_items as input_items
from ._responses_items import rebuilt as rebuilt
from ._sse import PlainSSE as PlainSSE
from ._usage import Usage as Usage

__all__ = [
    "AnthropicMessages",
    "as_input",
    "assemble",
    "Assembled",
    "BegunCall",
    "Choice",
    "CompleteResponse",
    "Dialect",
    "DialectError",
    "elements",
    "error_in",
    "input_items",
    "mark_for_cache",
    "OpenAIChat",
    "OpenAIResponses",
    "PlainSSE",
    "Reading",
    "rebuilt",
    "RequestBody",
    "Text",
    "ToolCall",
    "ToolError",
    "Usage",
]
