"""Memory: how the C library keeps it.

Sessions come and go on many threads, and what a thread has freed stays in its arena: with the default of eight arenas a
core, a controller that loses and wins sessions all day grows without holding anything (make fault-sessions).
"""

import ctypes
from typing import Final

#: glibc's mallopt(): the most arenas. Allocations of the event loop and of gRPC's threads then share two.
M_ARENA_MAX: Final = -8
ARENAS: Final = 2


def keep_arenas_few() -> bool:
    """Tells the C library, before the threads start; False where it is none that can be told."""
    try:
        return bool(ctypes.CDLL(None).mallopt(M_ARENA_MAX, ARENAS))
    except (OSError, AttributeError):
        return False
