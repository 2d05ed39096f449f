"""What is kept of exchanges: the history of chains of responses, without what is secret."""

from ._history import History as History
from ._history import HistoryCounts as HistoryCounts
from ._history import open_history as open_history
from ._redact import redact_json as redact_json

__all__ = [
    "History",
    "HistoryCounts",
    "open_history",
    "redact_json",
]
