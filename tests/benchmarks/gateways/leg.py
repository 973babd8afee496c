"""Leg: one gateway at work for a while, watched from outside."""

import asyncio
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from tests.benchmarks.gateways.account import Account
from tests.benchmarks.gateways.ground import VALUES, Ground, Watched, running
from tests.benchmarks.harness import OUT

#: What was answered in the window counts as delivered when it came so long behind its end at the latest. Seconds.
GRACE_S: Final = 2.0
#: Of whatever kind: a status, a schema, the first batches.
FIRST_MESSAGES: Final = 5
#: A gateway that has published nothing in so long does not work. Seconds.
START_S: Final = 90.0


class Gateway(Protocol):
    """What is measured."""

    @property
    def name(self) -> str:
        """As it stands in the table."""

    def configure(self, ground: Ground, interval_s: float) -> None:
        """Writes its configuration into the ground's folder."""

    def command(self, ground: Ground) -> list[str]:
        """How it is started."""

    def environment(self, ground: Ground) -> dict[str, str]:
        """What its environment has beside ours."""

    def company(self, ground: Ground) -> AbstractAsyncContextManager[None]:
        """What it needs beside the broker."""

    def account(self, ground: Ground) -> Account:
        """What came of it. Raises ValueError for what cannot be decoded."""


@dataclass(frozen=True)
class Leg:
    """What was seen."""

    offered: float  # readings/s that the meters have
    delivered: float  # readings/s of the window that came
    cpu_s: float  # per 1,000 of those
    core: float  # part of its core that it used
    rss_mb: float  # the most in the window, 10^6 bytes
    grown_mb: float  # from the window's begin to its end
    delays: list[float]  # ms from a meter's answer to the taker, ascending
    answered: int  # scans, from the start to the end
    came: int  # of them, each counted once
    twice: int

    @property
    def is_sustained(self) -> bool:
        """Whether everything offered came, in time."""
        return self.delivered >= 0.99 * self.offered and not self.wrong

    @property
    def wrong(self) -> int:
        """Scans that were answered and did not come, or came twice."""
        return self.answered - self.came + self.twice

    def delay(self, percent: int) -> float:
        """A percentile of the delays, ms."""
        return statistics.quantiles(self.delays, n=100)[percent - 1] if len(self.delays) > 1 else float("inf")


def folder() -> "tempfile.TemporaryDirectory[str]":
    """Where a gateway keeps its files: on the disk that build/ is on, which has to sync."""
    OUT.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(dir=OUT, ignore_cleanup_errors=True)


@dataclass(frozen=True)
class Window:
    """What was read off at its two ends, and in between."""

    since_ms: float  # unix
    until_ms: float
    cpu_s: float
    rss_mb: list[float]  # once a second

    @property
    def seconds(self) -> float:
        return (self.until_ms - self.since_ms) / 1000


async def played(gateway: Gateway, meters: int, interval_s: float, warm_s: float, window_s: float) -> Leg:
    """Runs a gateway for a while; warm_s: from its first messages to the window."""
    with folder() as name:
        async with Ground.prepared(Path(name), meters) as ground:
            gateway.configure(ground, interval_s)
            async with at_work(gateway, ground) as watched:
                await asyncio.sleep(warm_s)
                window = await watch(watched, window_s)
                await asyncio.sleep(GRACE_S)
            answered = await ground.meters.number()
            await settled(ground)
            return leg_of(gateway.account(ground), ground, meters / interval_s * VALUES, window, answered)


@asynccontextmanager
async def at_work(gateway: Gateway, ground: Ground) -> AsyncIterator[Watched]:
    """Starts a configured gateway; yields once the first messages have come. Raises TimeoutError."""
    command, environment = gateway.command(ground), gateway.environment(ground)
    async with gateway.company(ground), running(command, ground.folder, environment) as watched:
        async with asyncio.timeout(START_S):
            while await ground.taker.number() < FIRST_MESSAGES:  # noqa: ASYNC110 - another process counts
                await asyncio.sleep(0.1)
        yield watched


async def watch(watched: Watched, seconds: float) -> Window:
    """A window."""
    since_ms, cpu_s, rss = 1000 * time.time(), watched.cpu_s(), [watched.rss_mb()]
    while (left := since_ms / 1000 + seconds - time.time()) > 0:
        await asyncio.sleep(min(1.0, left))  # the samples' distance
        rss.append(watched.rss_mb())
    return Window(since_ms, 1000 * time.time(), watched.cpu_s() - cpu_s, rss)


async def settled(ground: Ground) -> None:
    """Returns once nothing more comes, and everything that came is in the taker's file."""
    before = -1
    while (now := await ground.taker.number()) != before:
        before = now
        await asyncio.sleep(0.3)  # in which something would have come


def leg_of(account: Account, ground: Ground, offered: float, window: Window, answered: int) -> Leg:
    """answered: scans, from the start to the end."""
    since, until = window.since_ms - ground.base_ms, window.until_ms - ground.base_ms
    found = account.answered_between(since, until, until + 1000 * GRACE_S)
    delivered = sum(values for _, values in found)
    return Leg(
        offered=offered,
        delivered=delivered / window.seconds,
        cpu_s=1000 * window.cpu_s / max(delivered, 1),
        core=window.cpu_s / window.seconds,
        rss_mb=max(window.rss_mb),
        grown_mb=window.rss_mb[-1] - window.rss_mb[0],
        delays=sorted(delay for delay, _ in found),
        answered=answered,
        came=account.scans,
        twice=account.twice,
    )
