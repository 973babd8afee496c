"""Rules between polling and the batch: what an alarm says, what a deadband leaves, what does not wait."""

from array import array
from pathlib import Path
from typing import Any

import pytest
import yaml

from parkfleet.agent.alarm import AlarmKey, AlarmState
from parkfleet.agent.configuration import Configuration, load_configuration, remarks
from parkfleet.agent.plan import make_plan
from parkfleet.agent.rules import Rules
from parkfleet.protocols.document import DocumentError
from parkfleet.protocols.payload.series import Scan
from parkfleet.protocols.quality import Quality

T0 = 1_795_438_548_000
PROFILE = """\
profile: heat
title: {en: Heat}
medium: heat
source: these tests
points:
  - {id: temperature_supply, type: int16, address: 0, scale: 0.1, unit: °C}
  - {id: power, type: uint16, address: 1, unit: kW}
  - {id: energy, type: uint32, address: 2, unit: kWh, kind: counter}
  - {id: leak, type: uint16, address: 4, kind: state, priority: true}
  - {id: serial, type: string, registers: 4, address: 5}
"""
GOOD = Quality.GOOD


def configured(folder: Path, count: int = 1, **settings: Any) -> Configuration:
    """Heat meters with some settings of the gateway. Raises DocumentError."""
    (folder / "profiles").mkdir(exist_ok=True)
    (folder / "profiles/heat.yaml").write_text(PROFILE)
    document: dict[str, Any] = {
        "park": "p",
        "gateway": "g",
        "broker": {"url": "mqtt://127.0.0.1:1"},
        "profiles": ["profiles"],
        "lines": [{"id": "hall", "url": "tcp://127.0.0.1:1"}],
        "meters": [{"id": f"m{n}", "line": "hall", "unit": n, "profile": "heat"} for n in range(1, count + 1)],
        **settings,
    }
    (folder / "gateway.yaml").write_text(yaml.safe_dump(document, allow_unicode=True))
    return load_configuration(folder / "gateway.yaml")


class Bench:
    """Rules that scans are given to; what comes out, in its order."""

    def __init__(self, configuration: Configuration, states: dict[AlarmKey, AlarmState] | None = None) -> None:
        self.out: list[Scan] = []
        self.events: list[tuple[str, str, str, dict[str, Any]]] = []
        self.kept: dict[AlarmKey, AlarmState] = {}
        self.hurried: list[int] = []  # how many scans were out by then
        self.rules = Rules(
            configuration, make_plan(configuration), states or {}, self._emit, self.out.append, self._hurry
        )

    def _emit(
        self, kind: str, text: str, meter: str, data: dict[str, object], alarm: tuple[AlarmKey, AlarmState], /
    ) -> None:
        self.events.append((kind, text, meter, data))
        self.kept[alarm[0]] = alarm[1]

    def _hurry(self) -> None:
        self.hurried.append(len(self.out))

    def scan(self, second: int, entry: int = 0, quality: int = GOOD, **values: int) -> None:
        """A scan's raw values; those that are not said are 0 and good."""
        names = ["temperature_supply", "power", "energy", "leak", "serial"]
        slots = array("q", [values.get(name, 0) for name in names])
        codes = bytes(quality if name in values else GOOD for name in names)
        self.rules.on_scan(Scan(entry, T0 + 1000 * second, slots, codes, ("SN",)))


HOT = {"id": "hot", "kind": "limit", "points": ["temperature_supply"], "above": 90, "hysteresis": 5, "text": "too hot"}


def test_event_says_all_that_is_asked(tmp_path: Path) -> None:
    """Rule, meter, point, value, limit, time; in its text for people; the reading itself goes out unchanged."""
    bench = Bench(configured(tmp_path, rules=[HOT]))
    bench.scan(0, temperature_supply=899)
    bench.scan(1, temperature_supply=935)
    bench.scan(20, temperature_supply=850)
    raised = {
        "rule": "hot", "side": "above", "point": "temperature_supply", "value": 93.5, "unit": "°C", "limit": 90,
        "ts": T0 + 1000, "since": T0 + 1000,
    }  # fmt: skip
    cleared = {**raised, "value": 85.0, "ts": T0 + 20_000}
    assert bench.events == [
        ("rule-raised", "too hot: temperature_supply is 93.5 °C, above 90 °C", "m1", raised),
        ("rule-cleared", "too hot: temperature_supply is 85 °C, no more above 90 °C", "m1", cleared),
    ]
    assert [scan.slots[0] for scan in bench.out] == [899, 935, 850]
    assert bench.kept == {("hot", "m1", "temperature_supply"): AlarmState()}


@pytest.mark.parametrize(
    ("rule", "scans", "texts"),
    [
        (
            {"kind": "rate", "above": 5, "per": "1m", "points": ["power"]},
            [{"power": 1}, {"power": 9}, {"power": 9}],
            ["r: power changed by +8 kW within 1m, to 9 kW", "r: power is 9 kW, and changed by +0 kW within 1m"],
        ),
        (
            {"kind": "stuck", "after": "1m", "points": ["energy"], "when": "power", "when_above": 2},
            [{"energy": 7, "power": 3}, {"energy": 7, "power": 3}, {"energy": 8, "power": 3}],
            ["r: energy has been 7 kWh for 1m", "r: energy moves again, 8 kWh"],
        ),
        (
            {"kind": "backwards", "points": ["energy"]},
            [{"energy": 70}, {"energy": 7}, {"energy": 71}],
            ["r: energy went back from 70 kWh to 7 kWh", "r: energy goes forward again, 71 kWh"],
        ),
    ],
)
def test_each_kind_has_its_sentence(
    tmp_path: Path, rule: dict[str, Any], scans: list[dict[str, int]], texts: list[str]
) -> None:
    """Raised and cleared, two minutes between the readings."""
    bench = Bench(configured(tmp_path, rules=[{"id": "r", **rule}]))
    for index, values in enumerate(scans):
        bench.scan(120 * index, **values)
    if rule["kind"] == "rate":
        bench = Bench(configured(tmp_path, rules=[{"id": "r", **rule}]))
        for second, values in zip((0, 50, 170), scans, strict=True):
            bench.scan(second, **values)
    assert [text for _, text, _, _ in bench.events] == texts


def test_only_good_readings_count(tmp_path: Path) -> None:
    """Others raise nothing and clear nothing; but what went back is not believed for just that, and told."""
    rules = [HOT, {"id": "back", "kind": "backwards", "points": ["energy"]}]
    bench = Bench(configured(tmp_path, rules=rules))
    bench.scan(0, temperature_supply=990, quality=Quality.SUSPECT)
    bench.scan(1, temperature_supply=990, quality=Quality.TIMEOUT)
    assert bench.events == []
    bench.scan(2, temperature_supply=990)
    bench.scan(60, temperature_supply=0, quality=Quality.TIMEOUT)
    bench.scan(61, energy=50, temperature_supply=990)
    bench.scan(62, energy=7, quality=Quality.SUSPECT, temperature_supply=990)
    assert [(kind, data["rule"]) for kind, _, _, data in bench.events] == [
        ("rule-raised", "hot"), ("rule-raised", "back")
    ]  # fmt: skip


def test_raised_alarm_outlives_a_restart(tmp_path: Path) -> None:
    """Nothing is raised twice; and a rule that is gone meanwhile is cleared, so that nobody waits for its end."""
    configuration = configured(tmp_path, 2, rules=[HOT])
    before = Bench(configuration)
    before.scan(0, temperature_supply=990)
    after = Bench(configuration, before.rules.states())
    assert [alarm.meter for alarm in after.rules.standing()] == ["m1"]
    after.scan(1, temperature_supply=990)
    assert after.events == []
    without = Bench(configured(tmp_path), before.rules.states())
    ((kind, text, meter, data),) = without.events
    assert (kind, meter, data["rule"], data["since"]) == ("rule-cleared", "m1", "hot", T0)
    assert text == "hot: the rule for temperature_supply is gone or another"
    assert without.kept == {("hot", "m1", "temperature_supply"): AlarmState()}


def test_rule_for_some_meters_leaves_the_others_alone(tmp_path: Path) -> None:
    """By meter or by profile; a scan of another entry is the very same object behind the rules."""
    bench = Bench(configured(tmp_path, 2, rules=[{**HOT, "meters": ["m2"]}]))
    bench.scan(0, temperature_supply=990)
    assert bench.events == []
    bench.scan(0, entry=1, temperature_supply=990)
    assert [meter for _, _, meter, _ in bench.events] == ["m2"]
    other = Bench(configured(tmp_path, rules=[{**HOT, "profiles": ["eastron-sdm630"]}]))
    other.scan(0, temperature_supply=990)
    assert other.events == []


def test_replaced_meter_begins_anew(tmp_path: Path) -> None:
    """Its counter is not compared with that of the one before."""
    bench = Bench(configured(tmp_path, rules=[{"id": "back", "kind": "backwards", "points": ["energy"]}]))
    bench.scan(0, energy=50_000)
    bench.rules.begin_anew("m1")
    bench.scan(1, energy=3)
    assert bench.events == []


BAND = {"id": "calm", "points": ["temperature_supply"], "absolute": 0.5, "silence": "1m"}


def test_what_is_held_back_has_a_quality_of_its_own(tmp_path: Path) -> None:
    """No value, `held`: counted, and no loss. Other points of the scan, and what is not good, go out as they are."""
    bench = Bench(configured(tmp_path, deadbands=[BAND]))
    for second, raw in enumerate((650, 652, 660, 661)):
        bench.scan(second, temperature_supply=raw, energy=second)
    bench.scan(4, temperature_supply=661, quality=Quality.SUSPECT)
    bench.scan(5, temperature_supply=661, quality=Quality.TIMEOUT)
    bench.scan(6, temperature_supply=661)
    bench.scan(66, temperature_supply=661)
    assert [(scan.quality[0], scan.slots[0]) for scan in bench.out] == [
        (GOOD, 650), (Quality.HELD, 0), (GOOD, 660), (Quality.HELD, 0), (Quality.SUSPECT, 661), (Quality.TIMEOUT, 661),
        (GOOD, 661), (GOOD, 661),
    ]  # fmt: skip
    assert [scan.slots[2] for scan in bench.out[:4]] == [0, 1, 2, 3]
    assert bench.rules.held == 2


def test_reading_by_which_an_alarm_changes_is_delivered(tmp_path: Path) -> None:
    """However near it is to the last one: whoever gets the event finds its value."""
    bench = Bench(configured(tmp_path, rules=[{**HOT, "hysteresis": 0}], deadbands=[{**BAND, "absolute": 50}]))
    for second, raw in ((0, 890), (1, 901), (2, 902), (30, 899), (31, 880)):
        bench.scan(second, temperature_supply=raw)
    held = Quality.HELD
    assert [scan.quality[0] for scan in bench.out] == [GOOD, GOOD, held, GOOD, held]


def test_last_deadband_that_fits_counts(tmp_path: Path) -> None:
    """A gateway's own stands behind those of the layers below."""
    bench = Bench(configured(tmp_path, deadbands=[BAND, {**BAND, "id": "own", "meters": ["m1"], "absolute": 10}]))
    bench.scan(0, temperature_supply=650)
    bench.scan(1, temperature_supply=740)
    assert bench.rules.held == 1


def test_priority_reading_does_not_wait(tmp_path: Path) -> None:
    """Each change of a point that the profile marks, in value or quality, behind its delivery; the same is no news."""
    bench = Bench(configured(tmp_path))
    for second, leak in enumerate((0, 0, 1, 1)):
        bench.scan(second, leak=leak, power=second)
    bench.scan(4, leak=1, quality=Quality.TIMEOUT)
    assert bench.hurried == [1, 3, 5]


def test_priority_of_the_gateway_itself(tmp_path: Path) -> None:
    """A meter's points beside those of its profile; what a deadband holds back is no news."""
    meters = [{"id": "m1", "line": "hall", "unit": 1, "profile": "heat", "priority": ["power"]}]
    band = {"id": "own", "points": ["power"], "absolute": 5}
    bench = Bench(configured(tmp_path, meters=meters, deadbands=[band]))
    for second, power in enumerate((10, 12, 20)):
        bench.scan(second, power=power)
    assert bench.hurried == [1, 3]


def test_rule_with_priority_hurries_its_reading(tmp_path: Path) -> None:
    """The one that raises the alarm, and the one that clears it; no other."""
    bench = Bench(configured(tmp_path, rules=[{**HOT, "priority": True}]))
    bench.scan(0, temperature_supply=100)
    bench.hurried.clear()  # the first reading of the leak is news
    for second, raw in ((1, 910), (2, 920), (30, 850), (31, 850)):
        bench.scan(second, temperature_supply=raw)
    assert bench.hurried == [2, 4]


@pytest.mark.parametrize(
    ("settings", "where", "told"),
    [
        ({"rules": [{**HOT, "meters": ["m9"]}]}, "rules[0].meters[0]", "there is no meter 'm9'"),
        (
            {"rules": [{**HOT, "points": ["flow"], "meters": ["m1"]}]},
            "rules[0].meters[0]",
            "delivers none of the points",
        ),
        ({"rules": [{**HOT, "points": ["serial"]}]}, "rules[0].points[0]", "is a text"),
        ({"rules": [HOT, HOT]}, "rules[1].id", "rule id 'hot' is used twice"),
        ({"rules": [{**HOT, "above": None}]}, "rules[0]", "a limit needs above, below or both"),
        ({"rules": [{**HOT, "below": 95}]}, "rules[0]", "above must be greater than below"),
        ({"rules": [{**HOT, "between": "25:00-26:00"}]}, "rules[0]", "between must be hours of the day"),
        ({"rules": [{**HOT, "per": "1m"}]}, "rules[0]", "per belongs to rules of kind rate, not to limit"),
        ({"rules": [{"id": "s", "kind": "stuck", "points": ["power"]}]}, "rules[0]", "a stuck rule needs after"),
        (
            {
                "rules": [
                    {"id": "s", "kind": "stuck", "points": ["power"], "after": "1h", "when": "x", "meters": ["m1"]}
                ]
            },
            "rules[0].points[0]",
            "does not deliver x",
        ),
        ({"deadbands": [{**BAND, "points": ["energy"]}]}, "deadbands[0].points[0]", "is a counter"),
        ({"deadbands": [{**BAND, "silence": "0s"}]}, "deadbands[0]", "silence must be from 1s to 1d"),
        ({"deadbands": [{**BAND, "percent": 101}]}, "deadbands[0].percent", "expected `float` <= 100"),
    ],
)
def test_mistake_is_told_with_its_place(tmp_path: Path, settings: dict[str, Any], where: str, told: str) -> None:
    """By `agent check`, and by the controller before it sends anything."""
    with pytest.raises(DocumentError) as raised:
        configured(tmp_path, **settings)
    (problem,) = raised.value.problems
    assert (problem.where, told in problem.message) == (where, True), problem


def test_rule_of_a_whole_fleet_may_fit_no_meter_here(tmp_path: Path) -> None:
    """It is no mistake, and `agent check` says so."""
    configuration = configured(tmp_path, rules=[{**HOT, "points": ["pressure"]}])
    assert "rule hot: no meter of this gateway delivers pressure" in list(remarks(configuration))
