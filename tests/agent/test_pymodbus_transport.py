"""The wires that go through pymodbus: against pymodbus's own servers, behind the same interface as ours."""

import asyncio
import contextlib
import ipaddress
import os
import ssl
import tty
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pymodbus.framer import FramerType
from pymodbus.server import ModbusSerialServer, ModbusTlsServer, ModbusUdpServer
from pymodbus.server.base import ModbusBaseServer
from pymodbus.simulator import DataType, SimData, SimDevice

from parkfleet.agent.transport import LineDownError, Transport, open_transport
from parkfleet.protocols.config import LineAddress, parse_line_url
from parkfleet.protocols.modbus.pdu import AnswerTimeoutError, ExceptionAnswerError, ReadRequest
from parkfleet.simulators.broker import free_port

VALUES = [1, 2, 0xFFFF, 40000]


def device() -> SimDevice:
    """Unit 7 with four registers from address 10, in every table."""
    return SimDevice(7, simdata=[SimData(10, values=VALUES, datatype=DataType.REGISTERS)])


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate for localhost, and its key."""
    secret = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tests")])
    hosts = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    builder = x509.CertificateBuilder(name, name, secret.public_key(), x509.random_serial_number())
    now = datetime.now(UTC)
    builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    builder = builder.add_extension(hosts, critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    plain = serialization.NoEncryption()
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert.write_bytes(builder.sign(secret, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    key.write_bytes(secret.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    return cert, key


@contextlib.asynccontextmanager
async def serving(server: ModbusBaseServer) -> AsyncIterator[None]:
    await server.serve_forever(background=True)
    try:
        yield
    finally:
        await server.shutdown()  # type: ignore[no-untyped-call]


@contextlib.asynccontextmanager
async def opened(line: LineAddress) -> AsyncIterator[Transport]:
    transport = await open_transport(line)
    try:
        yield transport
    finally:
        transport.close()


async def read_all(line: LineAddress) -> None:
    """What every wire must do: values, an exception, a time-out, each as our own transports tell them."""
    async with opened(line) as transport:
        assert await transport.transact(ReadRequest(7, "holding", 10, 4), 2.0) == VALUES
        assert await transport.transact(ReadRequest(7, "input", 11, 2), 2.0) == VALUES[1:3]
        with pytest.raises(ExceptionAnswerError):
            await transport.transact(ReadRequest(7, "holding", 5000, 4), 2.0)
        assert transport.usable


async def test_tls(certificate: tuple[Path, Path], tmp_path: Path) -> None:
    """Modbus/TLS with the authority named in the url, relative to the configuration's folder."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    port = free_port()
    async with serving(ModbusTlsServer(device(), sslctx=context, address=("127.0.0.1", port))):
        await read_all(parse_line_url(f"tls://localhost:{port}?ca=cert.pem").under(tmp_path))
        with pytest.raises(LineDownError, match=r"nobody answers there, or not over tls|certificate"):
            await open_transport(parse_line_url(f"tls://localhost:{port}"))  # not an authority the system knows


async def test_tls_with_a_certificate_of_ours(certificate: tuple[Path, Path], tmp_path: Path) -> None:
    """An endpoint that asks for one gets it, and refuses whoever has none."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=certificate[0])
    context.load_cert_chain(*certificate)
    context.verify_mode = ssl.CERT_REQUIRED
    port = free_port()
    async with serving(ModbusTlsServer(device(), sslctx=context, address=("127.0.0.1", port))):
        await read_all(parse_line_url(f"tls://localhost:{port}?ca=cert.pem&cert=cert.pem&key=key.pem").under(tmp_path))
        with pytest.raises((LineDownError, AnswerTimeoutError)):
            await read_all(parse_line_url(f"tls://localhost:{port}?ca=cert.pem").under(tmp_path))


async def test_tls_certificates_missing() -> None:
    """A file that is not there is named."""
    with pytest.raises(LineDownError, match="cannot use the certificates of localhost:802"):
        await open_transport(parse_line_url("tls://localhost?ca=/no/such.pem"))


async def test_udp() -> None:
    """Modbus over UDP."""
    port = free_port()
    async with serving(ModbusUdpServer(device(), address=("127.0.0.1", port))):
        await read_all(parse_line_url(f"udp://127.0.0.1:{port}"))


async def test_udp_nobody_there() -> None:
    """UDP has no connection: nobody there is a time-out, and the transport is spent."""
    async with opened(parse_line_url(f"udp://127.0.0.1:{free_port()}")) as transport:
        with pytest.raises((AnswerTimeoutError, LineDownError)):
            await transport.transact(ReadRequest(7, "holding", 10, 4), 0.1)


async def test_ascii(tmp_path: Path) -> None:
    """Modbus ASCII on a serial port."""
    (ours, ours_tty), (theirs, theirs_tty) = os.openpty(), os.openpty()
    for descriptor in (ours_tty, theirs_tty):
        tty.setraw(descriptor)
    loop = asyncio.get_running_loop()
    loop.add_reader(ours, lambda: os.write(theirs, os.read(ours, 4096)))
    loop.add_reader(theirs, lambda: os.write(ours, os.read(theirs, 4096)))
    server = ModbusSerialServer(device(), framer=FramerType.ASCII, port=os.ttyname(theirs_tty), baudrate=19200)
    try:
        async with serving(server):
            await read_all(parse_line_url(f"ascii://{os.ttyname(ours_tty)}?baud=19200"))
    finally:
        for descriptor in (ours, theirs):
            loop.remove_reader(descriptor)
        for descriptor in (ours, ours_tty, theirs, theirs_tty):
            os.close(descriptor)


async def test_port_missing() -> None:
    """A serial port that is not there is a line that is down."""
    with pytest.raises(LineDownError, match="/dev/no-such-port"):
        await open_transport(parse_line_url("ascii:///dev/no-such-port"))
