"""RS-485 direction control: has a serial port's driver switch its transmitter on and off around each frame.

Needed for UARTs whose RTS pin drives the transceiver; USB adapters switch by themselves. Source: the kernel's
Documentation/driver-api/serial/serial-rs485.rst and include/uapi/linux/serial.h.
"""

import errno
import fcntl
import struct
from collections.abc import Callable
from typing import Final

from parkfleet.protocols.config import Rs485

TIOCGRS485: Final = 0x542E
TIOCSRS485: Final = 0x542F
#: struct serial_rs485: flags, RTS delays before and after sending in ms, and what the kernel keeps for itself.
LAYOUT: Final = "=III5I"
ENABLED: Final = 1
RTS_ON_SEND: Final = 2
RTS_AFTER_SEND: Final = 4
FLAGS: Final[dict[Rs485, int]] = {"rts": ENABLED | RTS_ON_SEND, "rts-low": ENABLED | RTS_AFTER_SEND}


class Rs485Error(Exception):
    """The port cannot; the message says what to do."""


def set_rs485(fd: int, mode: Rs485, ioctl: Callable[[int, int, bytes], bytes | int] = fcntl.ioctl) -> None:
    """Switches direction control on for an open port, and makes sure that the driver took it. Raises Rs485Error."""
    wanted = FLAGS[mode]
    try:
        ioctl(fd, TIOCSRS485, struct.pack(LAYOUT, wanted, *(0,) * 7))
        said = ioctl(fd, TIOCGRS485, bytes(struct.calcsize(LAYOUT)))
    except OSError as error:
        if error.errno not in (errno.ENOTTY, errno.EINVAL, errno.EOPNOTSUPP):
            raise
        told = "its driver has no RS-485 direction control (TIOCSRS485)"
        raise Rs485Error(f"{told}: leave rs485 away if the adapter switches by itself, as USB adapters do") from None
    flags = struct.unpack(LAYOUT, said)[0] if isinstance(said, bytes) else 0
    if flags & 7 != wanted:
        other = "rts-low" if mode == "rts" else "rts"
        raise Rs485Error(f"its driver does not take rs485={mode} (it says {flags & 7:#x}): try rs485={other}")
