"""Rig: the engine in its thread, with slaves on ptys and TCP sockets that do what a test tells them."""

import os
import select
import socket
import struct
import threading
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Self

from parkfleet.native.engine import Engine
from parkfleet.native.spec import (
    SERIAL,
    TCP,
    FieldSpec,
    LineSpec,
    MeterSpec,
    Record,
    RequestSpec,
)
from parkfleet.protocols.modbus import rtu

MS = 1_000_000
S = 1_000_000_000
UINT16 = 1
GOOD, TIMEOUT, CORRUPT, DISCONNECTED, INVALID, SKIPPED = 0, 1, 2, 3, 4, 6

#: What a slave answers to (unit, PDU): the pieces it sends, each with the seconds to wait before it.
Behaviour = Callable[[int, bytes], list[tuple[float, bytes]]]


def registers(unit: int, address: int, count: int) -> list[int]:
    """What every well-behaved slave here has in its registers."""
    return [(unit * 1000 + address + index) & 0xFFFF for index in range(count)]


def good_pdu(unit: int, pdu: bytes) -> bytes:
    """The right answer to a read."""
    function, address, count = struct.unpack(">BHH", pdu)
    return struct.pack(f">BB{count}H", function, 2 * count, *registers(unit, address, count))


def well(unit: int, pdu: bytes) -> list[tuple[float, bytes]]:
    """An RTU slave that answers at once."""
    return [(0.0, rtu.frame(unit, good_pdu(unit, pdu)))]


def request(address: int, count: int, first_column: int = 0, function: int = 3) -> RequestSpec:
    """A read of registers, each a column."""
    fields = tuple(FieldSpec(first_column + i, UINT16, 0, i, 1) for i in range(count))
    return RequestSpec(function, address, count, fields)


def meter(tag: int, unit: int, interval_ns: int = 0, blocks: tuple[tuple[int, int], ...] = ((0, 2),)) -> MeterSpec:
    """A meter whose columns are its blocks' registers, one behind the other."""
    requests, columns = [], 0
    for address, count in blocks:
        requests.append(request(address, count, columns))
        columns += count
    return MeterSpec(tag, unit, interval_ns, columns, tuple(requests))


def expected(unit: int, *blocks: tuple[int, int]) -> list[int]:
    """The slots of a good scan of such a meter."""
    return [value for address, count in blocks for value in registers(unit, address, count)]


def serial_line(fd: int, *meters: MeterSpec, timeout_ns: int = 250 * MS, baud: int = 115200,
                learning: bool = False) -> LineSpec:  # fmt: skip
    """A line on an open pty."""
    byte_ns = 10 * S // baud
    silence = round(rtu.silence(baud) * S)
    # Slaves that are Python threads are late at times: only tests of learning let time-outs shrink.
    least = 20 * MS if learning else timeout_ns
    return LineSpec(SERIAL, timeout_ns, meters, byte_ns, silence, fd, least_timeout_ns=least)


def tcp_address(port: int) -> bytes:
    """sockaddr_in of this machine."""
    return struct.pack("=H", socket.AF_INET) + struct.pack(">H4s8x", port, bytes([127, 0, 0, 1]))


def tcp_line(port: int, *meters: MeterSpec, timeout_ns: int = 500 * MS, connections: int = 1, outstanding: int = 1,
             kind: int = TCP) -> LineSpec:  # fmt: skip
    """An endpoint on this machine."""
    return LineSpec(kind, timeout_ns, meters, address=tcp_address(port), connections=connections,
                    outstanding=outstanding, least_timeout_ns=timeout_ns)  # fmt: skip


class Rig:
    """A running engine and the records taken of it."""

    def __init__(self, **settings: int) -> None:
        self.engine = Engine(seed=1, **settings)
        self.records: list[Record] = []
        self._stopped = False
        self._thread = threading.Thread(target=self.engine.run, name="engine")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def stop(self, within_s: float = 1.0) -> None:
        """Ends the thread and takes what is left."""
        if self._stopped:
            return
        self._stopped = True
        self.engine.stop(within_s)
        self._thread.join(10)
        assert not self._thread.is_alive()
        self.records += [Record(*fields) for fields in self.engine.take()]
        self.engine.close()

    def until(self, condition: Callable[[list[Record]], object], within_s: float = 20.0) -> list[Record]:
        """Takes records until a condition on all of them holds."""
        give_up = time.monotonic() + within_s
        while not condition(self.records):
            assert time.monotonic() < give_up, "it never came about"
            select.select([self.engine.results_fd], [], [], 0.05)
            self.records += [Record(*fields) for fields in self.engine.take()]
        return self.records

    def scans(self, count: int) -> list[Record]:
        """The first so many records."""
        return self.until(lambda records: len(records) >= count)[:count]


class PtySlave:
    """One end of a pty in a thread: hears requests, answers by its behaviour, and measures the silence before them."""

    def __init__(self, behaviour: Behaviour = well) -> None:
        self.behaviour = behaviour
        self.requests: list[tuple[float, int, bytes]] = []  # monotonic, unit, PDU
        self.silences: list[float] = []  # seconds from our last byte to the request's arrival
        self.pieces: list[int] = []  # bytes that came at once
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        self._spoke = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="slave")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.unplug()
        with suppress(OSError):
            os.close(self._slave)

    def open(self) -> int:
        """A descriptor for the engine."""
        return os.open(os.ttyname(self._slave), os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)

    def unplug(self) -> None:
        """The adapter vanishes."""
        if not self._stop.is_set():
            self._stop.set()
            self._thread.join()
            os.close(self._master)

    @property
    def name(self) -> str:
        """The device's."""
        return os.ttyname(self._slave)

    def fileno(self) -> int:
        """Our end."""
        return self._master

    def say(self, data: bytes) -> None:
        """Sends bytes, asked or not."""
        os.write(self._master, data)
        self._spoke = time.monotonic()

    @contextmanager
    def babbling(self) -> Iterator[None]:
        """Bytes every few milliseconds."""
        enough = threading.Event()

        def babble() -> None:
            while not enough.wait(0.002):
                self.say(b"\x55")

        thread = threading.Thread(target=babble, name="babble")
        thread.start()
        self.say(b"\x55")
        try:
            yield
        finally:
            enough.set()
            thread.join()

    def _run(self) -> None:
        buffer = b""
        while not self._stop.is_set():
            if not select.select([self._master], [], [], 0.02)[0]:
                continue
            now = time.monotonic()
            if not buffer and self._spoke:
                self.silences.append(now - self._spoke)
            piece = os.read(self._master, 4096)
            self.pieces.append(len(piece))
            buffer += piece
            while len(buffer) >= 8:
                frame, buffer = buffer[:8], buffer[8:]
                assert rtu.crc16(frame[:6]) == int.from_bytes(frame[6:], "little")
                self.requests.append((now, frame[0], frame[1:6]))
                self._answer(frame[0], frame[1:6])

    def _answer(self, unit: int, pdu: bytes) -> None:
        for wait, data in self.behaviour(unit, pdu):
            if self._stop.wait(wait):
                return
            self.say(data)


class TcpSlave:
    """A Modbus TCP (or RTU over TCP) server in a thread, answering by its behaviour: (unit, PDU) to answer PDUs.

    behaviour gets (connection, transaction, unit, PDU) and sends what it wants itself.
    """

    def __init__(self, behaviour: "Callable[[socket.socket, int, int, bytes], None] | None" = None) -> None:
        self.behaviour = behaviour or answer_well
        self.connections: list[socket.socket] = []
        self.requests = 0
        self.pieces: list[int] = []  # bytes that came at once
        self.port = 0
        self._listener: socket.socket | None = None
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self.listen()
        return self

    def __exit__(self, *exc: object) -> None:
        self.away()
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def listen(self) -> None:
        """Begins to accept, on the same port each time."""
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=64)
        self.port = self._listener.getsockname()[1]
        self._spawn(self._accept, self._listener)

    def away(self) -> None:
        """Neither listens nor keeps its connections."""
        if self._listener is not None:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        self.drop()

    def drop(self) -> None:
        """Ends all connections."""
        dropped, self.connections = self.connections, []  # the engine comes back while we are at it
        for connection in dropped:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def threads(self) -> list[threading.Thread]:
        """Those of connections that have ended or are ending: all but the acceptor."""
        self.drop()
        return self._threads[1:]

    def _spawn(self, target: Callable[[socket.socket], None], argument: socket.socket) -> None:
        thread = threading.Thread(target=target, args=(argument,), name="tcp slave")
        thread.start()
        self._threads.append(thread)  # whoever finds it may join it

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.connections.append(connection)
            self._spawn(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        buffer = b""
        with connection, suppress(OSError):
            while data := connection.recv(4096):
                self.pieces.append(len(data))
                buffer += data
                while len(buffer) >= 12:
                    frame, buffer = buffer[:12], buffer[12:]
                    self.requests += 1
                    self.behaviour(connection, int.from_bytes(frame[:2], "big"), frame[6], frame[7:12])


def answer_well(connection: socket.socket, transaction: int, unit: int, pdu: bytes) -> None:
    """A TCP slave that answers at once."""
    connection.sendall(mbap(transaction, unit, good_pdu(unit, pdu)))


def mbap(transaction: int, unit: int, pdu: bytes) -> bytes:
    """A Modbus TCP frame."""
    return struct.pack(">HHHB", transaction, 0, len(pdu) + 1, unit) + pdu


@contextmanager
def rig_on_pty(behaviour: Behaviour, *meters: MeterSpec, timeout_ns: int = 250 * MS, baud: int = 115200
               ) -> Iterator[tuple[Rig, PtySlave, int]]:  # fmt: skip
    """An engine with one serial line; yields it, the slave and the line's index."""
    with PtySlave(behaviour) as slave, Rig() as rig:
        index = rig.engine.add_line(serial_line(slave.open(), *meters, timeout_ns=timeout_ns, baud=baud))
        yield rig, slave, index
