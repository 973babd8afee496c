"""Engine on TCP endpoints: connections, transactions, and what a network does to them."""

import socket
import threading
from collections.abc import Callable

import pytest

from parkfleet.native.spec import RTU_TCP
from parkfleet.protocols.modbus import rtu
from tests.engine.rig import (
    CORRUPT,
    DISCONNECTED,
    MS,
    TIMEOUT,
    Rig,
    TcpSlave,
    answer_well,
    expected,
    good_pdu,
    mbap,
    meter,
    tcp_line,
)

BLOCKS = ((0, 3), (10, 20), (100, 125))


@pytest.mark.parametrize(("connections", "outstanding"), [(1, 1), (1, 8), (3, 1), (4, 4)])
def test_scan_over_tcp_gives_the_values(connections: int, outstanding: int) -> None:
    """With any number of connections and requests under way."""
    meters = [meter(unit, unit, blocks=BLOCKS) for unit in range(1, 7)]
    with TcpSlave() as slave, Rig() as rig:
        index = rig.engine.add_line(tcp_line(slave.port, *meters, connections=connections, outstanding=outstanding))
        everyone = set(range(1, 7))
        records = rig.until(lambda all: {record.tag for record in all} == everyone and len(all) >= 60)
        counters = rig.engine.line_counters(index)
    for record in records:
        assert list(record.slots) == expected(record.tag, *BLOCKS)
    assert (counters.timeouts, counters.corrupt, counters.late, counters.disconnects) == (0, 0, 0, 0)


def test_requests_under_way_never_exceed_what_is_allowed() -> None:
    """Two connections with three requests each: six are open at the slave, never more, and both are used."""
    lock, held = threading.Lock(), []
    most = [0]
    used: set[socket.socket] = set()

    def hold(connection: socket.socket, transaction: int, unit: int, pdu: bytes) -> None:
        with lock:
            held.append((connection, transaction, unit, pdu))
            used.add(connection)
            most[0] = max(most[0], len(held))
            if len(held) < 6:
                return
            waiting, held[:] = held[:], []
        for one in reversed(waiting):  # answered in another order than asked
            answer_well(*one)

    meters = [meter(unit, unit) for unit in range(1, 21)]
    with TcpSlave(hold) as slave, Rig() as rig:
        rig.engine.add_line(tcp_line(slave.port, *meters, connections=2, outstanding=3, timeout_ns=2000 * MS))
        for record in rig.scans(18):
            assert list(record.slots) == expected(record.tag, (0, 2))
    assert most[0] == 6
    assert len(used) == 2


def test_requests_that_may_go_together_leave_in_one_write() -> None:
    """Four answers in one piece make room for four requests: they cost one call of the kernel."""
    held: list[tuple[int, int, bytes]] = []

    def by_fours(connection: socket.socket, transaction: int, unit: int, pdu: bytes) -> None:
        held.append((transaction, unit, pdu))
        if len(held) == 4:
            answers, held[:] = b"".join(mbap(t, u, good_pdu(u, p)) for t, u, p in held), []
            connection.sendall(answers)

    meters = [meter(unit, unit) for unit in range(1, 9)]
    with TcpSlave(by_fours) as slave, Rig() as rig:
        rig.engine.add_line(tcp_line(slave.port, *meters, outstanding=4, timeout_ns=20_000 * MS))
        for record in rig.scans(16):
            assert list(record.slots) == expected(record.tag, (0, 2))
    assert set(slave.pieces) == {4 * 12}


def test_late_answer_is_known_by_its_transaction() -> None:
    """It is dropped, and the connection stays."""
    first: list[tuple[socket.socket, int, int, bytes]] = []

    def behave(connection: socket.socket, transaction: int, unit: int, pdu: bytes) -> None:
        if not first:
            first.append((connection, transaction, unit, pdu))
            return
        if len(first) == 1:
            first.append(first[0])
            connection.sendall(mbap(first[0][1], unit, bytes([3, 4]) + b"LATE"))
        answer_well(connection, transaction, unit, pdu)

    with TcpSlave(behave) as slave, Rig() as rig:
        index = rig.engine.add_line(tcp_line(slave.port, meter(1, 1, 100 * MS), timeout_ns=50 * MS))
        records = rig.until(lambda all: any(record.quality == bytes(2) for record in all))
        counters = rig.engine.line_counters(index)
        assert len(slave.connections) == 1
    assert records[0].quality == bytes([TIMEOUT, TIMEOUT])
    assert all(list(record.slots) in ([0, 0], expected(1, (0, 2))) for record in records)
    assert (counters.late, counters.timeouts) == (1, 1)


@pytest.mark.parametrize(
    "answer",
    [
        lambda t, u, pdu: mbap(t, u + 1, good_pdu(u, pdu)),  # unit
        lambda t, u, pdu: mbap(t, u, good_pdu(u, pdu)[:-1]),  # length
        lambda t, u, pdu: mbap(t, u, bytes([4]) + good_pdu(u, pdu)[1:]),  # function
        lambda t, u, pdu: b"HTTP/1.1 400 Bad Request\r\n\r\n",
        lambda t, u, pdu: bytes(7),
        lambda t, u, pdu: mbap(t, u, good_pdu(u, pdu))[:9],  # cut
    ],
)
def test_wrong_answer_is_corrupt_and_heals(answer: Callable[[int, int, bytes], bytes]) -> None:
    """Whatever comes, it is no value, and the next answer counts."""
    count = [0]

    def behave(connection: socket.socket, transaction: int, unit: int, pdu: bytes) -> None:
        count[0] += 1
        connection.sendall(
            answer(transaction, unit, pdu) if count[0] == 2 else mbap(transaction, unit, good_pdu(unit, pdu))
        )

    with TcpSlave(behave) as slave, Rig() as rig:
        rig.engine.add_line(tcp_line(slave.port, meter(1, 1, 100 * MS), timeout_ns=50 * MS))
        records = rig.until(lambda all: len(all) > 3 and all[-1].quality == bytes(2))
    assert records[1].quality == bytes([CORRUPT, CORRUPT])
    assert all(
        list(record.slots) == (expected(1, (0, 2)) if record.quality == bytes(2) else [0, 0]) for record in records
    )


def test_answer_in_pieces_and_two_in_one() -> None:
    """A stream has no frames of its own."""

    def pieces(connection: socket.socket, transaction: int, unit: int, pdu: bytes) -> None:
        frame = mbap(transaction ^ 0x8000, unit, good_pdu(unit, pdu)) + mbap(transaction, unit, good_pdu(unit, pdu))
        for at in range(0, len(frame), 5):
            connection.sendall(frame[at : at + 5])

    with TcpSlave(pieces) as slave, Rig() as rig:
        rig.engine.add_line(tcp_line(slave.port, meter(1, 1, blocks=BLOCKS)))
        for record in rig.scans(20):
            assert list(record.slots) == expected(1, *BLOCKS)


def test_endpoint_that_is_away_and_returns() -> None:
    """Told as disconnected at the interval; connected again by the engine itself."""
    with TcpSlave() as slave, Rig() as rig:
        index = rig.engine.add_line(tcp_line(slave.port, meter(1, 1, 100 * MS)))
        rig.until(lambda all: any(record.quality == bytes(2) for record in all))
        slave.away()
        away = bytes([DISCONNECTED, DISCONNECTED])
        rig.until(lambda all: sum(record.quality == away for record in all) >= 3)
        counters = rig.engine.line_counters(index)
        assert counters.failed
        assert counters.error
        before = len(rig.records)
        slave.listen()
        rig.until(lambda all: any(record.quality == bytes(2) for record in all[before:]))
        assert rig.engine.line_counters(index).up


def test_connection_ended_while_idle_costs_no_reading() -> None:
    """Many endpoints hang up after some seconds: the engine connects again before the next slot."""
    with TcpSlave() as slave, Rig() as rig:
        index = rig.engine.add_line(tcp_line(slave.port, meter(1, 1, 200 * MS)))
        for count in range(1, 5):
            rig.scans(count)
            slave.drop()
        assert all(record.quality == bytes(2) for record in rig.records)
        assert rig.engine.line_counters(index).losses == 0


def test_gateway_that_cannot_reach_its_meter() -> None:
    """Exception 11 means a silent meter: the rest of its blocks is skipped, and it is asked less and less."""

    def behave(connection: socket.socket, transaction: int, unit: int, pdu: bytes) -> None:
        answer = good_pdu(unit, pdu) if unit == 1 else bytes([pdu[0] | 0x80, 11])
        connection.sendall(mbap(transaction, unit, answer))

    with TcpSlave(behave) as slave, Rig() as rig:
        meters = [meter(unit, unit, 100 * MS, ((0, 1), (10, 2))) for unit in (1, 2)]
        index = rig.engine.add_line(tcp_line(slave.port, *meters))
        records = rig.until(lambda all: len(all) >= 30)
        assert rig.engine.line_counters(index).exceptions < 8
    assert {record.quality for record in records if record.tag == 2} == {bytes([0x8B] * 3)}
    assert {record.quality for record in records if record.tag == 1} == {bytes(3)}


def test_rtu_over_tcp() -> None:
    """RTU frames in a stream, each answer checked by its CRC."""
    with RtuSlave() as slave, Rig() as rig:
        rig.engine.add_line(tcp_line(slave.port, meter(1, 1, blocks=BLOCKS), meter(2, 2), kind=RTU_TCP))
        for record in rig.scans(20):
            assert list(record.slots) == expected(record.tag, *(BLOCKS if record.tag == 1 else ((0, 2),)))


class RtuSlave(TcpSlave):
    """Answers RTU requests in a stream."""

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            while len(frame := connection.recv(8)) == 8:
                connection.sendall(rtu.frame(frame[0], good_pdu(frame[0], frame[1:6])))
