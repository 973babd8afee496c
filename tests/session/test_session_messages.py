"""Session messages: whatever the agent's parts say, a controller accepts it."""

from hypothesis import given, settings
from hypothesis import strategies as st

from parkfleet.agent.session_messages import goodbye_message, heartbeat_message, hello_message, status_message
from parkfleet.agent.status import (
    AgentFacts,
    AgentSnapshot,
    BrokerLink,
    BufferDepth,
    ConfigurationName,
    DeliveredCount,
    LineReport,
    ReportedState,
    boot_id,
    resident_bytes,
)
from parkfleet.controller.checks import check_heartbeat, check_hello, check_status
from parkfleet.proto import limits

#: Any text a Python program can hold, also that of an error about bytes that are no UTF-8.
TEXTS = st.text(st.characters(), max_size=300)
COUNTS = st.integers(0, 2**63)
LINES = st.builds(
    LineReport,
    TEXTS,
    st.floats(-1, 2),
    COUNTS,
    st.dictionaries(TEXTS, COUNTS, max_size=40),
    st.booleans(),
    TEXTS,
    COUNTS,
    st.dictionaries(TEXTS, COUNTS, max_size=40),
)
SNAPSHOTS = st.builds(
    AgentSnapshot,
    st.floats(0, 1e9),
    st.builds(BufferDepth, COUNTS, COUNTS, COUNTS, st.none() | COUNTS, COUNTS, COUNTS),
    st.builds(DeliveredCount, COUNTS, COUNTS, COUNTS),
    st.builds(BrokerLink, st.booleans(), TEXTS),
    st.lists(LINES, max_size=4),
    st.integers(0, 20_000),
    st.integers(0, 20_000),
    COUNTS,
)
NAMES = st.builds(ConfigurationName, COUNTS, TEXTS)


@given(SNAPSHOTS)
@settings(max_examples=100, deadline=None)
def test_any_snapshot_makes_an_accepted_heartbeat(snapshot: AgentSnapshot) -> None:
    """Its counts arrive as they are."""
    heartbeat = heartbeat_message(snapshot, 3, 4).heartbeat
    check_heartbeat(heartbeat)
    assert heartbeat.buffer.batches == snapshot.buffer.batches
    assert heartbeat.buffer.HasField("oldest_ts") == (snapshot.buffer.oldest_ts is not None)
    assert [line.requests for line in heartbeat.lines] == [line.requests for line in snapshot.lines]
    assert [line.missed for line in heartbeat.lines] == [line.missed for line in snapshot.lines]
    for sent, line in zip(heartbeat.lines, snapshot.lines, strict=True):
        assert max(sent.late.values(), default=0) == max(line.late.values(), default=0)


@given(TEXTS, TEXTS, TEXTS)
@settings(deadline=None)
def test_any_facts_make_an_accepted_hello(version: str, boot: str, configuration: str) -> None:
    """The names are those of the configuration, which has checked them."""
    check_hello(hello_message(AgentFacts("p1", "gw-01", version, boot, configuration, 1, 2)).hello)


@given(st.builds(ReportedState, TEXTS, NAMES, st.none() | NAMES, st.none() | NAMES, TEXTS))
@settings(deadline=None)
def test_any_state_makes_an_accepted_status(state: ReportedState) -> None:
    """What is absent stays absent."""
    status = status_message(state).status
    check_status(status)
    assert status.HasField("last_received") == (state.last_received is not None)
    assert status.HasField("last_failed") == (state.last_failed is not None)


def test_heartbeat_of_a_thousand_talkative_lines() -> None:
    """It keeps its numbers and loses its words."""
    errors = {f"cause {number} " + "好" * 90: 1 for number in range(32)}
    snapshot = AgentSnapshot(
        lines=[LineReport(f"line-{n:060}", 0.5, n, errors, False, "好" * 200) for n in range(1500)]
    )
    heartbeat = heartbeat_message(snapshot, 1, 1).heartbeat
    check_heartbeat(heartbeat)
    assert len(heartbeat.lines) == limits.MAX_LINES
    assert heartbeat.lines[999].requests == 999
    assert not heartbeat.lines[0].told


def test_goodbye_is_a_sentence() -> None:
    """However long the reason was."""
    assert len(goodbye_message("x" * 1000).goodbye.reason) == limits.MAX_SENTENCE


def test_facts_of_this_machine() -> None:
    """Linux tells its boot id and a process's memory."""
    assert len(boot_id()) == 36
    assert resident_bytes() > 1_000_000
