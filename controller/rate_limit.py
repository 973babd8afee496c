"""Rate limit: how often one address may ask, and all together, where whoever asks has proven nothing yet."""

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, NamedTuple
from urllib.parse import unquote

#: Addresses that are remembered: the longest quiet one is forgotten first. Entries of some 200 bytes.
MAX_PEERS: Final = 10_000


class Rate(NamedTuple):
    """So many at once, then so many a second."""

    burst: int
    per_s: float


class Bucket:
    """What is left of a rate."""

    def __init__(self, rate: Rate, now: float) -> None:
        self._rate = rate
        self._left = float(rate.burst)
        self._at = now

    def wait(self, now: float) -> float:
        """How long until one may be taken, in seconds; 0: now."""
        self._left = min(self._rate.burst, self._left + (now - self._at) * self._rate.per_s)
        self._at = now
        return max(0.0, (1 - self._left) / self._rate.per_s)

    def take(self) -> None:
        """Takes one."""
        self._left -= 1


class RateLimit:
    """One rate for each peer, and one for all."""

    def __init__(self, peer: Rate, total: Rate, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = peer
        self._clock = clock
        self._total = Bucket(total, clock())
        self._peers: OrderedDict[str, Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._peers)

    def take(self, peer: str) -> float:
        """Takes one for a peer; how long it has to wait instead, in seconds, 0 when it need not."""
        now = self._clock()
        bucket = self._peers.setdefault(peer, Bucket(self._rate, now))
        self._peers.move_to_end(peer)
        if len(self._peers) > MAX_PEERS:
            self._peers.popitem(last=False)
        wait = max(bucket.wait(now), self._total.wait(now))
        if wait == 0:
            bucket.take()
            self._total.take()
        return wait


def network_of(peer: str) -> str:
    """Who counts as one of gRPC's peers (ipv4:10.0.0.5:40000): an IPv4 address, or the /64 of an IPv6 address."""
    family, _, rest = unquote(peer).partition(":")
    host = rest.rpartition(":")[0].strip("[]").partition("%")[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return family
    if isinstance(address, ipaddress.IPv6Address):
        mapped = address.ipv4_mapped
        return str(mapped or ipaddress.ip_network((address, 64), strict=False))
    return str(address)
