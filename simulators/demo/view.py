"""View: what the demo shows while it runs: a live screen, or lines in a pipe."""

import asyncio
import time
from dataclasses import dataclass
from typing import Any, Final, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from parkfleet.protocols.payload.consumer import Reading
from parkfleet.simulators.demo.fleet_watch import FleetWatch
from parkfleet.simulators.demo.subscriber import Subscriber
from parkfleet.simulators.park import Park, ParkMeter
from parkfleet.simulators.proxy import LinkProxy

#: Points shown of a meter, the most telling first; what a profile has of them, at most three.
TELLING: Final = (
    "power_active",
    "power",
    "flow",
    "flow_standard",
    "energy_import",
    "energy",
    "volume",
    "volume_forward",
    "volume_standard",
    "temperature_supply",
    "temperature",
    "voltage_l1",
)
SCREEN_S: Final = 0.5
LINES_S: Final = 2.0


@dataclass(frozen=True)
class Observer:
    """Everything a view looks at."""

    park: Park
    link: LinkProxy
    subscriber: Subscriber
    fleet: FleetWatch
    broker: str


class View(Protocol):
    """A way to show a demo."""

    async def run(self) -> None:
        """Shows until cancelled."""

    def end(self, report: dict[str, object]) -> None:
        """Shows the verdict."""


class Plain:
    """Lines, for pipes and logs."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    async def run(self) -> None:
        observer = self._observer
        print(f"park of {len(observer.park.meters)} meters, broker {observer.broker}; one line every {LINES_S:g} s")
        while True:
            await asyncio.sleep(LINES_S)  # the pace of the lines
            print(" | ".join([*summary(observer), *_loads(observer)]), flush=True)

    def end(self, report: dict[str, object]) -> None:
        print_report(report)


class Screen:
    """A live screen."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._console = Console()

    async def run(self) -> None:
        with Live(self._render(), console=self._console, screen=True, auto_refresh=False) as live:
            while True:
                live.update(self._render(), refresh=True)
                await asyncio.sleep(SCREEN_S)  # the pace of the screen

    def end(self, report: dict[str, object]) -> None:
        print_report(report)

    def _render(self) -> Group:
        observer = self._observer
        head = (
            Text("ParkFleet demo  ", "bold")
            + Text(time.strftime("%H:%M:%S"), "dim")
            + Text("   Ctrl-C judges and ends")
        )
        facts = Text("\n".join(summary(observer)), "red" if observer.link.is_cut else "")
        return Group(head, facts, Text("   ".join(_loads(observer))), self._meters())

    def _meters(self) -> Table:
        """One row a meter, as many as the screen holds."""
        table = Table("meter", "line", "model", "values", box=None, pad_edge=False, header_style="bold")
        for meter in self._observer.park.meters[: max(5, self._console.height - 9)]:
            values = "   ".join(_shown(reading) for reading in telling(self._observer.subscriber, meter))
            table.add_row(meter.id, meter.line, meter.profile.profile, values)
        return table


def summary(observer: Observer) -> list[str]:
    """What passes, in one line each: upstream, gateway, link."""
    subscriber, gateway = observer.subscriber, observer.fleet.gateway
    readings = subscriber.readings
    per_reading = subscriber.payload_bytes / readings if readings else 0.0
    link = "CUT" if observer.link.is_cut else "up" if observer.link.connections else "down"
    told = [f"upstream {readings} readings in {subscriber.batches} batches, {per_reading:.2f} B/reading"]
    if gateway is None:
        told.append("controller does not know the gateway yet")
    else:
        told.append(f"controller says {gateway.state}, {gateway.meters_ok} meters well, {gateway.meters_bad} not")
        told.append(f"buffer {gateway.buffer_batches} batches, {gateway.buffer_readings} readings")
    return [*told, f"broker link {link}"]


def _loads(observer: Observer) -> list[str]:
    return [f"{line} busy {load:.0%}" for line, load in observer.fleet.line_loads.items()]


def telling(subscriber: Subscriber, meter: ParkMeter) -> list[Reading]:
    """The last readings of a meter's most telling points, at most three."""
    found = [subscriber.last.get((meter.id, point)) for point in TELLING]
    return [reading for reading in found if reading is not None][:3]


def _shown(reading: Reading) -> str:
    if reading.value is None:
        return f"{reading.point} {reading.quality}"
    value = f"{reading.value:,.6g}" if isinstance(reading.value, float) else str(reading.value)
    return f"{value} {reading.unit}".rstrip()


def print_report(report: dict[str, Any]) -> None:
    """The verdict, for a person."""
    print(
        f"\n{report['meters']} meters answered {report['readings_answered']} readings,"
        f" {report['readings_delivered']} were delivered in {report['batches']} batches"
        f" ({report['batches_repeated']} repeated ones dropped)"
    )
    print(
        f"{report['payload_bytes_per_reading']} bytes per reading in batches,"
        f" {report['bytes_per_reading']} on the wire with everything; link cut for {report['outage_s']:g} s"
    )
    print(f"lost {report['lost']}, duplicates {report['duplicates']}, mismatched {report['mismatched']}")
    for deviation in report["deviations"]:
        print(f"  {deviation}")
    if not report["gateway_online"]:
        print("the controller did not see the gateway online")
    print("OK: every answered reading arrived once and unchanged" if report["ok"] else "NOT OK", flush=True)
