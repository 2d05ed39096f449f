"""For people who write stages and proxies: what a stage keeps to, and what holds wherever a stream is interrupted."""

from ._check_stage import check_stage as check_stage
from ._forms import ToolCall as ToolCall
from ._harness import InjectionError as InjectionError
from ._harness import Report as Report
from ._harness import inject as inject
from ._harness import no_schedules as no_schedules
from ._provider import Answer as Answer
from ._provider import Asked as Asked
from ._provider import Behaviour as Behaviour
from ._provider import CommentsOnly as CommentsOnly
from ._provider import CutAfter as CutAfter
from ._provider import Empty as Empty
from ._provider import ErrorEvent as ErrorEvent
from ._provider import FakeProvider as FakeProvider
from ._provider import Played as Played
from ._provider import ProviderKind as ProviderKind
from ._provider import Reset as Reset
from ._provider import Stall as Stall
from ._provider import Status as Status
from ._provider import Truncated as Truncated
from ._rig import Rig as Rig
from ._run import FAULTS as FAULTS
from ._run import STALLS as STALLS
from ._run import STOPS as STOPS
from ._run import Scenario as Scenario
from ._script import Script as Script
from ._script import ScriptError as ScriptError
from ._scripts import SCRIPTS as SCRIPTS
from ._splits import every_split as every_split
from ._upstream import Delivery as Delivery
from ._upstream import Departure as Departure
from ._upstream import ReceivedRequest as ReceivedRequest
from ._upstream import ScriptedUpstream as ScriptedUpstream
from ._upstream import open_upstream as open_upstream

__all__ = [
    "Answer",
    "Asked",
    "Behaviour",
    "check_stage",
    "CommentsOnly",
    "CutAfter",
    "Delivery",
    "Departure",
    "Empty",
    "ErrorEvent",
    "every_split",
    "FakeProvider",
    "FAULTS",
    "inject",
    "InjectionError",
    "no_schedules",
    "open_upstream",
    "Played",
    "ProviderKind",
    "ReceivedRequest",
    "Report",
    "Reset",
    "Rig",
    "Scenario",
    "Script",
    "ScriptedUpstream",
    "ScriptError",
    "SCRIPTS",
    "Stall",
    "STALLS",
    "Status",
    "STOPS",
    "ToolCall",
    "Truncated",
]
