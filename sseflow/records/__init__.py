"""What is kept of streams: records and who may write them, and the history of chains of responses."""

from ._history import History as History
from ._history import HistoryCounts as HistoryCounts
from ._history import open_history as open_history
from ._lease import Epochs as Epochs
from ._lease import Lease as Lease
from ._lease import StaleLease as StaleLease
from ._recorder import MemoryRecorder as MemoryRecorder
from ._recorder import Record as Record
from ._recorder import Recorder as Recorder
from ._recorder import RecordTooLong as RecordTooLong
from ._recorder import record_shielded as record_shielded
from ._redact import redact_json as redact_json
from ._redact import redacting as redacting

__all__ = [
    "Epochs",
    "History",
    "HistoryCounts",
    "Lease",
    "MemoryRecorder",
    "open_history",
    "Record",
    "record_shielded",
    "Recorder",
    "RecordTooLong",
    "redact_json",
    "redacting",
    "StaleLease",
]
