"""For people who write stages and proxies: what a stage keeps to, and what holds wherever a stream is interrupted."""

from ._check_stage import check_stage as check_stage
from ._harness import InjectionError as InjectionError
from ._harness import Report as Report
from ._harness import inject as inject
from ._harness import no_schedules as no_schedules
from ._rig import Rig as Rig
from ._run import FAULTS as FAULTS
from ._run import STALLS as STALLS
from ._run import STOPS as STOPS
from ._run import Scenario as Scenario
from ._script import Script as Script
from ._script import ScriptError as ScriptError
from ._scripts import SCRIPTS as SCRIPTS
from ._splits import every_split as every_split
from ._upstream import ReceivedRequest as ReceivedRequest
from ._upstream import ScriptedUpstream as ScriptedUpstream
from ._upstream import open_upstream as open_upstream

__all__ = [
    "check_stage",
    "every_split",
    "FAULTS",
    "inject",
    "InjectionError",
    "no_schedules",
    "open_upstream",
    "ReceivedRequest",
    "Report",
    "Rig",
    "Scenario",
    "Script",
    "ScriptedUpstream",
    "ScriptError",
    "SCRIPTS",
    "STALLS",
    "STOPS",
]
