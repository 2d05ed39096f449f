"""Ready-made stages, one file each."""

from ._comment_stripper import CommentStripper as CommentStripper
from ._commit_gate import CommitGate as CommitGate
from ._data_counter import DataCounter as DataCounter
from ._eof_recorder import EofRecorder as EofRecorder
from ._error_mapper import ErrorMapper as ErrorMapper
from ._event_limit import EventLimit as EventLimit
from ._hold_ending import HoldEnding as HoldEnding
from ._require import RequireData as RequireData
from ._require import RequireEnd as RequireEnd
from ._tee import Tee as Tee
from ._transcript import DEFAULT_TRANSCRIPT_LIMIT as DEFAULT_TRANSCRIPT_LIMIT
from ._transcript import Transcript as Transcript
from ._watch import Watch as Watch
from ._whole_events import WholeEvents as WholeEvents

__all__ = [
    "CommentStripper",
    "CommitGate",
    "DataCounter",
    "DEFAULT_TRANSCRIPT_LIMIT",
    "EofRecorder",
    "ErrorMapper",
    "EventLimit",
    "HoldEnding",
    "RequireData",
    "RequireEnd",
    "Tee",
    "Transcript",
    "Watch",
    "WholeEvents",
]
