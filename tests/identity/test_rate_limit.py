"""Rate limit: bursts, rates, and who counts as one."""

import pytest

from parkfleet.controller.rate_limit import MAX_PEERS, Rate, RateLimit, network_of
from parkfleet.controller.refusal_log import RefusalLog


class Clock:
    """Seconds."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_take_lets_a_burst_through_and_then_the_rate() -> None:
    """Each peer has its own; who waits as told gets in."""
    clock = Clock()
    limit = RateLimit(Rate(3, 0.5), Rate(100, 10.0), clock)
    assert [limit.take("a") for _ in range(4)] == [0.0, 0.0, 0.0, 2.0]
    assert limit.take("b") == 0.0
    clock.now = 1.9
    assert limit.take("a") == pytest.approx(0.1)
    clock.now = 2.1
    assert limit.take("a") == 0.0
    assert limit.take("a") > 0
    clock.now = 1e6
    assert [limit.take("a") == 0 for _ in range(4)] == [True, True, True, False]


def test_take_holds_all_together_to_a_rate() -> None:
    """However many peers there are; who is refused takes nothing from anybody."""
    clock = Clock()
    limit = RateLimit(Rate(10, 1.0), Rate(5, 1.0), clock)
    assert sum(limit.take(f"peer {number}") == 0 for number in range(50)) == 5
    clock.now = 1.0
    assert limit.take("peer 7") == 0.0
    assert limit.take("peer 8") > 0


def test_take_remembers_a_bounded_number_of_peers() -> None:
    """A flood of addresses costs a bounded memory."""
    limit = RateLimit(Rate(1, 0.001), Rate(10**9, 1e9), Clock())
    for number in range(MAX_PEERS + 100):
        limit.take(str(number))
    assert len(limit) == MAX_PEERS


@pytest.mark.parametrize(
    ("peer", "network"),
    [
        ("ipv4:10.0.0.5:40000", "10.0.0.5"),
        ("ipv6:%5B::1%5D:40000", "::/64"),
        ("ipv6:[2001:db8:1:2:3::4]:40000", "2001:db8:1:2::/64"),
        ("ipv6:%5Bfe80::1%25eth0%5D:1", "fe80::/64"),
        ("ipv6:[::ffff:10.0.0.5]:40000", "10.0.0.5"),
        ("unix:/run/x", "unix"),
        ("", ""),
        ("nonsense", "nonsense"),
    ],
)
def test_network_of(peer: str, network: str) -> None:
    """An IPv6 box has as many addresses as it likes."""
    assert network_of(peer) == network


def test_refusals_fill_no_log(caplog: pytest.LogCaptureFixture) -> None:
    """A flood from one address, and one from many, have few lines; what was left out is counted."""
    refusals = RefusalLog()
    for number in range(1000):
        refusals.tell("a session", f"ipv4:10.0.0.1:{number}", "stolen")
    for number in range(1000):
        refusals.tell("a session", f"ipv4:10.1.{number // 250}.{number % 250}:1", "stolen")
    assert 20 < len(caplog.messages) < 70
    assert "a session from ipv4:10.1.0.0:1 is refused: stolen (990 more were refused, unlogged)" in caplog.messages
