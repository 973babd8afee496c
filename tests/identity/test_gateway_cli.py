"""`parkfleet fleet token` and `parkfleet fleet gateway`, as park IT uses them, with boxes that enrol meanwhile."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.identity.guarded import PARKFLEET, Guarded, command, guarded


async def listed(controller: Guarded, *arguments: str) -> Any:
    """What a command prints as JSON."""
    return json.loads(await controller.fleet(*arguments, "--json"))


async def refused(controller: Guarded, *arguments: str) -> str:
    """Why the controller does not do it; exit code 3."""
    code, _, err = await command("fleet", *arguments, env=controller.env)
    assert code == 3, err
    return err


async def test_token_from_its_making_to_its_end(tmp_path: Path) -> None:
    """Its text is shown once; the list knows its state; a token of another park is not found."""
    async with guarded(tmp_path) as controller:
        made = json.loads(await controller.fleet("token", "create", "--park", "p1", "--uses", "3", "-m", "x", "--json"))
        assert made["text"].startswith("pfj1_") and (made["uses"], made["state"]) == (3, "active")
        code, _, _ = await controller.enrol(made["text"], tmp_path / "box" / "gateway.yaml", "--gateway", "gw-01")
        assert code == 0
        (token,) = await listed(controller, "token", "list")
        assert (token["id"], token["used"], token["author"]) == (made["id"], 1, "admin")
        assert made["text"] not in json.dumps(token)
        assert "there is no token" in await refused(controller, "token", "revoke", token["id"], "--park", "p2")
        assert "revoked: used 1 of 3" in await controller.fleet("token", "revoke", token["id"])
        code, _, err = await controller.enrol(made["text"], tmp_path / "b2" / "gateway.yaml", "--gateway", "gw-02")
        assert (code, "was revoked" in err) == (3, True)
        assert await listed(controller, "token", "list", "--park", "p2") == []


async def test_box_is_approved_and_another_denied(tmp_path: Path) -> None:
    """The operator sees what waits, the installers hear yes and no."""
    async with guarded(tmp_path) as controller:
        token = await controller.token("p1", "--approve", "--uses", "2")
        boxes = []
        for name in ("gw-01", "gw-02"):
            options = ("--config", str(tmp_path / name / "gateway.yaml"), "--gateway", name)
            pipe = asyncio.subprocess.PIPE
            arguments = (*PARKFLEET, "agent", "enroll", token, *options)
            boxes.append(await asyncio.create_subprocess_exec(*arguments, stdout=pipe, stderr=pipe))
        while len(waiting := await listed(controller, "gateway", "pending")) < 2:
            pass  # the command takes its time
        numbers = {one["gateway"]: str(one["number"]) for one in waiting}
        text = await controller.fleet("gateway", "pending")
        assert "p1/gw-01  key " in text and waiting[0]["key_hash"][:16] in text
        assert "p1/gw-01 is enrolled" in await controller.fleet("gateway", "approve", numbers["gw-01"])
        await controller.fleet("gateway", "deny", numbers["gw-02"], "--reason", "not ours")
        assert "is denied already" in await refused(controller, "gateway", "approve", numbers["gw-02"])
        assert "there is no request 99" in await refused(controller, "gateway", "deny", "99")
        ends = [(await box.communicate(), box.returncode) for box in boxes]
        assert [code for _, code in ends] == [0, 3]
        assert "waiting for an operator to approve p1/gw-01" in ends[0][0][1].decode()
        assert "denied p1/gw-02 its enrolment: not ours" in ends[1][0][1].decode()


async def test_box_is_replaced(tmp_path: Path) -> None:
    """One word opens the name, the new box takes it, and the history has both."""
    async with guarded(tmp_path) as controller:
        old, new = tmp_path / "old" / "gateway.yaml", tmp_path / "new" / "gateway.yaml"
        assert (await controller.enrol(await controller.token(), old, "--gateway", "gw-01"))[0] == 0
        token = await controller.token()
        code, _, err = await controller.enrol(token, new, "--gateway", "gw-01")
        assert (code, "parkfleet fleet gateway replace p1/gw-01" in err) == (3, True)
        assert "open for another box until" in await controller.fleet("gateway", "replace", "p1/gw-01", "-m", "broken")
        assert (await controller.enrol(token, new, "--gateway", "gw-01"))[0] == 0
        code, _, err = await command("agent", "renew", "--config", str(old))
        assert (code, "another box has taken its place" in err) == (3, True), err
        facts = await listed(controller, "gateway", "show", "p1/gw-01")
        assert [one["cause"] for one in facts["certificates"]] == ["enrolled", "enrolled"]
        assert [one["revoked"] is None for one in facts["certificates"]] == [True, False]
        (one,) = await listed(controller, "gateway", "list", "--park", "p1")
        assert (one["gateway"], one["revoked"], one["replace_until"]) == ("gw-01", None, None)
        assert "revoked" in await controller.fleet("gateway", "show", "p1/gw-01")
        assert "a reason" in await refused(controller, "gateway", "revoke", "p1/gw-01")
        assert "no gateway p1/gw-09 is enrolled" in await refused(controller, "gateway", "show", "p1/gw-09")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("fleet", "token", "create", "--park", "p1", "--uses", "0"), "at least one use"),
        (("fleet", "token", "create", "--park", "p1", "--ttl", "soon"), "expected a duration"),
        (("fleet", "gateway", "revoke", "gw-01"), "expected PARK/NAME"),
        (("agent", "enroll", "nonsense"), "begins with pfj1_"),
        (("agent", "renew", "--enrolment", "nowhere"), "expected HOST:PORT"),
        (("controller", "broker-config", "nats", "--data", "."), "expected mosquitto"),
        (("controller", "broker-config", "mosquitto", "--data", ".", "--consumer", "p1/gw-01"), "a consumer's name"),
        (("controller", "broker-config", "mosquitto", "--data", ".", "--name", "a b"), "expected a name such as"),
    ],
)
async def test_wrong_usage_is_told(arguments: tuple[str, ...], told: str) -> None:
    """Exit code 2, before anybody is asked."""
    code, _, err = await command(*arguments)
    assert (code, told in err) == (2, True), err


@pytest.mark.parametrize(
    "arguments",
    [
        *(("fleet", "token", verb) for verb in ("create", "list", "revoke")),
        *(("fleet", "gateway", verb) for verb in ("list", "show", "pending", "approve", "deny", "revoke", "replace")),
        *(("agent", verb) for verb in ("enroll", "renew", "identity")),
        ("controller", "broker-config"),
    ],
    ids=" ".join,
)
async def test_help_teaches(arguments: tuple[str, ...]) -> None:
    """An example and the exit codes."""
    _, out, _ = await command(*arguments, "--help")
    assert f"parkfleet {' '.join(arguments)}" in out
    assert "Exit codes: 0" in out
