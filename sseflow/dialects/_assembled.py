"""What a stream said, put together: one shape for a whole answer and for one that was cut anywhere."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

INTERRUPTED = "interrupted before it produced a result"
"""What the result of a tool says that was never run, or not to its end."""


@attrs.frozen
class ToolError:
    """The result of a tool call that has no other."""

    message: str = INTERRUPTED


@attrs.frozen(kw_only=True)
class ToolCall:
    """A call of a tool that whoever asked for the answer is to run."""

    id: str | None
    name: str
    arguments: str
    """As they came, whole or not: JSON, or the free text of a custom tool."""

    finished: bool
    """Whether the arguments are whole, as far as the dialect tells."""

    result: ToolError | None = None
    """An error if the answer was interrupted; else None: the result is still to be made."""


@attrs.frozen(kw_only=True)
class Choice:
    """One answer. Only OpenAI chat completions can have several."""

    index: int = 0
    text: str = ""
    reasoning: str = ""
    """What the model thought: thinking, summaries of reasoning, and comments on what it is about to do."""

    refusal: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    """In the order in which they began."""

    finish: str | None = None
    """Why it ended, in the dialect's word; None if it did not."""

    other: bool = False
    """Something was produced that is none of the above, such as a picture; it is in `Assembled.body`."""

    @property
    def empty(self) -> bool:
        """Whether nothing was produced."""
        return not (self.text or self.reasoning or self.refusal or self.tool_calls or self.other)


_NOTHING = Choice()


@attrs.frozen(kw_only=True)
class Assembled:
    """An answer, or what there is of it. ``text`` and its neighbours are those of the first choice."""

    choices: tuple[Choice, ...]
    """In the order in which they began."""

    usage: Mapping[str, object] | None
    """As far as it was told, as the upstream gave it; later figures over earlier ones."""

    response_id: str | None
    model: str | None
    complete: bool
    """Whether the dialect's own end was seen. Of a dialect that has none: whether it was not interrupted."""

    truncated: bool
    """Whether some of what came is missing here, because there was more of it than was to be kept."""

    body: Mapping[str, object] | None
    """The answer as the dialect's API gives it without streaming: the JSON object, as far as it came. Nothing in it was
    made up: an answer that was cut has no reason for which it ended. None for plain Server-Sent Events."""

    @property
    def _first(self) -> Choice:
        return self.choices[0] if self.choices else _NOTHING

    @property
    def text(self) -> str:
        """What was said."""
        return self._first.text

    @property
    def reasoning(self) -> str:
        """What was thought."""
        return self._first.reasoning

    @property
    def refusal(self) -> str:
        """What was said in place of an answer."""
        return self._first.refusal

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The calls of tools, in the order in which they began."""
        return self._first.tool_calls

    @property
    def finish(self) -> str | None:
        """Why the answer ended, in the dialect's word; None if it did not."""
        return self._first.finish

    @property
    def empty(self) -> bool:
        """Whether nothing was produced, in any choice."""
        return all(choice.empty for choice in self.choices)
