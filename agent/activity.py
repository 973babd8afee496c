"""Activity: what a line and its meters did since the agent started, and who is told of their scans."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from parkfleet.agent.plan import MeterPlan
from parkfleet.protocols.payload.series import Scan
from parkfleet.protocols.readplan import PlannedRequest

OnScan = Callable[[Scan], None]
#: Told of scans in which a request failed, and of the first good one of its kind behind them: the plan, what was asked,
#: and a quality code for each request.
OnFailure = Callable[[MeterPlan, Sequence[PlannedRequest], Sequence[int]], None]


class MeterActivity(NamedTuple):
    """What a meter did since the agent started."""

    requests: int = 0
    answers: int = 0  # refusals among them
    timeouts: int = 0
    missed: int = 0  # slots that passed before its turn came
    busy_s: float = 0.0  # of the line's time
    turnaround_s: float = 0.0  # median of its latest answers; 0: none yet
    turnarounds: int = 0  # measured so far


@dataclass
class LineStatus:
    """What a line did since the agent started, for status and heartbeats."""

    id: str
    up: bool = False
    told: str = ""  # why it is down, or the last error
    requests: int = 0
    scans: int = 0
    missed: int = 0  # slots that passed before the meter's turn came
    late: dict[str, int] = field(default_factory=dict)  # of them, by meter id; those without are left out
    overload: str = ""  # a sentence, while the line cannot keep up
    advice: str = ""  # what would make it faster, in a sentence
    errors: Counter[str] = field(default_factory=Counter)  # by cause
    busy_s: float = 0.0  # time spent in transactions
    meters_bad: set[str] = field(default_factory=set)
