"""Guarded delivery: a real agent under mutual TLS, to its controller and to its broker."""

from functools import partial
from pathlib import Path

import yaml

from parkfleet.simulators.demo.subscriber import Subscriber
from parkfleet.simulators.processes import Child
from parkfleet.simulators.proxy import LinkProxy
from tests.agent.site import Site, stopped
from tests.eventually import eventually
from tests.identity.guarded import guarded
from tests.identity.guarded_broker import GuardedBroker


def has_renewed(agent: Child, times: int) -> bool:
    """Whether the agent's log says so."""
    return agent.output().count("a further certificate") >= times


def has_delivered(subscriber: Subscriber, batches: int) -> bool:
    """Whether so many batches arrived."""
    return subscriber.batches >= batches


async def test_readings_arrive_over_renewals_of_the_certificate(site: Site, tmp_path: Path) -> None:
    """It lasts ten seconds; twice it is renewed, the link to the broker breaks, and the agent comes back with the new
    one. No reading is lost, and the agent never loaded what reads certificates as a whole."""
    async with guarded(tmp_path, "--certificate-life", "10s") as controller:
        broker = GuardedBroker(controller.data, tmp_path)
        broker.main.write_text("user root\n" + await broker.configure())
        async with broker.child() as child, LinkProxy("127.0.0.1", broker.gateways) as link:
            await eventually(lambda: "running" in child.output() or not child.running)
            path = site.configure(link.port)
            document = yaml.safe_load(path.read_text())
            pair = "identity/gateway.pem"
            tls = {"url": f"mqtts://127.0.0.1:{link.port}", "ca": "identity/ca.pem", "cert": pair, "key": pair}
            document["broker"] = {**document["broker"], **tls}
            path.write_text(yaml.safe_dump(document))
            code, _, err = await controller.enrol(await controller.token("demo"), path)
            assert code == 0, err
            async with Subscriber.opened(broker.as_consumer(), "demo") as subscriber, site.agent() as agent:
                for renewals in (1, 2):
                    await eventually(partial(has_renewed, agent, renewals), 60)
                    await link.cut()
                    link.mend()
                    await eventually(partial(has_delivered, subscriber, subscriber.batches + 2))
                maps = Path(f"/proc/{agent.pid}/maps").read_text()
                await stopped(agent, subscriber)
            assert site.verdict(subscriber).ok, site.verdict(subscriber)
            assert "cryptography" not in maps and "grpc" in maps
