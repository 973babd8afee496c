"""Pymodbus transport: the wires that are not the hot path (Modbus/TLS, UDP, ASCII), behind the Transport interface.

A connection that lost an answer is spent: pymodbus gives no way to tell a late answer from the next one's.
"""

import ssl
from typing import Final, TypeVar

from pymodbus.client import AsyncModbusSerialClient, AsyncModbusTlsClient, AsyncModbusUdpClient
from pymodbus.exceptions import ConnectionException, ModbusException, ModbusIOException
from pymodbus.framer import FramerType
from pymodbus.pdu import DecodePDU

from parkfleet.agent.transport import CONNECT_TIMEOUT_S, LineDownError
from parkfleet.protocols.config import LineAddress
from parkfleet.protocols.modbus.pdu import AnswerTimeoutError, CorruptAnswerError, Request

T = TypeVar("T")
Client = AsyncModbusTlsClient | AsyncModbusUdpClient | AsyncModbusSerialClient
#: Neither repeats nor reconnects of pymodbus's own: the poller decides both.
RETRIES: Final = 0
RECONNECT_DELAY: Final = 0.0


class PymodbusTransport:
    """One connection of a pymodbus client."""

    def __init__(self, line: LineAddress, client: Client) -> None:
        self._line = line
        self._client = client
        self._decoder = DecodePDU(is_server=True)
        self.usable = True

    @classmethod
    async def connect(cls, line: LineAddress) -> "PymodbusTransport":
        """Raises LineDownError with a sentence for the installer."""
        transport = cls(line, _client(line))
        try:
            connected = await transport._client.connect()
        except (OSError, ModbusException) as error:
            raise LineDownError(f"cannot connect to {line.name}: {error}") from None
        if not connected:
            transport.close()
            raise LineDownError(f"cannot connect to {line.name}: nobody answers there, or not over {line.kind}")
        return transport

    async def transact(self, request: Request[T], timeout: float) -> T:
        """See Transport."""
        # pymodbus waits so long for an answer, too: to its last byte.
        self._client.comm_params.timeout_connect = timeout + _wire_seconds(self._line, request)
        asked = self._decoder.decode(request.pdu)
        if asked is None:
            raise LineDownError(f"function {request.pdu[0]} cannot be asked over {self._line.kind}")
        asked.dev_id = request.unit
        try:
            answer = await self._client.execute(False, asked)
        except ModbusIOException as error:
            self.usable = False
            if "No response" in str(error):
                raise AnswerTimeoutError("no answer in time") from None
            raise CorruptAnswerError(str(error)) from None
        except (ConnectionException, OSError) as error:
            raise LineDownError(f"{self._line.name}: {error}") from None
        try:
            return request.values(bytes([answer.function_code]) + answer.encode())
        except CorruptAnswerError:
            self.usable = False
            raise

    def close(self) -> None:
        """Gives the connection back; idempotent."""
        self._client.close()


def _wire_seconds(line: LineAddress, request: Request[object]) -> float:
    """What an ASCII request and its answer take on a serial wire: two characters a byte, colon, LRC and line end."""
    if not line.is_serial:
        return 0.0
    characters = 2 * (len(request.pdu) + 2) + 3 + 2 * (request.data_bytes + 4) + 3
    return characters * line.bits_per_byte / line.baud


def _client(line: LineAddress) -> Client:
    timeout = CONNECT_TIMEOUT_S
    if line.kind == "tls":
        return AsyncModbusTlsClient(
            line.host,
            port=line.port,
            sslctx=_context(line),
            timeout=timeout,
            retries=RETRIES,
            reconnect_delay=RECONNECT_DELAY,
        )
    if line.kind == "udp":
        return AsyncModbusUdpClient(
            line.host, port=line.port, timeout=timeout, retries=RETRIES, reconnect_delay=RECONNECT_DELAY
        )
    return AsyncModbusSerialClient(
        line.device,
        framer=FramerType.ASCII,
        baudrate=line.baud,
        bytesize=7 if line.parity != "N" else 8,  # ASCII has seven data bits; with 7N1 many devices mean 8N1
        parity=line.parity,
        stopbits=line.stopbits,
        timeout=timeout,
        retries=RETRIES,
        reconnect_delay=RECONNECT_DELAY,
    )


def _context(line: LineAddress) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=line.ca or None)
        if line.cert:
            context.load_cert_chain(line.cert, line.key)
    except (OSError, ssl.SSLError) as error:
        raise LineDownError(f"cannot use the certificates of {line.name}: {error}") from None
    return context
