"""`parkfleet sim fleet`: many gateways on a real controller, each with a certificate of its own."""

import signal
from pathlib import Path

import msgspec

from parkfleet.simulators.fleet.crowd import CrowdReport, CrowdState, names
from parkfleet.simulators.processes import Child
from tests.eventually import eventually
from tests.identity.guarded import PARKFLEET, command, guarded


async def test_sim_fleet_connects_and_reports(tmp_path: Path) -> None:
    """Every gateway has its session, is listed, and stands in the report when the crowd is ended."""
    report = tmp_path / "report.json"
    async with guarded(tmp_path) as controller:
        options = ["--gateways", "20", "--data", str(controller.data), "--controller", controller.sessions, "--json"]
        run = [*PARKFLEET, "sim", "fleet", *options, "--parks", "4", "--report", str(report)]
        async with Child("fleet", run, tmp_path / "fleet.log") as fleet:
            await eventually(lambda: '"connected":20' in fleet.output())
            fleet.send_signal(signal.SIGINT)
            assert await fleet.wait() == 0
    words = [line for line in fleet.output().splitlines() if line.startswith("{")]
    state = msgspec.json.decode(words[-1], type=CrowdState)
    assert (state.gateways, state.sessions, state.told) == (20, 20, {})
    assert len(msgspec.json.decode(report.read_bytes(), type=CrowdReport).connected) == 20
    assert "p04/gw-00019" in controller.child.output()


async def test_sim_fleet_without_the_controllers_folder(tmp_path: Path) -> None:
    """A folder that holds no authority of ours is told; it is not made into one."""
    (tmp_path / "authority.pem").write_text("nothing")
    code, _, err = await command("sim", "fleet", "--gateways", "1", "--data", str(tmp_path))
    assert code == 1
    assert "authority" in err


def test_names_are_dealt_over_parks() -> None:
    """A second process goes on where the first ends."""
    assert list(names(3, 2)) == [("p01", "gw-00000"), ("p02", "gw-00001"), ("p01", "gw-00002")]
    assert list(names(1, 2, 3)) == [("p02", "gw-00003")]
