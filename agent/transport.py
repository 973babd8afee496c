"""Transport: one line's wire, one transaction at a time.

A transport lives from one opening of its device or connection to its end; the poller opens new ones.
"""

import asyncio
import contextlib
import errno
import fcntl
import os
import termios
import time
from collections.abc import Callable
from typing import Final, Protocol, TypeVar

from parkfleet.agent.port_holder import holder
from parkfleet.agent.rs485 import Rs485Error, set_rs485
from parkfleet.protocols.config import LineAddress
from parkfleet.protocols.modbus import rtu, tcp
from parkfleet.protocols.modbus.pdu import AnswerTimeoutError, CorruptAnswerError, ModbusError, Request

T = TypeVar("T")

CONNECT_TIMEOUT_S: Final = 5.0


class LineDownError(Exception):
    """The line itself is away: port missing or in use, adapter unplugged, connection refused or ended."""


class AnswerReader(Protocol):
    """What collects an answer's bytes: rtu.AnswerReader or tcp.AnswerReader."""

    def feed(self, data: bytes) -> bytes | None: ...
    def incomplete(self) -> str: ...


class Transport(Protocol):
    """An open line."""

    usable: bool  # False: this one is spent, open another; the line itself is well

    async def transact(self, request: Request[T], timeout: float) -> T:
        """What was asked for, such as registers; timeout in seconds, to the answer's last byte.

        Raises ModbusError when this transaction gave no values, LineDownError when the line is gone.
        """

    def close(self) -> None:
        """Gives the device or connection back; idempotent."""


async def open_transport(line: LineAddress) -> Transport:
    """Opens a line. Raises LineDownError with a sentence for the installer."""
    if line.kind == "serial":
        return SerialTransport(line)
    if line.kind in ("tls", "udp", "ascii"):
        from parkfleet.agent.pymodbus_transport import PymodbusTransport  # 22 MB: only where such a line is

        return await PymodbusTransport.connect(line)
    return await StreamTransport.connect(line)


class SerialTransport:
    """An RS-485 bus on a serial port or pty."""

    usable = True

    def __init__(self, line: LineAddress, fd: int | None = None) -> None:
        """fd: a port that is open, locked and configured already; it is closed with the transport."""
        self._line = line
        self._fd = open_port(line) if fd is None else fd
        self._silence = rtu.silence(line.baud, line.bits_per_byte)
        self._byte_s = line.bits_per_byte / line.baud
        self._quiet_since = time.monotonic()  # when the last byte was on the wire, as far as we know

    async def transact(self, request: Request[T], timeout: float) -> T:
        """See Transport. Waits for t3.5 of silence first, and drops what came unasked."""
        await self._wait_for_silence()
        reader = rtu.AnswerReader(request)
        frame = rtu.frame(request.unit, request.pdu)
        sent_until = time.monotonic() + len(frame) * self._byte_s
        self._write(frame)
        self._quiet_since = sent_until
        wire = (rtu.MAX_FRAME if request.data_bytes > 240 else request.data_bytes + 5) * self._byte_s
        try:
            async with asyncio.timeout(len(frame) * self._byte_s + timeout + wire):
                while True:
                    data = await self._read()
                    self._quiet_since = max(sent_until, time.monotonic())
                    if (pdu := reader.feed(data)) is not None:
                        return request.values(pdu)
        except TimeoutError:
            raise _no_answer(reader) from None

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    async def _wait_for_silence(self) -> None:
        """Returns when the line has been silent for t3.5; bytes that still come (a late answer) start it anew."""
        while (left := self._quiet_since + self._silence - time.monotonic()) > 0 or self._drain():  # noqa: ASYNC110
            await asyncio.sleep(max(left, 0))  # the wire's own silence: there is no event for it

    def _drain(self) -> bytes:
        try:
            data = os.read(self._fd, 4096)
        except BlockingIOError:
            return b""
        except OSError as error:
            raise self._down(error) from None
        self._quiet_since = time.monotonic()
        return data

    def _write(self, frame: bytes) -> None:
        try:
            written = os.write(self._fd, frame)
        except OSError as error:
            raise self._down(error) from None
        if written != len(frame):
            raise LineDownError(f"{self._line.device} takes no more bytes")

    async def _read(self) -> bytes:
        loop = asyncio.get_running_loop()
        readable: asyncio.Future[None] = loop.create_future()
        loop.add_reader(self._fd, _wake, readable)
        try:
            await readable
        finally:
            loop.remove_reader(self._fd)
        try:
            data = os.read(self._fd, 4096)
        except BlockingIOError:
            return b""
        except OSError as error:
            raise self._down(error) from None
        if not data:
            raise LineDownError(f"{self._line.device} is gone: adapter unplugged?")
        return data

    def _down(self, error: OSError) -> LineDownError:
        return LineDownError(f"{self._line.device} is gone ({error.strerror}): adapter unplugged?")


class StreamTransport:
    """Modbus TCP, or RTU frames over TCP."""

    def __init__(self, line: LineAddress, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._line = line
        self._reader = reader
        self._writer = writer
        self._transaction = 0
        self.usable = True

    @classmethod
    async def connect(cls, line: LineAddress) -> "StreamTransport":
        """Raises LineDownError."""
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                reader, writer = await asyncio.open_connection(line.host, line.port, limit=4096)
        except TimeoutError:
            raise LineDownError(f"{line.host}:{line.port} does not answer: powered, cabled, address right?") from None
        except OSError as error:
            raise LineDownError(f"cannot connect to {line.host}:{line.port}: {error.strerror or error}") from None
        return cls(line, reader, writer)

    async def transact(self, request: Request[T], timeout: float) -> T:
        """See Transport."""
        collector, frame = self._prepare(request)
        try:
            self._writer.write(frame)
            async with asyncio.timeout(timeout):
                await self._writer.drain()
                while True:
                    data = await self._reader.read(4096)
                    if not data:
                        raise LineDownError(f"{self._line.host}:{self._line.port} ended the connection")
                    if (pdu := collector.feed(data)) is not None:
                        return request.values(pdu)
        except TimeoutError:
            raise self._spoiled(_no_answer(collector)) from None
        except CorruptAnswerError as error:
            raise self._spoiled(error) from None
        except OSError as error:
            raise LineDownError(f"{self._line.host}:{self._line.port}: {error.strerror or error}") from None

    def close(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop may be closed already
            self._writer.close()

    def _prepare(self, request: Request[object]) -> tuple[AnswerReader, bytes]:
        if self._line.kind == "tcp":
            self._transaction = (self._transaction + 1) & 0xFFFF
            collector = tcp.AnswerReader(request, self._transaction)
            return collector, tcp.frame(self._transaction, request.unit, request.pdu)
        return rtu.AnswerReader(request), rtu.frame(request.unit, request.pdu)

    def _spoiled(self, error: ModbusError) -> ModbusError:
        """RTU has no transaction id, and a stream may be out of step: only a new connection is surely clean.

        A Modbus TCP time-out alone keeps the connection: late answers are known by their transaction id.
        """
        if self._line.kind == "rtu+tcp" or isinstance(error, CorruptAnswerError):
            self.usable = False
        return error


def _wake(readable: "asyncio.Future[None]") -> None:
    if not readable.done():
        readable.set_result(None)


def _no_answer(reader: AnswerReader) -> ModbusError:
    told = reader.incomplete()
    return CorruptAnswerError(told) if told else AnswerTimeoutError("no answer in time")


def open_port(line: LineAddress) -> int:
    """The port's descriptor: raw, locked, at the line's settings. Raises LineDownError."""
    try:
        fd = os.open(line.device, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    except OSError as error:
        remedy = {
            errno.ENOENT: "; is the adapter plugged in? `ls -l /dev/serial/by-id` lists them",
            errno.EACCES: "; the user needs the group dialout: `sudo usermod -aG dialout USER`, then log in anew",
            errno.EBUSY: "; another program has it for itself: stop it first",
        }.get(error.errno or 0, "")
        raise LineDownError(f"cannot open {line.device}: {error.strerror}{remedy}") from None
    try:
        claim(fd, os.ttyname(fd))
        _configure(fd, line)
        if line.rs485:
            set_rs485(fd, line.rs485)
        termios.tcflush(fd, termios.TCIOFLUSH)
    except Rs485Error as error:
        os.close(fd)
        raise LineDownError(f"{line.device}: {error}") from None
    except BlockingIOError:
        os.close(fd)
        by = holder(line.device)
        raise LineDownError(
            f"{line.device} is in use by another program{f', {by}' if by else ''}: stop it first"
        ) from None
    except (termios.error, OSError, AttributeError) as error:
        os.close(fd)
        if error.args[:1] == (errno.ENOTTY,):
            raise LineDownError(f"{line.device} is no serial port") from None
        told = f"{line.device} cannot be set to {line.setting}: {error.args[-1]}"
        raise LineDownError(told) from None
    return fd


def claim(fd: int, name: str, ioctl: Callable[[int, int], object] = fcntl.ioctl) -> None:
    """Keeps others off an open port. Raises BlockingIOError when it is locked by one.

    The lock is for those who ask for it (pyserial, picocom, a second agent); the flag for those who do not (mbpoll,
    stty), unless they are root. A pty would keep the flag after our end, for ever: it gets none.
    """
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if not _is_pty(name):
        ioctl(fd, termios.TIOCEXCL)


def _is_pty(name: str) -> bool:
    return name.startswith("/dev/pts/")


def _configure(fd: int, line: LineAddress) -> None:
    iflag, oflag, cflag, lflag, _, _, chars = termios.tcgetattr(fd)
    iflag &= ~(termios.IGNBRK | termios.BRKINT | termios.PARMRK | termios.ISTRIP | termios.INLCR | termios.IGNCR)
    iflag &= ~(termios.ICRNL | termios.IXON | termios.IXOFF | termios.INPCK)
    iflag |= termios.INPCK if line.parity != "N" else 0  # a byte of another parity becomes 0, and the CRC tells
    oflag &= ~termios.OPOST
    lflag &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
    cflag &= ~(termios.CSIZE | termios.PARENB | termios.PARODD | termios.CSTOPB | termios.CRTSCTS)
    cflag |= termios.CS8 | termios.CREAD | termios.CLOCAL
    cflag |= {"N": 0, "E": termios.PARENB, "O": termios.PARENB | termios.PARODD}[line.parity]
    if _is_pty(os.ttyname(fd)):
        cflag &= ~termios.PARENB  # a pty has none, and to ask for that alone once more is an error
    cflag |= termios.CSTOPB if line.stopbits == 2 else 0
    speed = getattr(termios, f"B{line.baud}")
    chars[termios.VMIN], chars[termios.VTIME] = 1, 0
    termios.tcsetattr(fd, termios.TCSANOW, [iflag, oflag, cflag, lflag, speed, speed, chars])
