"""For people who write stages and proxies: what a stage keeps to, and what holds wherever a stream is interrupted."""

from ._check_stage import check_stage as check_stage
from ._harness import FAULTS as FAULTS
from ._harness import STALLS as STALLS
from ._harness import STOPS as STOPS
from ._harness import InjectionError as InjectionError
from ._harness import Report as Report
from ._harness import Rig as Rig
from ._harness import Scenario as Scenario
from ._harness import inject as inject
from ._harness import no_schedules as no_schedules
from ._splits import every_split as every_split

__all__ = [
    "check_stage",
    "every_split",
    "FAULTS",
    "inject",
    "InjectionError",
    "no_schedules",
    "Report",
    "Rig",
    "Scenario",
    "STALLS",
    "STOPS",
]
