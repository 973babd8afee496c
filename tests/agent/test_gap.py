"""The silence a meter needs before each request (min_gap), kept by the engine and by the poller."""

import asyncio
import itertools
from pathlib import Path

import msgspec
import pytest

from parkfleet.agent.configuration import Configuration
from parkfleet.agent.engine import LineEngine
from parkfleet.agent.plan import make_plan
from parkfleet.agent.poller import LinePoller
from parkfleet.protocols.config import BrokerConfig, GatewayConfig, LineConfig, MeterConfig
from parkfleet.protocols.payload.series import Scan
from parkfleet.protocols.quantity import Duration
from parkfleet.simulators.line import SerialLine
from parkfleet.simulators.meter import SimulatedMeter
from parkfleet.simulators.record import AnswerRecord
from tests.agent.conftest import SMALL
from tests.eventually import eventually

GAP_MS = 80


@pytest.mark.parametrize("owner", [LineEngine, LinePoller])
async def test_min_gap_is_kept(
    owner: type[LineEngine] | type[LinePoller], tmp_path: Path, meters: list[SimulatedMeter], record: AnswerRecord
) -> None:
    """From an answer's last byte to the next answer's first at least the gap passes, for the meter that needs it."""
    gapped = msgspec.structs.replace(SMALL, profile="gapped", min_gap=GAP_MS)
    async with SerialLine("bus", tmp_path, meters, record, baud=115200) as line:
        gateway = GatewayConfig(
            "p",
            "g",
            BrokerConfig("mqtt://h"),
            [LineConfig("bus", line.url)],
            [
                MeterConfig("m1", "bus", 1, "gapped", Duration(0.3)),
                MeterConfig("m2", "bus", 2, "small", Duration(0.3)),
            ],
        )
        (plan,) = make_plan(Configuration(gateway, {"small": SMALL, "gapped": gapped}, Path())).lines
        scans: list[Scan] = []
        polling = owner([plan], scans.append) if owner is LineEngine else LinePoller(plan, scans.append)
        task = asyncio.create_task(polling.run())
        await eventually(lambda: len(scans) >= 8)
        polling.stop()
        await task
    answers = {unit: [answer for answer in record if answer.unit == unit] for unit in (1, 2)}
    silences = {
        unit: [later.began - before.time for before, later in itertools.pairwise(found)]
        for unit, found in answers.items()
    }
    assert min(silences[1]) >= GAP_MS / 1000
    assert min(silences[2]) < GAP_MS / 1000
    assert all(set(scan.quality) == {0} for scan in scans)
