"""A small line of simulated meters, and what an agent needs to poll it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from parkfleet.protocols.profile import Point, Profile
from parkfleet.simulators.loads import load_of
from parkfleet.simulators.meter import SimulatedMeter
from parkfleet.simulators.record import AnswerRecord
from tests.agent.site import Site

#: Two requests on the wire: the tables differ.
SMALL = Profile(
    profile="small",
    title={"en": "Small"},
    medium="power",
    source="these tests",
    points=[
        Point(id="voltage_l1", type="float32", address=0, table="input", unit="V"),
        Point(id="power_active", type="float32", address=2, table="input", unit="W"),
        Point(id="energy_import", type="uint32", address=10, table="holding", unit="kWh", kind="counter"),
    ],
)

SMALL_YAML = """\
profile: small
title: {en: Small}
medium: power
source: these tests
points:
  - {id: voltage_l1, type: float32, address: 0, table: input, unit: V}
  - {id: power_active, type: float32, address: 2, table: input, unit: W}
  - {id: energy_import, type: uint32, address: 10, table: holding, unit: kWh, kind: counter}
"""


@pytest.fixture
def record() -> AnswerRecord:
    return AnswerRecord()


@pytest.fixture
def meters() -> list[SimulatedMeter]:
    """Units 1 and 2."""
    return [SimulatedMeter(SMALL, unit, load_of("power", unit), unit) for unit in (1, 2)]


@pytest.fixture
def profiles(tmp_path: Path) -> Path:
    """A folder with the small profile."""
    folder = tmp_path / "profiles"
    folder.mkdir()
    (folder / "small.yaml").write_text(SMALL_YAML)
    return folder


@pytest.fixture
async def site(
    tmp_path: Path, meters: list[SimulatedMeter], record: AnswerRecord, profiles: Path
) -> AsyncIterator[Site]:
    site = Site(tmp_path, meters, record)
    async with site.park:
        yield site
