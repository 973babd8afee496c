"""Serial facts of life: direction control of RS-485, and adapters that hold answers back."""

import errno
import os
import struct
import termios
from pathlib import Path

import pytest

from parkfleet.agent.activity import LineStatus
from parkfleet.agent.rs485 import LAYOUT, TIOCGRS485, TIOCSRS485, Rs485Error, set_rs485
from parkfleet.agent.transport import LineDownError, claim, open_port
from parkfleet.agent.usb_serial import advice, advise, latency_timer
from parkfleet.protocols.config import LineAddress, parse_line_url


class Port:
    """A driver's answers to the two requests."""

    def __init__(self, takes: int = 0xFFFFFFFF, refusal: int = 0) -> None:
        self.flags = 0
        self._takes = takes
        self._refusal = refusal

    def ioctl(self, fd: int, request: int, data: bytes) -> bytes | int:
        assert len(data) == 32  # as the kernel's header has it
        if self._refusal:
            raise OSError(self._refusal, os.strerror(self._refusal))
        if request == TIOCSRS485:
            self.flags = struct.unpack(LAYOUT, data)[0] & self._takes
            return 0
        assert request == TIOCGRS485
        return struct.pack(LAYOUT, self.flags, 0, 0, *(0,) * 5)


def test_direction_control_is_switched_on() -> None:
    """Enabled, and RTS high or low while sending."""
    port = Port()
    set_rs485(3, "rts", port.ioctl)
    assert port.flags == 0b011
    set_rs485(3, "rts-low", port.ioctl)
    assert port.flags == 0b101


def test_driver_without_it_is_told_with_the_remedy() -> None:
    """Also one that says yes and does otherwise."""
    for refusal in (errno.ENOTTY, errno.EINVAL):
        with pytest.raises(Rs485Error, match="leave rs485 away if the adapter switches by itself"):
            set_rs485(3, "rts", Port(refusal=refusal).ioctl)
    with pytest.raises(Rs485Error, match="try rs485=rts-low"):
        set_rs485(3, "rts", Port(takes=0b101).ioctl)
    with pytest.raises(OSError, match="Input/output"):
        set_rs485(3, "rts", Port(refusal=errno.EIO).ioctl)


def test_port_that_cannot_is_not_opened() -> None:
    """A pty is a real one that cannot; its descriptor is given back."""
    master, slave = os.openpty()
    try:
        address = parse_line_url(f"serial://{os.ttyname(slave)}?rs485=rts")
        before = len(list(Path("/proc/self/fd").iterdir()))
        with pytest.raises(LineDownError, match="no RS-485 direction control"):
            open_port(address)
        assert len(list(Path("/proc/self/fd").iterdir())) == before
        os.close(open_port(LineAddress("serial", address.device)))
    finally:
        os.close(master)
        os.close(slave)


def test_port_is_ours_alone() -> None:
    """A second opener is told. A real port bears the flag that keeps off who does not ask; a pty would keep it."""
    master, slave = os.openpty()
    try:
        address = LineAddress("serial", os.ttyname(slave))
        port = open_port(address)
        with pytest.raises(LineDownError, match=r"in use by another program, .*: stop it first"):
            open_port(address)
        asked: list[int] = []
        claim(port, "/dev/ttyUSB0", lambda _, request: asked.append(request))
        assert asked == [termios.TIOCEXCL]
        claim(port, os.ttyname(port), lambda _, request: asked.append(request))
        assert asked == [termios.TIOCEXCL]
        os.close(port)
        os.close(open_port(address))
    finally:
        os.close(master)
        os.close(slave)


def test_setting_is_checked() -> None:
    """By name, and only where we drive the port."""
    assert parse_line_url("serial:///dev/ttyS1?rs485=rts-low").rs485 == "rts-low"
    assert parse_line_url("serial:///dev/ttyS1").rs485 is None
    with pytest.raises(ValueError, match="rs485 must be rts or rts-low, got 'on'"):
        parse_line_url("serial:///dev/ttyS1?rs485=on")
    with pytest.raises(ValueError, match="unknown setting 'rs485'"):
        parse_line_url("ascii:///dev/ttyS1?rs485=rts")


@pytest.fixture
def adapter(tmp_path: Path) -> tuple[Path, Path]:
    """A device under its stable name, and a /sys that knows it."""
    devices = tmp_path / "dev"
    devices.mkdir()
    (devices / "ttyUSB7").touch()
    (devices / "by-id").symlink_to("ttyUSB7")
    timer = tmp_path / "sys/bus/usb-serial/devices/ttyUSB7"
    timer.mkdir(parents=True)
    (timer / "latency_timer").write_text("16\n")
    return devices / "by-id", tmp_path / "sys"


def test_latency_timer_is_told_with_the_remedy(adapter: tuple[Path, Path]) -> None:
    """Until it is short."""
    device, sysfs = adapter
    timer = sysfs / "bus/usb-serial/devices/ttyUSB7/latency_timer"
    assert latency_timer(str(device), sysfs) == 16
    told = advice(str(device), sysfs)
    assert "holds each answer back for up to 16 ms" in told
    assert f"echo 1 | sudo tee {timer}" in told
    timer.write_text("1\n")
    assert advice(str(device), sysfs) == ""


def test_adapter_without_one_has_no_advice(adapter: tuple[Path, Path]) -> None:
    """Other chips, ports on the board, a file that says nonsense."""
    device, sysfs = adapter
    assert latency_timer("/dev/ttyS0", sysfs) is None
    (sysfs / "bus/usb-serial/devices/ttyUSB7/latency_timer").write_text("soon")
    assert advice(str(device), sysfs) == ""


def test_advice_is_logged_once(adapter: tuple[Path, Path], caplog: pytest.LogCaptureFixture) -> None:
    """However often the port is opened; it stands in the status."""
    device, sysfs = adapter
    status = LineStatus("bus1")
    for _ in range(3):
        advise(status, LineAddress("serial", str(device)), sysfs)
    assert [record.getMessage() for record in caplog.records] == [f"line bus1: {status.advice}"]
    advise(status, LineAddress("tcp", host="h"), sysfs)
    assert status.advice == ""
