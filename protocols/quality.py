"""Quality: one byte beside every reading that says whether its value may be believed, and if not, why.

A gap is data: a meter that does not answer still yields readings, without a value, with the cause.
The codes are part of the payload (docs/payload.md) and never change their meaning.
"""

from enum import IntEnum
from typing import Final

#: Exception answers are coded as this bit plus the Modbus exception code (1 to 127).
EXCEPTION: Final = 0x80


class Quality(IntEnum):
    """Why a reading is good, doubtful or missing. 0x80 + n is the meter's exception answer n."""

    GOOD = 0  # the meter's own value
    TIMEOUT = 1  # the meter did not answer in time
    CORRUPT = 2  # an answer came, but not a frame for this request (CRC, length, unit, function)
    DISCONNECTED = 3  # the line itself is away: adapter unplugged, connection refused
    INVALID = 4  # the meter says "not available" (its own code, NaN, a digit that is no BCD)
    SUSPECT = 5  # a value is present, and something about it is not plausible
    SKIPPED = 6  # not asked: an earlier request of the same scan failed, or the line is overloaded
    HELD = 7  # read, good, and so near to the last value delivered that a deadband kept it back


#: What a gateway box answers for a meter that it cannot reach: the meter is silent, the box waited for it.
UNREACHED: Final = frozenset({EXCEPTION | 10, EXCEPTION | 11})
#: The codes whose readings carry a value.
WITH_VALUE: Final = frozenset({Quality.GOOD, Quality.SUSPECT})


def quality_name(code: int) -> str:
    """The name consumers see: "good", "timeout", … or "exception-2" for a Modbus exception answer."""
    if code & EXCEPTION:
        return f"exception-{code & 0x7F}"
    try:
        return Quality(code).name.lower()
    except ValueError:
        return f"unknown-{code}"  # from a newer agent: shown, never hidden
