"""The demo's account of a meter whose readings take several registers: exact, and it notices what is not."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import msgspec

from parkfleet.agent.configuration import Configuration
from parkfleet.agent.engine import LineEngine
from parkfleet.agent.plan import Plan, make_plan
from parkfleet.protocols.config import BrokerConfig, GatewayConfig, LineConfig, MeterConfig
from parkfleet.protocols.payload.series import Scan, has_value
from parkfleet.protocols.quantity import Duration
from parkfleet.simulators.demo.account import answered_samples
from parkfleet.simulators.endpoint import TcpEndpoint
from parkfleet.simulators.loads import load_of
from parkfleet.simulators.meter import SimulatedMeter
from parkfleet.simulators.park import Park, ParkMeter
from parkfleet.simulators.record import AnswerRecord
from parkfleet.simulators.verdict import Sample, Series, Verdict, judge
from tests.eventually import eventually
from tests.simulators.test_derived_meter import split


async def polled(folder: Path, raw_to_spoil: str = "") -> Verdict:
    """What the account says of five scans by the engine, in requests of at most four registers."""
    profile = msgspec.structs.replace(split(folder, "power"), max_registers=4)
    record = AnswerRecord()
    simulated = SimulatedMeter(profile, 1, load_of("power", 1), 1)
    async with Park(
        [], TcpEndpoint("hall", [simulated], record), [ParkMeter("m1", "hall", 1, simulated, 0)], record
    ) as p:
        gateway = GatewayConfig(
            "p",
            "g",
            BrokerConfig("mqtt://h"),
            [LineConfig("hall", p.endpoint.url)],
            [MeterConfig("m1", "hall", 1, "split", Duration(0.2))],
        )
        plan = make_plan(Configuration(gateway, {"split": profile}, Path()))
        scans: list[Scan] = []
        engine = LineEngine(list(plan.lines), plan.delivering(scans.append))
        task = asyncio.create_task(engine.run())
        await eventually(lambda: len(scans) >= 5)
        engine.stop()
        await task
        return judge(answered_samples(p), samples(plan, scans, raw_to_spoil), {"m1": 100})


def samples(plan: Plan, scans: list[Scan], spoiled: str) -> Iterator[tuple[Series, Sample]]:
    """What was delivered; of one column the smallest step more."""
    for scan in scans:
        for column, slot, code in zip(plan.schema.entries[0].columns, scan.slots, scan.quality, strict=True):
            value = column.value(slot + (column.point == spoiled)) if has_value(code) else None
            yield Series("m1", column.point), Sample(scan.ts, value)


async def test_every_delivered_column_is_compared(tmp_path: Path) -> None:
    """Each scan's derived counters, its values by codes and ratios: as answered, to the last digit."""
    verdict = await polled(tmp_path)
    assert verdict.ok, verdict.examples
    # flow, temperature, current, volume, energy, and current and energy before the transformer
    assert verdict.readings_delivered >= 5 * 7


async def test_smallest_step_of_a_derived_counter_is_noticed(tmp_path: Path) -> None:
    """A hundredth of a kilowatt-hour behind the transformer."""
    verdict = await polled(tmp_path, "energy")
    assert verdict.mismatched >= 5
    assert verdict.lost == 0
