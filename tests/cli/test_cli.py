"""The command `parkfleet` as a user types it: help that teaches, lazy groups, exit codes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from parkfleet import __version__
from parkfleet.cli import GROUPS
from parkfleet.protocols.profile import Profile

ROOT = Path(__file__).resolve().parents[2]


def parkfleet(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "parkfleet", *arguments], capture_output=True, text=True, check=False, timeout=60
    )


def commands(group: str) -> list[str]:
    """The verbs of a group, as its help lists them."""
    shown = parkfleet(group, "--help").stdout
    if "─ Commands ─" not in shown:
        return []
    rows = [line[1:].split() for line in shown.split("─ Commands ─")[1].splitlines() if line.startswith("│ ")]
    return [row[0] for row in rows if row and not line_continues(row[0], shown)]


def line_continues(word: str, shown: str) -> bool:
    """Whether the row's first word belongs to the sentence of the row above (it is indented there)."""
    return f"\n│ {word}" not in shown


def test_version() -> None:
    """`--version` says which."""
    assert parkfleet("--version").stdout == f"parkfleet {__version__}\n"


def test_typo_is_answered_with_the_word_meant() -> None:
    """A mistyped group names the right one."""
    done = parkfleet("agnet")
    assert done.returncode == 2
    assert "Did you mean 'agent'?" in done.stderr


@pytest.mark.parametrize("group", GROUPS)
def test_help_teaches_with_an_example(group: str) -> None:
    """Each command's help has an example that begins with `parkfleet`."""
    for path in [[group, verb] for verb in commands(group)] or [[group]]:
        done = parkfleet(*path, "--help")
        assert done.returncode == 0, done.stderr
        assert f"parkfleet {' '.join(path)}" in done.stdout.replace("python -m ", "")
        assert "Example" in done.stdout, path


@pytest.mark.parametrize(
    ("arguments", "absent"),
    [
        (["agent", "--help"], ["parkfleet.controller", "grpc", "parkfleet.simulators", "pymodbus", "paho"]),
        (["--help"], ["parkfleet.agent", "parkfleet.controller", "parkfleet.simulators", "grpc"]),
        (["fleet", "--help"], ["parkfleet.agent", "parkfleet.simulators", "pymodbus"]),
        (["tail", "--help"], ["parkfleet.agent", "parkfleet.controller", "grpc", "pymodbus"]),
    ],
)
def test_groups_are_imported_when_called(arguments: list[str], absent: list[str]) -> None:
    """A group's help imports nothing of the others."""
    program = (
        "import sys; sys.argv = ['parkfleet', *sys.argv[1:]]\n"
        "from parkfleet.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print('\\n'.join(sys.modules), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True, timeout=60
    )
    modules = done.stderr.splitlines()
    assert [name for name in absent if any(m == name or m.startswith(f"{name}.") for m in modules)] == []


@pytest.fixture
def two_meters(tmp_path: Path) -> Path:
    """A line at 9600 baud with a meter at 1 s and one at 250 ms, of two registers each: 35 ms a scan."""
    (tmp_path / "two.yaml").write_text(
        "profile: two\ntitle: {en: Two}\nmedium: power\nsource: this test\n"
        "points: [{id: a, type: uint32, address: 0}]\n"
    )
    path = tmp_path / "gateway.yaml"
    path.write_text(
        "park: p\ngateway: g\nbroker: {url: mqtt://127.0.0.1:1883}\nprofiles: [.]\n"
        "lines: [{id: bus1, url: 'serial:///dev/nothing-here?baud=9600'}]\n"
        "meters:\n"
        "  - {id: m1, line: bus1, unit: 1, profile: two, interval: 1s}\n"
        "  - {id: m2, line: bus1, unit: 2, profile: two, interval: 250ms}\n"
    )
    return path


def test_agent_plan_before_anything_is_wired(two_meters: Path) -> None:
    """Load in percent of the wire, and the shortest cycle: 24 characters at 9600 baud and 10 ms for each of the two."""
    done = parkfleet("agent", "plan", str(two_meters))
    assert done.returncode == 0, done.stderr
    first, *meters = done.stdout.splitlines()
    assert first == "line bus1: load 17.5%, shortest cycle 0.070 s"
    assert [" ".join(line.split()) for line in meters] == [
        "m1 every 1 s 1 requests, 2 registers 35.0 ms 3.50%",
        "m2 every 0.25 s 1 requests, 2 registers 35.0 ms 14.00%",
    ]


def test_agent_plan_tells_what_would_be_late(two_meters: Path) -> None:
    """By name and share of slots, with exit code 3; the same as JSON."""
    two_meters.write_text(two_meters.read_text().replace("baud=9600", "baud=300"))
    done = parkfleet("agent", "plan", str(two_meters))
    assert done.returncode == 3
    assert "m2" in [line.split()[0] for line in done.stdout.splitlines() if "LATE" in line]
    (line,) = json.loads(parkfleet("agent", "plan", str(two_meters), "--json").stdout)
    assert line["load"] > 1
    assert {meter["id"]: meter["late"] > 0 for meter in line["meters"]}["m2"]


def test_agent_check_good_file(tmp_path: Path) -> None:
    """A good file is said to be good, with each line's load; as JSON for scripts."""
    path = tmp_path / "gateway.yaml"
    path.write_text(
        "park: p\ngateway: g\nbroker: {url: mqtt://127.0.0.1:1883}\n"
        "lines: [{id: bus1, url: 'serial:///dev/ttyUSB0'}]\n"
        "meters: [{id: m1, line: bus1, unit: 1, profile: eastron-sdm630}]\n"
    )
    done = parkfleet("agent", "check", str(path))
    assert done.returncode == 0, done.stderr
    assert "good. Park p, gateway g, 1 meters" in done.stdout
    told = json.loads(parkfleet("agent", "check", str(path), "--json").stdout)
    assert told["ok"] is True
    assert 0 < told["line_load"]["bus1"] < 1


def test_agent_check_mistakes(tmp_path: Path) -> None:
    """Mistakes go to stderr with their places and exit code 1; --json has them as data."""
    path = tmp_path / "gateway.yaml"
    path.write_text("park: p\ngateway: g\nbroker: {url: mqtt://127.0.0.1}\nlines: []\nmeters: [{id: m1}]\n")
    done = parkfleet("agent", "check", str(path))
    assert done.returncode == 1
    assert f"{path}:5:10: meters[0]: unit is missing" in done.stderr
    told = json.loads(parkfleet("agent", "check", str(path), "--json").stdout)
    assert told["ok"] is False
    assert {"file", "line", "column", "where", "message"} == set(told["problems"][0])


def test_agent_profiles_search() -> None:
    """The library can be searched by medium and read by a script."""
    found = json.loads(parkfleet("agent", "profiles", "heat", "--json").stdout)
    assert found
    assert all("heat" in json.dumps(profile).lower() for profile in found)
    assert parkfleet("agent", "profiles", "no-such-meter").returncode == 1


def test_agent_profiles_search_by_words_and_medium(tmp_path: Path) -> None:
    """Maker and point together; a medium alone; one's own folder, with what is wrong in it."""
    found = json.loads(parkfleet("agent", "profiles", "Schneider", "current_n", "--json").stdout)
    assert {profile["profile"] for profile in found} == {"schneider-pm5110", "schneider-pm710"}
    gas = json.loads(parkfleet("agent", "profiles", "--medium", "gas", "--json").stdout)
    assert len(gas) >= 4
    assert {profile["medium"] for profile in gas} == {"gas"}
    assert "expected power, water, heat, gas" in parkfleet("agent", "profiles", "--medium", "steam").stderr
    (tmp_path / "broken.yaml").write_text("profile: broken\n")
    done = parkfleet("agent", "profiles", "abb", "--folder", str(tmp_path))
    assert done.returncode == 1
    assert "abb-b23" in done.stdout
    assert "broken.yaml" in done.stderr


def test_agent_schema_of_a_profile() -> None:
    """The JSON Schema of both documents is printed."""
    schema = json.loads(parkfleet("agent", "schema", "profile").stdout)
    assert set(Profile.__struct_fields__) == set(schema["$defs"]["Profile"]["properties"])
    assert parkfleet("agent", "schema", "weather").returncode == 2


def test_tail_without_a_broker() -> None:
    """tail says which broker it cannot reach, and exits 1."""
    done = parkfleet("tail", "--broker", "mqtt://127.0.0.1:9")
    assert done.returncode == 1
    assert "cannot reach the broker mqtt://127.0.0.1:9" in done.stderr
