"""Serial line: a pty with the timing of an RS-485 bus, and the simulated meters on it."""

import asyncio
import contextlib
import os
import termios
import time
import tty
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, Literal, Self

from parkfleet.protocols.config import LineAddress
from parkfleet.protocols.modbus.rtu import silence
from parkfleet.simulators.crew import Crew
from parkfleet.simulators.frames import Request, RtuRequests
from parkfleet.simulators.meter import SimulatedMeter
from parkfleet.simulators.outgoing import Outgoing, respond
from parkfleet.simulators.record import AnswerRecord

#: Answers reach the asker in pieces of what is due this often: a UART with a small FIFO, at a bearable price.
STEP_S: Final = 0.002
#: A pause that ends a frame, where it is longer than t3.5: USB adapters deliver in bursts up to 16 ms apart.
GAP_S: Final = 0.05
#: Requests that may be under way at once; a master that waits for answers has one.
MAX_PENDING: Final = 64


class SerialLine:
    """A bus whose one end is the device `path`, a symlink that stays when the pty behind it changes."""

    def __init__(
        self,
        id: str,
        directory: Path,
        meters: Iterable[SimulatedMeter],
        record: AnswerRecord,
        *,
        baud: int = 9600,
        bits_per_byte: int = 10,
        strict: bool = False,
        parity: Literal["N", "E", "O"] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """bits_per_byte: 10 for 8N1. strict: requests before t3.5 are ignored, not only counted in `early`.

        parity: when given, whoever speaks with another one, or at another baud rate, is not understood.
        clock: unix seconds.
        """
        self.id = id
        self.path = directory / id
        self.meters = {meter.unit: meter for meter in meters}
        self.early = 0  # pieces of requests that came before the line had been silent for t3.5
        self._record = record
        self._baud = baud
        self._byte_s = bits_per_byte / baud
        self._silence = silence(baud, bits_per_byte)
        self._strict = strict
        self._parity = parity
        self._clock = clock
        self._crew = Crew()
        self._wire = asyncio.Lock()  # one speaks at a time
        self._ends: tuple[int, int] | None = None  # our end of the pty, and the asker's kept open
        self._requests = RtuRequests()
        self._heard_until = 0.0  # loop time when the last byte heard was off the wire
        self._spoke_until = 0.0  # the same of the last byte said
        self._quiet: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        self.plug()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.unplug()
        await self._crew.dismiss()

    @property
    def url(self) -> str:
        """As in gateway.yaml."""
        return f"serial://{self.path}?baud={self._baud}"

    @property
    def address(self) -> LineAddress:
        """The url, taken apart."""
        return LineAddress(kind="serial", device=str(self.path), baud=self._baud)

    def plug(self) -> None:
        """The adapter appears: a new pty under the old path. Nothing happens when it is there."""
        if self._ends is not None:
            return
        master, slave = os.openpty()
        # Without our own descriptor of the asker's end, ours would read EIO whenever the asker closes.
        tty.setraw(slave)
        os.set_blocking(master, False)
        self._ends = (master, slave)
        fresh = self.path.with_name(f".{self.path.name}.new")
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(os.ttyname(slave))
        fresh.replace(self.path)
        asyncio.get_running_loop().add_reader(master, self._hear)

    def unplug(self) -> None:
        """The adapter vanishes, with all that was on the wire. Nothing happens when it is away."""
        if self._ends is None:
            return
        master, slave = self._ends
        self._ends = None
        self.path.unlink(missing_ok=True)
        asyncio.get_running_loop().remove_reader(master)
        self._crew.cancel()
        self._requests.silence()
        if self._quiet is not None:
            self._quiet.cancel()
        os.close(master)
        os.close(slave)

    def _hear(self) -> None:
        """Bytes have come, all at once; on a wire they would still be arriving."""
        assert self._ends is not None
        try:
            data = os.read(self._ends[0], 4096)
        except (BlockingIOError, InterruptedError):
            return
        if not self._understands(self._ends[1]):
            return
        loop = asyncio.get_running_loop()
        now = loop.time()
        if self._wire.locked() or now < self._spoke_until + self._silence:
            self.early += 1
            if self._strict:
                return
        self._heard_until = max(self._heard_until, now) + len(data) * self._byte_s
        if self._quiet is not None:
            self._quiet.cancel()
        self._quiet = loop.call_at(self._heard_until + max(GAP_S, self._silence), self._fall_silent)
        for request in self._requests.feed(data):
            self._take(request)

    def _understands(self, port: int) -> bool:
        """Whether the asker's port is set as the line is. A pty forgets PARENB, and keeps what goes with it."""
        if self._parity is None:
            return True
        iflag, _, cflag, _, _, speed, _ = termios.tcgetattr(port)
        parity = "N" if not iflag & termios.INPCK else "O" if cflag & termios.PARODD else "E"
        return speed == getattr(termios, f"B{self._baud}") and parity == self._parity

    def _fall_silent(self) -> None:
        for request in self._requests.silence():
            self._take(request)

    def _take(self, request: Request) -> None:
        outgoing = respond(self.meters, request, self._requests, self._clock(), has_crc=True)
        if outgoing is None or outgoing.disconnect or not outgoing.frame or len(self._crew) >= MAX_PENDING:
            return
        heard = self._heard_until - request.behind * self._byte_s
        due = heard + max(self._silence, outgoing.wait)
        self._crew.start(self._say(outgoing, due), f"{self.id} unit {request.unit}")

    async def _say(self, outgoing: Outgoing, due: float) -> None:
        """Sends an answer at its time (of the loop), or when the wire is free again."""
        loop = asyncio.get_running_loop()
        await asyncio.sleep(due - loop.time())
        async with self._wire:
            await asyncio.sleep(self._spoke_until + self._silence - loop.time())
            began, start = self._clock(), loop.time()
            await self._pace(outgoing.frame, start)
            took = self._spoke_until - start
            self._record.append(outgoing.answer(self.id, began, began + took))

    async def _pace(self, data: bytes, start: float) -> None:
        """Lets each byte out when its stop bit would be over, never before."""
        loop = asyncio.get_running_loop()
        sent = 0
        while sent < len(data):
            now = loop.time()
            due = min(len(data), int((now - start) / self._byte_s))
            if due > sent:
                self._put(data[sent:due])
                sent = due
                self._spoke_until = now
                continue
            left = len(data) * self._byte_s - (now - start)
            await asyncio.sleep(min(left, max(STEP_S, (sent + 1) * self._byte_s - (now - start))))

    def _put(self, data: bytes) -> None:
        assert self._ends is not None
        with contextlib.suppress(BlockingIOError):  # nobody reads: a UART loses bytes as well
            os.write(self._ends[0], data)
