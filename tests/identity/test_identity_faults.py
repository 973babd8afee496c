"""Faults of identity, with real processes: wrong clocks, wrong authorities, certificates that ended or are revoked,
replayed tokens, garbage. Nobody gets in who may not; who may comes back by himself."""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
import yaml
from grpc import aio

from parkfleet.agent.identity import IdentityFolder
from parkfleet.proto import limits
from parkfleet.simulators.broker import free_port
from parkfleet.simulators.processes import Child
from tests.controller.raw_agent import METHOD, hello
from tests.eventually import eventually
from tests.identity.guarded import PARKFLEET, Guarded, command, guarded

YEAR = 365 * 86400


class Gateway:
    """A box with a gateway.yaml, whose clock can be set."""

    def __init__(self, folder: Path, name: str = "gw-01") -> None:
        folder.mkdir()
        self.config = folder / "gateway.yaml"
        self.log = folder / "agent.log"
        self.clock = folder / "clock"
        self.identity = IdentityFolder(folder / "identity")
        document = {
            "park": "p1",
            "gateway": name,
            "broker": {"url": "mqtt://127.0.0.1:9"},
            "lines": [{"id": "hall", "url": "tcp://127.0.0.1:9"}],
            "meters": [{"id": "m1", "line": "hall", "unit": 1, "profile": "eastron-sdm630"}],
        }
        self.config.write_text(yaml.safe_dump(document))
        self.set_clock(0)

    def set_clock(self, seconds: int) -> None:
        """So far ahead of the right time, from now on; negative: behind."""
        self.clock.write_text(f"{seconds:+d}s\n")

    @asynccontextmanager
    async def agent(self) -> AsyncIterator[Child]:
        """Its agent, which sees the box's clock."""
        library = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
        assert library is not None, "apt install faketime"
        faked = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self.clock),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        words = [f"{key}={value}" for key, value in faked.items()]
        command = ["env", *words, *PARKFLEET, "agent", "run", "--config", str(self.config)]
        async with Child("agent", command, self.log) as child:
            yield child

    def said(self) -> str:
        """Its log."""
        return self.log.read_text() if self.log.exists() else ""


async def enrolled(controller: Guarded, folder: Path, name: str = "gw-01") -> Gateway:
    """A box that has enrolled as people do it."""
    gateway = Gateway(folder, name)
    code, _, err = await controller.enrol(await controller.token(), gateway.config)
    assert code == 0, err
    return gateway


async def is_online(controller: Guarded, name: str = "gw-01") -> bool:
    """Whether the controller's list says so."""
    listed = json.loads(await controller.fleet("list", "--json"))
    return any(one["gateway"] == name and one["state"] == "online" for one in listed)


async def comes_online(controller: Guarded, name: str = "gw-01") -> None:
    """Waits for it."""
    async with asyncio.timeout(60):
        while not await is_online(controller, name):
            pass  # the command takes its time


@pytest.mark.parametrize("off_s", [YEAR, -YEAR], ids=["ahead", "behind"])
async def test_clock_a_year_off_is_told_with_the_dates_and_heals(tmp_path: Path, off_s: int) -> None:
    """The agent names its clock and the controller's dates; when the time is right the session comes by itself."""
    async with guarded(tmp_path) as controller:
        gateway = await enrolled(controller, tmp_path / "box")
        gateway.set_clock(off_s)
        async with gateway.agent():
            await eventually(lambda: "by this box's clock it is" in gateway.said())
            line = next(line for line in gateway.said().splitlines() if "by this box's clock" in line)
            assert "but the controller's certificate holds from 20" in line
            assert "one of the two clocks is wrong, most likely this one. Set it (timedatectl, NTP)" in line
            assert not await is_online(controller)
            gateway.set_clock(0)
            await comes_online(controller)
    assert "Traceback" not in gateway.said()


async def test_enrolling_with_a_clock_a_year_off_is_told(tmp_path: Path) -> None:
    """Before the token is said; exit code 1, for it may be tried again."""
    async with guarded(tmp_path) as controller:
        gateway = Gateway(tmp_path / "box")
        gateway.set_clock(-YEAR)
        library = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *(*PARKFLEET, "agent", "enroll", "-", "--config", str(gateway.config)),
            env={**os.environ, "LD_PRELOAD": str(library), "FAKETIME_TIMESTAMP_FILE": str(gateway.clock)},
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
        )
        _, err = await process.communicate((await controller.token()).encode())
        assert process.returncode == 1
        assert "by this box's clock it is" in err.decode() and "timedatectl" in err.decode()
        assert '"used": 0' in await controller.fleet("token", "list", "--json")


def ports() -> Iterator[str]:
    """Options for three ports that stay the same over restarts."""
    yield f"127.0.0.1:{free_port()}"
    yield from ("--enrolment", f"127.0.0.1:{free_port()}", "--operators", f"127.0.0.1:{free_port()}")


async def test_another_authority_at_the_address_is_not_trusted(tmp_path: Path) -> None:
    """A controller that lost its folder, or an impostor: the agent says whose it is and stays away, until the right one
    is back."""
    listen, *options = ports()
    (tmp_path / "impostor").mkdir()
    async with guarded(tmp_path, *options, listen=listen) as controller:
        gateway = await enrolled(controller, tmp_path / "box")
    async with gateway.agent():
        async with guarded(tmp_path / "impostor", *options, listen=listen) as impostor:
            await eventually(lambda: "is of another authority than the one this box trusts" in gateway.said())
            assert not await is_online(impostor)
        async with guarded(tmp_path, *options, listen=listen) as controller:
            await comes_online(controller)


async def test_box_that_was_off_past_its_certificates_end_comes_back(tmp_path: Path) -> None:
    """By proof of its key, in a child of the agent; a revoked one is told so, on both sides, and stays out."""
    listen, *options = ports()
    async with guarded(tmp_path, "--certificate-life", "10s", *options, listen=listen) as controller:
        good = await enrolled(controller, tmp_path / "good", "gw-01")
        bad = await enrolled(controller, tmp_path / "bad", "gw-02")
        await controller.fleet("gateway", "revoke", "p1/gw-02", "--reason", "stolen from hall 3")
        ends = [found.validity.end for box in (good, bad) if (found := box.identity.credentials()) is not None]
        await eventually(lambda: time.time() > max(ends) + 1)
        async with good.agent(), bad.agent():
            await comes_online(controller)
            await eventually(lambda: "a new certificate was given, by proof of the key" in good.said())
            await eventually(lambda: "gateway p1/gw-02 was revoked on" in bad.said())
            assert "stolen from hall 3" in bad.said()
            log = controller.child.output()
            assert "Enrolment/Reclaim from" in log and "p1/gw-02 was revoked on" in log
            assert not await is_online(controller, "gw-02")


async def test_replayed_token_is_refused(tmp_path: Path) -> None:
    """Used up, revoked, damaged: exit codes and sentences; and the box that used it has all it needs."""
    async with guarded(tmp_path) as controller:
        token = await controller.token()
        first, second = Gateway(tmp_path / "first"), Gateway(tmp_path / "second", "gw-02")
        assert (await controller.enrol(token, first.config))[0] == 0
        code, _, err = await controller.enrol(token, second.config)
        assert (code, "has been used 1 of 1 times" in err) == (3, True), err
        code, _, err = await controller.enrol(token[:-1] + ("a" if token[-1] != "a" else "b"), second.config)
        assert (code, "the token is damaged" in err) == (2, True), err
        code, _, err = await controller.enrol(token, first.config)
        assert (code, "is enrolled already, as p1/gw-01" in err) == (2, True), err
        assert "was revoked" not in controller.child.output()
        async with first.agent():
            await comes_online(controller)
        secret = token.removeprefix("pfj1_")
        assert secret not in controller.child.output() + first.said()
        audit = await controller.fleet("audit", "list", "--json")
        assert "gateway p1/gw-01" in audit and "has been used 1 of 1 times" in audit and secret not in audit
        modes = {path.name: path.stat().st_mode & 0o777 for path in first.identity.folder.iterdir()}
        assert modes == {"gateway.pem": 0o600, "ca.pem": 0o644, "enrolled.json": 0o644}


async def test_garbage_at_every_port_harms_nobody(tmp_path: Path) -> None:
    """Bytes of all kinds, connections that say nothing, messages that are too large or none: the gateway that is
    online stays so, and operators are answered."""
    async with guarded(tmp_path) as controller:
        gateway = await enrolled(controller, tmp_path / "box")
        other = await enrolled(controller, tmp_path / "hostile", "gw-02")
        async with gateway.agent():
            await comes_online(controller)
            writers = []
            for address in (controller.sessions, controller.enrolment, controller.operators):
                host, port = address.split(":")
                for junk in (
                    b"",
                    b"GET / HTTP/1.1\r\n\r\n",
                    b"\x16\x03\x01\x02\x00\x01" + b"\xff" * 600,
                    bytes(100_000),
                ):
                    for _ in range(20):
                        _, writer = await asyncio.open_connection(host, int(port))
                        writer.write(junk)
                        writers.append(writer)
            own = other.identity.credentials()
            assert own is not None
            tls = grpc.ssl_channel_credentials(own.ca, own.key, own.chain)
            options = (("grpc.use_local_subchannel_pool", 1),)
            ends = set()
            for message in (b"\xff" * 1000, bytes(limits.MAX_MESSAGE_BYTES + 1), hello("gw-01").SerializeToString()):
                async with aio.secure_channel(controller.sessions, tls, options=options) as hostile:
                    stream: aio.StreamStreamCall[bytes, bytes] = hostile.stream_stream(METHOD)()
                    await stream.write(message)
                    ends.add(await stream.code())
            assert ends == {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED}
            assert await is_online(controller)
            for writer in writers:
                writer.close()
        assert gateway.said().count("connected to the controller") == 1
        log = controller.child.output()
        assert "Traceback" not in log and len(log) < 20_000


async def test_certificate_command_line(tmp_path: Path) -> None:
    """`agent identity` and `agent renew`, as an installer uses them; exit codes."""
    listen, *options = ports()
    async with guarded(tmp_path, *options, listen=listen) as controller:
        gateway = await enrolled(controller, tmp_path / "box")
        config = ("--config", str(gateway.config))

        async def agent(*arguments: str) -> tuple[int, str, str]:
            return await command("agent", *arguments, *config)

        code, out, _ = await agent("identity", "--json")
        facts = json.loads(out)
        assert (code, facts["park"], facts["gateway"], facts["controller"]) == (0, "p1", "gw-01", controller.sessions)
        before = gateway.identity.credentials()
        assert before is not None and before.validity.end * 1000 == facts["certificate_ends"]
        code, out, _ = await agent("renew", "--new-key")
        after = gateway.identity.credentials()
        assert (code, after is not None and after.key != before.key) == (0, True)
        assert (await agent("renew"))[0] == 0
        await controller.fleet("gateway", "revoke", "p1/gw-01", "-m", "stolen")
        code, _, err = await agent("renew")
        assert (code, "by" in err and "stolen" in err) == (3, True), err
    code, _, err = await agent("renew")
    assert (code, "no controller answers at" in err) == (1, True), err
    (gateway.identity.folder / "gateway.pem").write_bytes(b"nonsense")
    code, _, err = await agent("identity")
    assert (code, "is damaged" in err and "enrol anew" in err) == (3, True), err
