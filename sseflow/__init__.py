"""Composable stages over raw byte streams, for proxies of Server-Sent Events."""

from ._errors import ConfigurationError as ConfigurationError
from ._errors import CutMidEvent as CutMidEvent
from ._errors import EmptyStream as EmptyStream
from ._errors import Error as Error
from ._errors import EventTooLong as EventTooLong
from ._errors import HeldTooMuch as HeldTooMuch
from ._errors import IdleTimeout as IdleTimeout
from ._errors import InflatesTooMuch as InflatesTooMuch
from ._errors import LineTooLong as LineTooLong
from ._errors import ProgressTimeout as ProgressTimeout
from ._errors import RequestError as RequestError
from ._errors import StreamError as StreamError
from ._errors import TooLong as TooLong
from ._errors import Truncated as Truncated
from ._errors import UpstreamError as UpstreamError
from ._errors import UpstreamLost as UpstreamLost
from ._errors import UpstreamProtocolError as UpstreamProtocolError
from ._errors import UpstreamRefused as UpstreamRefused
from ._errors import UpstreamTimeout as UpstreamTimeout
from ._events import Event as Event
from ._events import EventParser as EventParser
from ._events import Events as Events
from ._events import by_event as by_event
from ._events import encode as encode
from ._events import encode_comment as encode_comment
from ._items import Cancelled as Cancelled
from ._items import Closed as Closed
from ._items import End as End
from ._items import Eof as Eof
from ._items import Failed as Failed
from ._items import Head as Head
from ._items import Item as Item
from ._items import is_event_stream as is_event_stream
from ._lines import by_line as by_line
from ._pipeline import Pipeline as Pipeline
from ._relay import Outcome as Outcome
from ._relay import Relay as Relay
from ._relay import Sink as Sink
from ._relay import Source as Source
from ._relay import relay as relay
from ._stage import Chain as Chain
from ._stage import Cut as Cut
from ._stage import Lines as Lines
from ._stage import Observe as Observe
from ._stage import Stage as Stage
from ._standard import StandardPipeline as StandardPipeline
from ._streams import FilteredReceiveStream as FilteredReceiveStream
from ._streams import FilteredSendStream as FilteredSendStream

__all__ = [
    "by_event",
    "by_line",
    "Cancelled",
    "Chain",
    "Closed",
    "ConfigurationError",
    "Cut",
    "CutMidEvent",
    "EmptyStream",
    "encode",
    "encode_comment",
    "End",
    "Eof",
    "Error",
    "Event",
    "EventParser",
    "Events",
    "EventTooLong",
    "Failed",
    "FilteredReceiveStream",
    "FilteredSendStream",
    "Head",
    "HeldTooMuch",
    "IdleTimeout",
    "InflatesTooMuch",
    "is_event_stream",
    "Item",
    "Lines",
    "LineTooLong",
    "Observe",
    "Outcome",
    "Pipeline",
    "ProgressTimeout",
    "Relay",
    "relay",
    "RequestError",
    "Sink",
    "Source",
    "Stage",
    "StandardPipeline",
    "StreamError",
    "TooLong",
    "Truncated",
    "UpstreamError",
    "UpstreamLost",
    "UpstreamProtocolError",
    "UpstreamRefused",
    "UpstreamTimeout",
]
