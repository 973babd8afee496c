"""Memory: what the C library keeps for later is given back now and then.

A peak (the start, a primer, a backlog) leaves megabytes of free heap that a small box can use, and nobody here needs
again.
"""

import asyncio
import ctypes
from typing import Final

#: So often. What each batch takes and gives is taken anew behind it, which costs a millisecond. Seconds.
GIVE_BACK_S: Final = 60.0


async def give_back_for_ever() -> None:
    """Gives back until cancelled; does nothing where the C library is not glibc."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    while trim is not None:
        await asyncio.sleep(GIVE_BACK_S)  # how long it may be kept
        trim(0)
