"""`parkfleet agent replay` and `buffer`: beside a running agent, and without one."""

import asyncio
import csv
import json
import sqlite3

from typer.testing import CliRunner

from parkfleet.agent.cli import app
from parkfleet.protocols.payload.consumer import Reading
from parkfleet.simulators.broker import RunningBroker
from tests.agent.site import Site, stopped, subscribed
from tests.eventually import eventually


async def told(site: Site, *arguments: str, code: int = 0) -> str:
    """Runs a command in a thread, as a person beside the agent does."""
    command = [*arguments, "--config", str(site.folder / "gateway.yaml")]
    result = await asyncio.to_thread(CliRunner().invoke, app, command)
    assert result.exit_code == code, result.output
    return result.output


async def test_buffer_beside_a_running_agent(site: Site, broker: RunningBroker) -> None:
    """What is in the buffer is counted, listed, exported, checked and sent again while the agent works on."""
    site.configure(broker.port)
    async with subscribed(broker) as subscriber, site.agent() as agent:
        await eventually(lambda: subscriber.batches >= 4)
        stats = json.loads(await told(site, "buffer", "stats", "--json"))
        assert stats["kept_batches"] + stats["batches"] >= 3
        assert "acknowledged" in await told(site, "buffer", "show")
        assert "no problems" in await told(site, "buffer", "verify")
        before, repeated = subscriber.batches, subscriber.repeated
        answer = json.loads(await told(site, "replay", "--from", "1h", "--json"))
        assert answer["batches"] >= 3
        await eventually(lambda: subscriber.repeated >= repeated + answer["batches"])
        assert json.loads(await told(site, "buffer", "vacuum", "--json"))["after"] > 0
        await eventually(lambda: subscriber.batches > before)
        assert "0 batches" in await told(site, "replay", "--from", "1970-01-01", "--to", "1970-01-02", code=4)
        await stopped(agent, subscriber)
        assert site.verdict(subscriber).ok
        readings = [reading for batch in subscriber.taken for reading in batch.readings()]
    file = site.folder / "readings.csv"
    await told(site, "buffer", "export", "--csv", str(file))
    with file.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    assert sorted(key_of(row) for row in rows) == sorted(key(reading) for reading in readings)


def key(reading: Reading) -> tuple[str, str, str, str]:
    value = "" if reading.value is None else str(reading.value)
    return reading.meter, reading.point, value, str(reading.seq)


def key_of(row: dict[str, str]) -> tuple[str, str, str, str]:
    return row["meter"], row["point"], row["value"], row["seq"]


async def test_buffer_without_an_agent(site: Site) -> None:
    """What is wrong is a sentence and an exit code."""
    site.configure(1883)
    assert "there is no buffer" in await told(site, "buffer", "stats", code=1)
    assert "there is no buffer" in await told(site, "buffer", "vacuum", code=1)
    assert "no agent runs here" in await told(site, "replay", "--from", "2h", code=3)
    assert "--from: expected a time" in await told(site, "replay", "--from", "yesterday", code=1)
    backwards = ("--from", "1h", "--to", "2020-01-01")
    assert "--from is after --to" in await told(site, "replay", *backwards, code=1)
    (site.folder / "buffer.db").write_bytes(b"no database" * 1000)
    assert "cannot read" in await told(site, "buffer", "stats", code=1)


async def test_verify_names_a_damaged_batch(site: Site, broker: RunningBroker) -> None:
    """A batch whose bytes were changed on the disk is named."""
    site.configure(broker.port)
    async with subscribed(broker) as subscriber, site.agent() as agent:
        await eventually(lambda: subscriber.batches >= 3)
        await stopped(agent, subscriber)
    database = sqlite3.connect(site.folder / "buffer.db")
    database.execute("UPDATE bodies SET body = x'ffff' WHERE seq = 2")
    database.commit()
    database.close()
    found = json.loads(await told(site, "buffer", "verify", "--json", code=4))
    assert [problem.split(":")[0] for problem in found["problems"]] == ["batch 2"]
