"""gateway.yaml: what is accepted, and how every mistake is told at once with its place and remedy."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parkfleet.agent.configuration import Configuration, load_configuration, remarks
from parkfleet.protocols.config import GatewayConfig
from parkfleet.protocols.document import Document, DocumentError, json_schema

GOOD = """\
park: demo
gateway: gw-01
broker: {url: mqtt://127.0.0.1:1883}
buffer: {path: gw-01.db, flush: 5s, retain: 7d, max_bytes: 512MiB}
controller: {url: 127.0.0.1:7443}
profiles: [./profiles]
lines:
  - {id: bus1, url: "serial:///dev/ttyUSB0?baud=9600&parity=N&stopbits=1"}
  - {id: hall, url: "tcp://10.0.0.5:502"}
meters:
  - {id: m01, line: bus1, unit: 1, profile: tiny, interval: 10s}
  - {id: m02, line: hall, unit: 0, profile: tiny, interval: 1s}
"""

TINY = """\
profile: tiny
title: {en: Tiny, zh: 小}
medium: power
source: this test
points:
  - {id: voltage_l1, address: 0, type: uint16, scale: 0.1, unit: V}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles/tiny.yaml").write_text(TINY)
    return tmp_path


def load(folder: Path, text: str) -> Configuration:
    path = folder / "gateway.yaml"
    path.write_text(text)
    return load_configuration(path)


def problems(folder: Path, text: str) -> list[str]:
    with pytest.raises(DocumentError) as caught:
        load(folder, text)
    return [str(problem).removeprefix(f"{folder}/") for problem in caught.value.problems]


def test_load_good_file(folder: Path) -> None:
    """The file of the manual is accepted, and its words have become numbers."""
    configuration = load(folder, GOOD)
    assert float(configuration.gateway.buffer.retain) == 7 * 86400
    assert configuration.gateway.buffer.max_bytes == 512 * 1024**2
    assert list(configuration.profiles) == ["tiny"]


def test_load_many_mistakes(folder: Path) -> None:
    """All mistakes come at once, also those between the parts, each with line, column and remedy."""
    text = GOOD.replace("flush: 5s", "flush: 5 parsecs").replace("unit: 0", "unit: nought")
    text = text.replace("line: bus1", "line: bus9").replace("mqtt://", "http://").replace("gateway: gw-01\n", "")
    assert problems(folder, text) == [
        "gateway.yaml:1:1: gateway is missing: add `gateway: …`",
        "gateway.yaml:2:1: broker: expected mqtt://host:1883 or mqtts://host:8883, got 'http://127.0.0.1:1883'",
        "gateway.yaml:3:26: buffer.flush: expected a duration such as 250ms, 5s, 15m, 2h or 7d, got '5 parsecs'",
        "gateway.yaml:10:15: meters[0].line: there is no valid line 'bus9': lines are bus1, hall",
        "gateway.yaml:11:27: meters[1].unit: expected `int`, got `str` (found 'nought')",
    ]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("retain:", "retian:"), "4:37: buffer.retian: unknown key: did you mean 'retain'?"),
        (("parity=N", "parity=X"), "8:5: lines[0]: parity must be N, E or O, got 'X'"),
        (("tcp://10.0.0.5:502", "tcp://"), "url names no host"),
        (("id: m02", "id: m01"), "meters[1].id: meter id 'm01' is used twice: also by meters[0]"),
        (("line: hall, unit: 0", "line: bus1, unit: 1"), "meters[1].unit: unit 1 on line bus1 is already meter"),
        (("line: hall, unit: 0", "line: bus1, unit: 0"), "has a unit id from 1 to 247, got 0"),
        (
            ("tcp://10.0.0.5:502", "serial:///dev/ttyUSB0?baud=19200&parity=E"),
            "'/dev/ttyUSB0' is used twice: also by lines[0], there at 9600 8N1, here at 19200 8E1. All meters on a bus",
        ),
        (("tcp://10.0.0.5:502", "ascii:///dev/ttyUSB0"), "'/dev/ttyUSB0' is used twice: also by lines[0]"),
        (("ttyUSB0", "ttyUSB0?baud=9600&baud=19200"), "baud stands twice in the url: a line has one setting"),
        (
            ("id: m01", "baud: 19200, id: m01"),
            "meters[0].baud: stands in the line's url: all meters on a line speak at",
        ),
        (('stopbits=1"', 'stopbits=1", connections: 4'), "connections and outstanding are for tcp:// alone"),
        (("profile: tiny, interval: 10s", "profile: tinny"), "no profile 'tinny' in"),
        (("interval: 10s", "interval: 10ms"), "interval must be from 100ms to 1d"),
        (("interval: 10s", "interval: 10s, points: [volts]"), "profile tiny has no point 'volts'"),
        (("controller: {url: 127.0.0.1:7443}", "controller: {url: here}"), "expected host:port, got 'here'"),
        (("park: demo", "park: a/b"), "1:1: park: expected an id"),
        (("park: demo", "park: demo\npark: demo"), "park: stands here a second time"),
        (("{url: mqtt://127.0.0.1:1883}", "{url: mqtt://127.0.0.1:99999}"), "expected mqtt://host:1883"),
        (("lines:", "lines: ["), "not YAML"),
    ],
)
def test_load_one_mistake(folder: Path, change: tuple[str, str], told: str) -> None:
    """Each kind of mistake is told in a sentence that names the place."""
    assert any(told in problem for problem in problems(folder, GOOD.replace(*change)))


TRANSFORMED = TINY.replace("unit: V}", "unit: V, ratio: [pt]}")


def remarks_of(folder: Path, profile: str, text: str = GOOD) -> list[str]:
    (folder / "profiles/tiny.yaml").write_text(profile)
    return list(remarks(load(folder, text)))


def test_transformers_are_told(folder: Path) -> None:
    """A ratio that nobody gave, and a meter that reports the primary side by itself."""
    assert remarks_of(folder, TINY) == []
    assert remarks_of(folder, TRANSFORMED) == [
        f"meter {meter}: direct connection is assumed; behind transformers give pt (ct: 200/5)"
        for meter in ("m01", "m02")
    ]
    with_ratio = GOOD.replace("interval: 10s", "interval: 10s, pt: 10000/100").replace("unit: 0,", "unit: 0, pt: 1,")
    assert remarks_of(folder, TRANSFORMED, with_ratio) == []
    assert "applies its transformers' ratios by itself" in remarks_of(folder, TINY + "primary: true\n")[0]


@pytest.mark.parametrize(
    ("profile", "ratio", "told"),
    [
        (TINY, "ct: 40", "meters[0].ct: no point of profile tiny takes a ct ratio"),
        (TINY + "primary: true\n", "pt: 40", "meters[0].pt: tiny reports primary values by itself"),
        (TRANSFORMED, "pt: 0", "pt must be above 0"),
        (TRANSFORMED, "pt: 200/0", "got '200/0'"),
        (TRANSFORMED, "pt: 200:5", "meters[0].pt: expected a number such as 40, or two such as 200/5"),
        (TRANSFORMED, "pt: -5", "pt must be above 0"),
        (TRANSFORMED, "pt: .inf", "meters[0]"),
        (TRANSFORMED, "pt: [40]", "meters[0].pt"),
    ],
)
def test_load_mistake_in_a_ratio(folder: Path, profile: str, ratio: str, told: str) -> None:
    """Each at its place."""
    (folder / "profiles/tiny.yaml").write_text(profile)
    found = problems(folder, GOOD.replace("interval: 10s", f"interval: 10s, {ratio}"))
    assert any(told in problem for problem in found), found


def test_load_mistake_in_profile(folder: Path) -> None:
    """A mistake in a profile is told with the profile's own file and line."""
    (folder / "profiles/tiny.yaml").write_text(TINY.replace("uint16", "uint17"))
    (told,) = problems(folder, GOOD)
    assert told.startswith("profiles/tiny.yaml:6:34: points[0].type: did you mean 'uint16'? Expected one of int16, ")


def test_load_missing_file(tmp_path: Path) -> None:
    """A file that is not there is one sentence, not a traceback."""
    with pytest.raises(DocumentError, match="cannot read it: No such file"):
        load_configuration(tmp_path / "none.yaml")


def test_read_endless_anchors() -> None:
    """Anchors that multiply without end are refused before they fill the memory."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    with pytest.raises(DocumentError, match="anchors used without end"):
        Document("bomb.yaml", "\n".join(lines))


@given(st.text())
def test_read_any_text(text: str) -> None:
    """Any text is a document or a DocumentError, nothing else."""
    try:
        Document("any.yaml", text).check(GatewayConfig)
    except DocumentError as error:
        assert error.problems


@given(st.data())
def test_read_damaged_file(data: st.DataObject) -> None:
    """A good file with a piece replaced is read or refused with a place inside it."""
    start = data.draw(st.integers(0, len(GOOD)))
    end = data.draw(st.integers(start, min(len(GOOD), start + 30)))
    text = GOOD[:start] + data.draw(st.text(max_size=8)) + GOOD[end:]
    try:
        found = Document("damaged.yaml", text).check(GatewayConfig)
    except DocumentError as error:
        found = error.problems
    assert all(0 <= problem.line <= text.count("\n") + len(text) + 1 for problem in found)


def test_json_schema_names_every_key() -> None:
    """The editor's schema knows all keys and the defaults as a person would write them."""
    schema = json_schema(GatewayConfig)
    assert schema["$defs"]["BufferConfig"]["properties"]["flush"]["default"] == "5s"
    assert set(schema["$defs"]["MeterConfig"]["required"]) == {"id", "line", "unit", "profile"}
