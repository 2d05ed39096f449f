"""What is kept of streams: records, and who may write them."""

from ._lease import Epochs as Epochs
from ._lease import Lease as Lease
from ._lease import StaleLease as StaleLease
from ._recorder import MemoryRecorder as MemoryRecorder
from ._recorder import Record as Record
from ._recorder import Recorder as Recorder
from ._recorder import RecordTooLong as RecordTooLong
from ._recorder import record_shielded as record_shielded

__all__ = [
    "Epochs",
    "Lease",
    "MemoryRecorder",
    "Record",
    "record_shielded",
    "Recorder",
    "RecordTooLong",
    "StaleLease",
]
