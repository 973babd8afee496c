"""Identification: which model a unit is, by what it calls itself and by what each profile makes of its registers."""

import contextlib
import re
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import msgspec

from parkfleet.agent.plan import MeterPlan
from parkfleet.agent.plausibility import judge, strength
from parkfleet.agent.reading import MeterReading, PointReading, read_meter
from parkfleet.agent.wire import Asker
from parkfleet.protocols.config import MeterConfig
from parkfleet.protocols.modbus.identity import OBJECT_NAMES, IdentificationRequest, ServerIdRequest
from parkfleet.protocols.modbus.pdu import (
    AnswerTimeoutError,
    CorruptAnswerError,
    ExceptionAnswerError,
    ModbusError,
    ReadRequest,
)
from parkfleet.protocols.profile import Point, Profile
from parkfleet.protocols.readplan import WireCost, plan_requests

#: Points of a profile that are looked at first; a profile none of whose strongest two is plausible is dropped.
FIRST_LOOK: Final = 4
#: Candidates that are read in full.
SHORTLIST: Final = 6
#: An identification of so many parts is broken.
_MAX_PARTS: Final = 8
#: What a full reading is planned with: a line at 9600 baud. Seconds.
_COST: Final = WireCost(request=0.04, byte=0.001)


class Names(msgspec.Struct, frozen=True):
    """What a device says of itself."""

    objects: dict[str, str] = {}  # of FC 43/14, by name
    server_id: str = ""  # of FC 17, what of it is text

    @property
    def text(self) -> str:
        """All of it, for people."""
        return " ".join(dict.fromkeys([*filter(None, self.objects.values()), *filter(None, [self.server_id])]))


class Candidate(msgspec.Struct, frozen=True):
    """A profile the unit may be."""

    profile: str
    title: str
    score: int  # 0 to 100: how much of what its points could say for it they do say
    weight: float  # the same without measure: more points say more
    named: bool  # the device's own name says so
    seen: tuple[PointReading, ...]  # the strongest points, as this profile reads them
    signed: bool = False  # the registers in which this model has its name or code hold it
    said: str = ""  # what stands in those registers
    points: int = 0  # that were judged

    @property
    def is_sure(self) -> bool:
        """Whether the device itself says what it is."""
        return self.named or self.signed


class Registers:
    """One unit's registers, each asked for once: profiles share many."""

    def __init__(self, line: Asker, unit: int, timeout: float) -> None:
        """timeout: seconds."""
        self._line = line
        self.unit = unit
        self._timeout = timeout
        self._known: dict[ReadRequest, list[int] | ModbusError] = {}

    async def ask(self, request: ReadRequest) -> list[int]:
        """The registers, or what came instead of them, as the first time. Raises ModbusError, LineDownError."""
        if request not in self._known:
            self._known[request] = await self._fetch(request)
        known = self._known[request]
        if isinstance(known, ModbusError):
            raise known
        return known

    async def _fetch(self, request: ReadRequest) -> list[int] | ModbusError:
        error: ModbusError
        for _ in range(2):  # one lost answer must not decide about a model
            try:
                return await self._line.transact(request, self._timeout)
            except ExceptionAnswerError as refused:
                return refused
            except (AnswerTimeoutError, CorruptAnswerError) as lost:
                error = lost
        return error


async def ask_names(line: Asker, unit: int, timeout: float) -> Names:
    """Asks a unit what it is; most meters know neither function. Raises LineDownError."""
    objects: dict[str, str] = {}
    with contextlib.suppress(ModbusError):
        request: IdentificationRequest | None = IdentificationRequest(unit)
        for _ in range(_MAX_PARTS):
            if request is None:
                break
            said = await line.transact(request, timeout)
            objects |= {OBJECT_NAMES.get(number, f"object {number}"): text for number, text in said.objects.items()}
            request = _following(request, said.next, said.conformity)
    server_id = ""
    with contextlib.suppress(ModbusError):
        raw = await line.transact(ServerIdRequest(unit), timeout)
        server_id = " ".join(re.findall(r"[ -~]{3,}", raw.decode("ascii", "replace")))
    return Names(objects, server_id.strip())


def _following(asked: IdentificationRequest, first: int | None, conformity: int) -> IdentificationRequest | None:
    """What else there is to ask for."""
    if first is not None and first > asked.first:
        return IdentificationRequest(asked.unit, asked.category, first)
    if asked.category == 1 and conformity >= 2:
        return IdentificationRequest(asked.unit, 2, 3)  # the basic objects are known
    return None


async def rank(
    registers: Registers, profiles: Sequence[Profile], names: Names, looked_at: Callable[[int], None] = lambda _: None
) -> list[Candidate]:
    """The profiles the unit may be, likeliest first. Raises LineDownError.

    looked_at: told how many profiles were tried so far.
    """
    looks: list[_Look] = []
    for place, profile in enumerate(profiles):
        looked_at(place)
        signed, said = await _signature(registers, profile)
        weight = await _first_look(registers, profile)
        looks.append(_Look(profile, _named(profile, names), signed, said, weight))
    looks.sort(key=lambda look: (look.is_sure, look.weight), reverse=True)
    chosen = [look for look in looks if look.weight > 0 or look.is_sure][:SHORTLIST]
    candidates = [_candidate(look, await read_all(registers, look.profile)) for look in chosen]
    return sorted(
        (candidate for candidate in candidates if candidate.weight > 0 or candidate.is_sure),
        key=lambda candidate: (candidate.is_sure, candidate.weight * candidate.score),
        reverse=True,
    )


class _Look(NamedTuple):
    """What little is known of a profile before all of it is read."""

    profile: Profile
    named: bool
    signed: bool | None
    said: str
    weight: float

    @property
    def is_sure(self) -> bool:
        return self.named or self.signed is True


async def _signature(registers: Registers, profile: Profile) -> tuple[bool | None, str]:
    """(whether the profile's signature stands in the registers, what stands there); None: they are not to be read."""
    said = []
    for signature in profile.signature:
        point = next(point for point in profile.points if point.id == signature.point)
        value = (await _read_point(registers, profile, point)).value
        if value is None:
            return None, ""
        said.append(f"{point.id} {value}")
        if not signature.holds(value):
            return False, ", ".join(said)
    return (True if said else None), ", ".join(said)


async def read_all(registers: Registers, profile: Profile) -> MeterReading:
    """Every point of a profile, read from a unit that may be such a meter."""
    config = MeterConfig("found", "line", registers.unit, profile.profile)
    points = tuple(profile.points)
    requests = tuple(plan_requests(profile, points, registers.unit, _COST))
    return await read_meter(MeterPlan(config, 0, points, requests), registers.ask)


async def _first_look(registers: Registers, profile: Profile) -> float:
    """What the profile's strongest points say for it."""
    points = sorted(profile.points, key=strength, reverse=True)[:FIRST_LOOK]
    total = 0.0
    for place, point in enumerate(points):
        said = await _read_point(registers, profile, point)
        total += judge(point, said.value, said.quality).weight
        if place == 1 and total <= 0:
            break
    return total


async def _read_point(registers: Registers, profile: Profile, point: Point) -> PointReading:
    config = MeterConfig("found", "line", registers.unit, profile.profile)
    requests = tuple(plan_requests(profile, (point,), registers.unit, _COST))
    return (await read_meter(MeterPlan(config, 0, (point,), requests), registers.ask)).points[0]


def _candidate(look: _Look, reading: MeterReading) -> Candidate:
    profile = look.profile
    judged = [
        (point, said, judge(point, said.value, said.quality))
        for point, said in zip(profile.points, reading.points, strict=True)
        if not any(point.id == signature.point for signature in profile.signature)
    ]
    # A right value may be chance; a wrong one, or a register that is not there, seldom is.
    weight = sum(judgement.weight if judgement.plausible else 2 * judgement.weight for _, _, judgement in judged)
    most = sum(judgement.most for _, _, judgement in judged)
    if look.signed is False:  # it calls itself something else where this model has its name
        weight = weight / 2 if weight > 0 else weight
    judged.sort(key=lambda row: row[2].most, reverse=True)
    return Candidate(
        profile.profile,
        profile.title.get("en", profile.profile),
        round(100 * max(0.0, weight) / most) if most else 0,
        round(weight, 1),
        look.named,
        tuple(said for _, said, _ in judged[:FIRST_LOOK]),
        look.signed is True,
        look.said,
        len(judged),
    )


def _named(profile: Profile, names: Names) -> bool:
    """Whether the device's own words hold the profile's model, such as SDM630 or PAC2200."""
    said = re.sub(r"[^a-z0-9]", "", names.text.lower())
    model = re.sub(r"[^a-z0-9]", "", profile.profile.split("-", 1)[-1].lower())
    return len(model) >= 4 and model in said
