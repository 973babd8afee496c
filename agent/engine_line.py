"""Engine line: one of the engine's lines as others see it, who ask something of it out of turn."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from typing import TypeVar

from parkfleet.agent.activity import LineStatus, MeterActivity
from parkfleet.agent.burst import NO_ANSWER, burst
from parkfleet.agent.engine import LineEngine
from parkfleet.agent.plan import LinePlan, MeterPlan
from parkfleet.agent.transport import SerialTransport, Transport, open_transport
from parkfleet.protocols.modbus.pdu import ExceptionAnswerError, ModbusError, Request
from parkfleet.protocols.pcapng import Piece
from parkfleet.protocols.quality import Quality

T = TypeVar("T")


class EngineLine:
    """Behind the same interface as LinePoller: status, ask, wake."""

    def __init__(self, engine: LineEngine, plan: LinePlan) -> None:
        self._engine = engine
        self._plan = plan
        self._guests = asyncio.Lock()  # one at a time
        self._held_until: dict[int, float] = {}  # by unit id, monotonic

    @property
    def status(self) -> LineStatus:
        """What the line did."""
        return self._engine.statuses[self._plan.config.id]

    async def ask(self, request: Request[T], timeout: float | None = None) -> T:
        """One transaction out of turn. timeout: seconds, default the line's. Raises ModbusError, LineDownError.

        A serial port is lent by the engine between two scans. Over TCP a connection of our own is opened for it.
        """
        waited = float(self._plan.config.timeout) if timeout is None else timeout
        async with self._guests, self._transport(request.unit) as transport:
            try:
                answer = await transport.transact(request, waited)
            except ExceptionAnswerError:
                raise
            except (ModbusError, asyncio.CancelledError):
                self._hold(request.unit, waited)
                raise
        self.wake(request.unit)  # it answered: no reason to take it for silent any longer
        return answer

    async def burst(self, requests: Sequence[tuple[float, Request[object]]]) -> list[int]:
        """Requests one right behind the other, each after a pause in seconds; their quality codes, 0 for values.

        Raises LineDownError.
        """
        timeout = float(self._plan.config.timeout)
        unit = requests[0][1].unit
        async with self._guests, self._transport(unit) as transport:
            codes = [int(Quality.TIMEOUT)]  # when it is cancelled
            try:
                codes = await burst(transport.transact, requests, timeout)
            finally:
                if codes[-1] in NO_ANSWER:
                    self._hold(unit, timeout)
            return codes

    def replan(self, plan: MeterPlan) -> None:
        """Has a meter asked by a new plan from its next scan on, also one that was taken for silent."""
        self._engine.replan(plan)
        self.wake(plan.config.unit)

    @property
    def has_headers(self) -> bool:
        """Whether its frames are Modbus TCP's."""
        return self._plan.address.kind == "tcp"

    def open_tap(self) -> None:
        """Has what the engine sends and hears there written down. Raises ValueError."""
        self._engine.open_tap(self._plan.config.id)

    def tapped(self) -> list[Piece]:
        """What it was since the last call."""
        return self._engine.tapped()

    def close_tap(self) -> None:
        """Nobody looks any more."""
        self._engine.close_tap()

    def activities(self) -> dict[str, MeterActivity]:
        """By meter id."""
        return self._engine.activities(self._plan.config.id)

    def wake(self, unit: int) -> None:
        """A meter that was taken for silent is asked at once."""
        for meter in self._plan.meters:
            if meter.config.unit == unit:
                self._engine.wake(meter.config.id)
                return

    def _hold(self, unit: int, waited: float) -> None:
        """An answer may come that nobody waits for: RTU has no transaction id to know it by. waited: seconds."""
        if self._plan.address.kind == "serial":
            seconds = max(waited, 2 * float(self._plan.config.timeout) - waited)
            self._held_until[unit] = time.monotonic() + seconds
            self._engine.hold(self._plan.config.id, unit, seconds)

    def _held(self, unit: int) -> float:
        """Seconds in which a unit must not be asked."""
        own = self._held_until.get(unit, 0.0) - time.monotonic()
        return max(own, self._engine.held(self._plan.config.id, unit))

    @contextlib.asynccontextmanager
    async def _transport(self, unit: int) -> AsyncIterator[Transport]:
        """What a guest asks a unit by. Serial: not before an answer that the engine gave up can come no more."""
        if self._plan.address.kind != "serial":
            transport = await open_transport(self._plan.address)
            try:
                yield transport
            finally:
                transport.close()
            return
        while True:
            await asyncio.sleep(self._held(unit))
            async with self._engine.lent(self._plan.config.id) as fd:
                serial = SerialTransport(self._plan.address, fd)
                try:
                    if self._held(unit) <= 0:  # otherwise it was asked meanwhile
                        yield serial
                        return
                finally:
                    serial.close()
