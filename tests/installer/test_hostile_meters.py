"""Meters that answer anything: identification, display and what is written of them survive whatever comes."""

from collections.abc import Callable
from typing import TypeVar

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from parkfleet.agent.display import Shown, explain
from parkfleet.agent.findings import Finding, Part
from parkfleet.agent.identify import Registers, ask_names, rank
from parkfleet.agent.installer_view import show_findings
from parkfleet.agent.scan import Unit
from parkfleet.protocols.config import GatewayConfig, LineAddress
from parkfleet.protocols.document import Document
from parkfleet.protocols.library import load_profile
from parkfleet.protocols.modbus.pdu import AnswerTimeoutError, Request

T = TypeVar("T")
#: One of each kind: floats, swapped integers, BCD, derived, ratios, factors, signatures of both kinds.
SOME = ("eastron-sdm120", "carlo-gavazzi-em24-e1", "fuxin-gas", "tuf-2000m-heat", "acrel-adl400", "panametrics-xmt868i")
PROFILES = [load_profile(name) for name in (*SOME, "socomec-countis-e24", "abb-b23")]
ADDRESS = LineAddress("serial", device="/dev/ttyUSB0")


class Anything:
    """A device of which each answer is what the test draws: bytes, or None for silence."""

    def __init__(self, draw: Callable[[], bytes | None], faithful: bool) -> None:
        self._draw = draw
        self._faithful = faithful  # the right function and length, so that the values count
        self.asked = 0

    async def transact(self, request: Request[T], timeout: float) -> T:
        self.asked += 1
        drawn = self._draw()
        if drawn is None:
            raise AnswerTimeoutError("no answer in time")
        if self._faithful and request.pdu[0] <= 4:
            size = request.data_bytes
            drawn = bytes([request.pdu[0], size]) + (drawn * (size // max(len(drawn), 1) + 1)).ljust(size, b"\0")[:size]
        elif self._faithful:
            drawn = bytes([request.pdu[0]]) + drawn
        return request.values(drawn)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data(), st.booleans(), st.sampled_from(["1234.5kWh", "230.1V", "0", "-1 A", "99999 m³", "57.0"]))
async def test_meter_that_answers_anything(data: st.DataObject, faithful: bool, shown: str) -> None:
    """Nothing raises, no conversation goes on for ever, and the part that comes of it is a configuration."""
    answers = st.none() | st.binary(min_size=1, max_size=24)
    device = Anything(lambda: data.draw(answers), faithful)
    names = await ask_names(device, 1, 0.1)
    registers = Registers(device, 1, 0.1)
    candidates = await rank(registers, PROFILES, names)
    explanations = await explain(registers, PROFILES[:4], [Shown.parse(shown)])
    assert device.asked < 600
    finding = Finding(Unit(ADDRESS, 1, "answers"), names, candidates, explanations, asked=True)
    text = Part([finding], PROFILES).text()
    document = {"park": "p", "gateway": "g", "broker": {"url": "mqtt://h"}, **yaml.safe_load(text)}
    assert Document("part", yaml.safe_dump(document)).check(GatewayConfig) == []
    console = Console(width=80, force_terminal=True)
    with console.capture() as written:
        show_findings(console, [finding])
    assert not any(ord(letter) < 32 and letter not in "\n\x1b" for letter in written.get())


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=30), min_size=1, max_size=20))
async def test_identification_that_never_ends(parts: list[bytes]) -> None:
    """A device that always has one more object is asked a bounded number of times."""
    place = 0

    def draw() -> bytes:
        nonlocal place
        place += 1
        body = parts[place % len(parts)]
        return bytes([14, 1, 2, 0xFF, min(255, place), 1, place % 256, len(body)]) + body

    device = Anything(draw, faithful=True)
    names = await ask_names(device, 1, 0.1)
    assert device.asked <= 9
    assert all(isinstance(text, str) for text in names.objects.values())
