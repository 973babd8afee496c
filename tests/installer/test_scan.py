"""The scan on a real pty: who is there, at which settings, and which model each one is."""

from contextlib import aclosing
from pathlib import Path

import msgspec
import pytest
import yaml

from parkfleet.agent.configuration import load_configuration
from parkfleet.agent.display import Shown
from parkfleet.agent.findings import SURE, Finding, Part, stable_name
from parkfleet.agent.identify import Names, Registers, rank
from parkfleet.agent.installer import profiles_in
from parkfleet.agent.scan import ScanPlan, Step, Unit, scan, serial_settings
from parkfleet.agent.scan_options import parse_bauds, parse_parities, parse_units, settings_for
from parkfleet.agent.survey import Survey
from parkfleet.agent.transport import LineDownError
from parkfleet.agent.wire import opened
from parkfleet.protocols.config import LineAddress, parse_line_url
from parkfleet.protocols.library import load_profile, profile_names
from parkfleet.protocols.profile import Point, Profile, Signature
from parkfleet.simulators.endpoint import TcpEndpoint
from parkfleet.simulators.faults import Faults
from parkfleet.simulators.identity import Identity
from parkfleet.simulators.meter import SimulatedMeter
from parkfleet.simulators.record import AnswerRecord
from tests.installer.conftest import MODELS, bus, simulated


class Quiet:
    """A watcher that keeps what it is told."""

    def __init__(self) -> None:
        self.left: list[float] = []

    def tried(self, step: Step) -> None:
        self.left.append(step.left_s)

    def asking(self, unit: Unit, done: float, count: int) -> None:
        assert 0 <= done <= count


async def surveyed(plan: ScanPlan, *shown: str) -> Survey:
    """A survey with the built-in library, to its end."""
    profiles, wrong = profiles_in([])
    assert not wrong
    survey = Survey(plan, profiles, [Shown.parse(text) for text in shown], Quiet())
    await survey.run(opened)
    return survey


def plan_for(url: str, units: str, bauds: str, parities: str, timeout: float = 0.1, quick: bool = False) -> ScanPlan:
    settings = settings_for(parse_line_url(url), url, bauds, parities)
    return ScanPlan(settings, parse_units(units), timeout, quick)


async def test_scan_finds_settings_units_and_models(tmp_path: Path, meters: list[SimulatedMeter]) -> None:
    """At the right setting every meter is found and known for what it is; at the others nobody answers."""
    async with bus(tmp_path, meters, 19200, "E") as line:
        survey = await surveyed(plan_for(f"serial://{line.path}", "1-14", "9600,19200", "N,E"))
        assert line.early == 0
    found = [(f.unit.address.baud, f.unit.address.parity, f.unit.unit, f.profile) for f in survey.findings]
    assert found == [(19200, "E", unit, name) for unit, name in MODELS.items()]


async def test_scan_quick_stops_at_the_first_setting(tmp_path: Path, meters: list[SimulatedMeter]) -> None:
    """Once somebody answered, only that setting's units are tried, all of them."""
    async with bus(tmp_path, meters, 9600, "O") as line:
        plan = plan_for(f"serial://{line.path}", "1-13", "9600,19200,4800", "N,O", 0.05, quick=True)
        async with aclosing(scan(plan, opened)) as steps:
            done = [step async for step in steps]
    met = next(step.address for step in done if step.found)
    assert {step.found.unit for step in done if step.found} == set(MODELS)
    behind = [step.address for step in done[next(i for i, step in enumerate(done) if step.found) :]]
    assert set(behind) == {met}
    assert done[-1].left_s == pytest.approx(0)


async def test_scan_time_left_only_falls(tmp_path: Path, meters: list[SimulatedMeter]) -> None:
    """The estimate is the worst case, announced before, and comes down to nothing."""
    async with bus(tmp_path, meters, 9600, "N") as line:
        plan = plan_for(f"serial://{line.path}", "1-5", "9600", "N,E", 0.02)
        survey = await surveyed(plan)
    assert isinstance(survey.watcher, Quiet)
    left = [plan.worst_case, *survey.watcher.left]
    assert left == sorted(left, reverse=True)
    assert left[-1] == pytest.approx(0)


async def test_scan_exception_is_presence_and_gateway_refusal_is_not() -> None:
    """A slave that refuses is there; a gateway that says nobody is behind it, is not."""
    here, nobody = simulated("chint-dtsu666", 1), simulated("chint-dtsu666", 2)
    here.faults.exception, nobody.faults.exception = 1, 11
    async with TcpEndpoint("hall", [here, nobody], AnswerRecord()) as line:
        plan = ScanPlan((line.address,), (1, 2, 3), 0.1)
        async with aclosing(scan(plan, opened)) as steps:
            found = [step.found.unit async for step in steps if step.found]
    assert found == [1]


async def test_scan_slow_meter_is_found(tmp_path: Path) -> None:
    """One that answers after the time-out is heard when the next is asked, and asked again with more patience."""
    slow = simulated("chint-dtsu666", 4)
    slow.faults = Faults(delay=0.06)
    async with bus(tmp_path, [slow]) as line:
        plan = plan_for(f"serial://{line.path}", "3-6", "115200", "E", 0.05)
        async with aclosing(scan(plan, opened)) as steps:
            found = [step.found.unit async for step in steps if step.found]
    assert found == [4]


async def test_scan_garbled_answers_are_told(tmp_path: Path) -> None:
    """Two meters with one unit id, or noise: nobody is found, and what came is named."""
    noisy = simulated("chint-dtsu666", 1)
    noisy.faults.corrupt = True
    async with bus(tmp_path, [noisy]) as line:
        survey = await surveyed(plan_for(f"serial://{line.path}", "1-2", "115200", "E", 0.05))
    assert survey.findings == []
    assert ["CRC does not match" in told for told in survey.garbled.values()] == [True]


async def test_scan_tcp_device_that_answers_every_unit() -> None:
    """A meter that does not look at the unit id is one meter."""
    many = [simulated("schneider-iem3155", unit) for unit in range(1, 11)]
    async with TcpEndpoint("meter", many, AnswerRecord()) as line:
        survey = await surveyed(ScanPlan((line.address,), tuple(range(1, 11)), 0.2))
    assert survey.one_for_all
    assert [finding.profile for finding in survey.findings] == ["schneider-iem3155"]


async def test_scan_device_names_itself(tmp_path: Path) -> None:
    """What FC 43/14 and FC 17 say is shown, and decides between models that read alike."""
    twins = [simulated("eastron-sdm120", 1), simulated("eastron-sdm630", 2), simulated("eastron-sdm120", 3)]
    twins[0].identity = Identity(("Eastron", "SDM120CT", "1.0", "", "meter"))
    twins[1].identity = Identity(server_id=b"\x02SDM72D V2")
    async with bus(tmp_path, twins) as line:
        survey = await surveyed(plan_for(f"serial://{line.path}", "1-3", "115200", "E"))
    first, second, third = survey.findings
    assert first.names.objects["product code"] == "SDM120CT"
    assert first.names.objects["product name"] == "meter"
    assert (first.profile, first.candidates[0].named) == ("eastron-sdm120", True)
    assert second.names.text == "SDM72D V2"
    assert third.names.text == ""
    assert third.profile == "eastron-sdm120"


@pytest.mark.parametrize("name", profile_names())
async def test_every_model_of_the_library_is_known_for_what_it_is(name: str) -> None:
    """Among all profiles its own comes first, by its registers alone."""
    profiles, _ = profiles_in([])
    meter = simulated(name, 1)
    async with TcpEndpoint("meter", [meter], AnswerRecord()) as line, opened(line.address) as wire:
        candidates = await rank(Registers(wire, 1, 1.0), profiles, Names())
    best = candidates[0]
    assert best.profile == name
    assert best.signed == bool(load_profile(name).signature)
    assert best.score >= SURE


def with_code(profile: Profile, code: int) -> Profile:
    """The model with its code in holding register 900."""
    point = Point("model_code", "uint16", 900, table="holding", kind="state", hidden=True)
    signature = [Signature("model_code", [code])]
    return msgspec.structs.replace(profile, points=[*profile.points, point], signature=signature)


async def test_signature_decides_between_twins(tmp_path: Path) -> None:
    """Of models that read alike the one whose code stands in its register is it, the other is doubted."""
    original = load_profile("eastron-sdm630")
    first = with_code(msgspec.structs.replace(original, profile="x-first"), 111)
    second = with_code(msgspec.structs.replace(original, profile="x-second"), 222)
    async with bus(tmp_path, [simulated(second, 1), simulated(original, 2)]) as line:
        plan = plan_for(f"serial://{line.path}", "1-2", "115200", "E")
        survey = Survey(plan, [first, second], [], Quiet())
        await survey.run(opened)
    coded, plain = survey.findings
    best, other = coded.candidates
    assert (best.profile, best.signed, best.said) == ("x-second", True, "model_code 222")
    assert (other.profile, other.signed) == ("x-first", False)
    assert other.score < 60 < best.score
    assert {(c.signed, c.score) for c in plain.candidates} == {(False, plain.candidates[0].score)}  # nothing is read


async def test_scan_part_is_a_configuration(tmp_path: Path, meters: list[SimulatedMeter]) -> None:
    """The part, with a park, a gateway and a broker before it, passes the check."""
    async with bus(tmp_path, meters) as line:
        survey = await surveyed(plan_for(f"serial://{line.path}", "1-12", "115200", "E", 0.05))
    path = tmp_path / "part.yaml"
    assert Part(survey.findings, survey.profiles).write(path) == [path]
    whole = tmp_path / "gateway.yaml"
    whole.write_text("park: p\ngateway: g\nbroker: {url: mqtt://h}\n" + path.read_text())
    gateway = load_configuration(whole).gateway
    assert {(meter.unit, meter.profile) for meter in gateway.meters} == set(MODELS.items())
    assert parse_line_url(gateway.lines[0].url).parity == "E"


def test_part_survives_what_devices_say() -> None:
    """A name with line breaks, or a line that is no id, stays harmless; a second setting is left out."""
    address = LineAddress("serial", device="/dev/tty weird!", baud=9600)
    other = msgspec.structs.replace(address, baud=19200)
    findings = [Finding(Unit(address, 1, "answers")), Finding(Unit(other, 2, "answers"))]
    findings[0].names = msgspec.structs.replace(findings[0].names, server_id="x\nmeters: [{}]")
    text = Part(findings, []).text()
    document = yaml.safe_load(text)
    assert [line["id"] for line in document["lines"]] == ["tty-weird"]
    assert document["meters"] == []
    assert "One port has one setting" in text


def test_stable_name(tmp_path: Path) -> None:
    """An adapter is named by the link that follows it from port to port."""
    port = tmp_path / "ttyUSB0"
    port.touch()
    links = tmp_path / "by-id"
    assert stable_name(port, links) == port
    links.mkdir()
    (links / "usb-FTDI").symlink_to(port)
    assert stable_name(port, links) == links / "usb-FTDI"


async def test_scan_port_missing(tmp_path: Path) -> None:
    """A port that is not there is told with the remedy."""
    with pytest.raises(LineDownError, match="is the adapter plugged in"):
        await surveyed(plan_for(f"serial://{tmp_path}/ttyUSB7", "1", "9600", "N"))


def test_settings_are_tried_by_likelihood() -> None:
    """9600 8N1 first; what the url names is not searched for."""
    address = LineAddress("serial", device="/dev/x")
    tried = [(a.baud, a.parity) for a in serial_settings(address, (9600, 19200), ("N", "E"))]
    assert tried == [(9600, "N"), (19200, "N"), (9600, "E"), (19200, "E")]
    assert len(settings_for(address, "serial:///dev/x", "", "")) == 24
    assert {a.baud for a in settings_for(address, "serial:///dev/x?baud=9600", "", "")} == {9600}


@pytest.mark.parametrize("text", ["0-256", "5-1", "x", "", "1,,2", "1-2-3"])
def test_units_that_are_none(text: str) -> None:
    """A typo is answered with an example."""
    with pytest.raises(ValueError, match="such as 1-247"):
        parse_units(text)


def test_options_that_are_none() -> None:
    """So are a baud rate that no port has, and a parity that is none."""
    assert parse_units("1-3,7,2") == (1, 2, 3, 7)
    with pytest.raises(ValueError, match="'12345'"):
        parse_bauds("9600,12345")
    with pytest.raises(ValueError, match="N, E and O"):
        parse_parities("N,X")
