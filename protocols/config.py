"""gateway.yaml: the one set of models behind validation, JSON Schema and documentation (docs/configuration.md)."""

from pathlib import Path
from typing import Annotated, ClassVar, Final, Literal, cast, get_args
from urllib.parse import SplitResult, parse_qsl, urlsplit

import msgspec
from msgspec import Meta

from parkfleet.protocols.profile import Identifier, Kind
from parkfleet.protocols.quantity import Duration, Size, duration, size
from parkfleet.protocols.ratio import Ratio, positive
from parkfleet.protocols.rules import DeadbandConfig, RuleConfig

#: Different intervals of one meter's points, at most.
MAX_INTERVALS: Final = 4
LineKind = Literal["serial", "ascii", "tcp", "rtu+tcp", "tls", "udp"]
#: Who switches the RS-485 transmitter: the driver by RTS, high while sending (rts) or low (rts-low).
Rs485 = Literal["rts", "rts-low"]
#: How readings are said to the broker.
EncodingName = Literal["compact", "json"]


class BrokerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where batches go: an MQTT 5 broker."""

    url: str  # mqtt://host:1883 or mqtts://host:8883
    ca: str | None = None  # mqtts: file with the authority's certificate; default: the system's
    cert: str | None = None  # mqtts: file with our certificate …
    key: str | None = None  # … and its key
    username: str | None = None
    password_file: str | None = None  # the password never stands in the configuration itself
    keepalive: Duration = duration("60s")
    ack_timeout: Duration = duration("30s")  # a broker that acknowledges nothing for so long is as good as gone
    key_every: Annotated[int, Meta(ge=1, le=1000)] = 1  # live batches: one in so many stands alone, the others continue

    def __post_init__(self) -> None:
        parts = split_url(self.url, ("mqtt", "mqtts"), "mqtt://host:1883 or mqtts://host:8883")
        if not parts.hostname:
            raise ValueError(f"url names no host: expected mqtt://host:port, got {self.url!r}")
        if parts.username or parts.password:
            raise ValueError("url must not carry a password: use username and password_file")
        if (self.cert is None) != (self.key is None):
            raise ValueError("cert and key go together: give both or neither")
        if parts.scheme == "mqtt" and (self.ca or self.cert):
            raise ValueError("ca, cert and key need an mqtts:// url")
        if not 5 <= self.keepalive <= 3600:
            raise ValueError("keepalive must be from 5s to 1h")
        if not 0.1 <= self.ack_timeout <= 3600:
            raise ValueError("ack_timeout must be from 100ms to 1h")

    @property
    def tls(self) -> bool:
        return self.url.startswith("mqtts:")

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or (8883 if self.tls else 1883)


class BufferConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where batches wait for the broker: one SQLite file."""

    path: str = "buffer.db"
    flush: Duration = duration("5s")  # a batch closes this often: the most a power cut can cost
    retain: Duration = duration("7d")  # acknowledged batches are kept this long, for replay
    max_bytes: Size = size("512MiB")  # then acknowledged batches go, then what waits is thinned, then the oldest goes
    min_free: Size = size("64MiB")  # of the disk, left to others
    # When a minute's readings are too much, kinds of points go one by one, the last named first.
    keep: Annotated[tuple[Kind, ...], Meta(min_length=1, max_length=3)] = ("counter", "gauge", "state")

    def __post_init__(self) -> None:
        if not 0.05 <= self.flush <= 3600:
            raise ValueError("flush must be from 50ms to 1h")
        if self.max_bytes < 1024**2:
            raise ValueError("max_bytes must be at least 1MiB")
        if len(set(self.keep)) < len(self.keep):
            raise ValueError("keep names a kind twice: each of counter, gauge, state once, the last may be left out")


class ControllerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The fleet controller. The agent works alone without one."""

    url: str  # host:port
    trial: Duration = duration("120s")  # a new configuration must prove itself for so long before it is confirmed
    identity: str = "identity"  # folder with our certificate, which `parkfleet agent enroll` makes

    def __post_init__(self) -> None:
        if not 1 <= self.trial <= 3600:
            raise ValueError("trial must be from 1s to 1h")
        parts = split_url(f"grpc://{self.url}", ("grpc",), "host:port")
        if not parts.hostname or parts.port is None or parts.path:
            raise ValueError(f"expected host:port, got {self.url!r}")


class LineConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One thing meters hang on: an RS-485 bus or a TCP endpoint."""

    id: Identifier
    url: str  # serial:///dev/ttyUSB0?baud=9600&parity=N&stopbits=1, tcp://host:502, rtu+tcp://host:4001
    timeout: Duration = duration("1s")  # how long to wait for an answer to begin
    spread: bool = False  # meters of one interval take turns within it, instead of all at once
    connections: Annotated[int, Meta(ge=1, le=16)] = 1  # opened to a tcp:// endpoint at once
    outstanding: Annotated[int, Meta(ge=1, le=16)] = 1  # requests under way on each of them

    def __post_init__(self) -> None:
        if not 0.01 <= self.timeout <= 60:
            raise ValueError("timeout must be from 10ms to 60s")
        if parse_line_url(self.url).kind != "tcp" and self.lanes > 1:
            raise ValueError(
                "connections and outstanding are for tcp:// alone: other lines carry one request at a time"
            )

    @property
    def lanes(self) -> int:
        """Requests that may be under way at once."""
        return self.connections * self.outstanding


class MeterConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One slave on a line, read with a profile."""

    #: Keys that somebody may look for here, and what to tell.
    MISPLACED: ClassVar[dict[str, str]] = dict.fromkeys(
        ("baud", "parity", "stopbits"),
        "stands in the line's url: all meters on a line speak at one setting. Set the meter to it, or give it a line,"
        " and a port, of its own",
    )

    id: Identifier
    line: Identifier
    unit: Annotated[int, Meta(ge=0, le=255)]
    profile: Identifier
    interval: Duration = duration("10s")
    # A scan's time is its slot (a multiple of interval) when the answer came within this of it: regular
    # times cost no bytes. Beyond it, and with 0s always, it is the exact millisecond of the answer.
    # Default: a tenth of the interval, at most 1 s.
    snap: Duration | None = None
    points: list[Identifier] = []  # read only these; default: all of the profile
    intervals: dict[Identifier, Duration] = {}  # of points that are read at another interval: point: 15m
    ct: Ratio | None = None  # of the current transformers before the meter: 200, or 1000/5
    pt: Ratio | None = None  # of its voltage transformers
    max_rate: dict[Identifier, Annotated[float, Meta(gt=0)]] = {}  # of its counters: units an hour, where known better
    raw: bool = True  # keep and deliver the values before the transformers' ratios too, as POINT_raw
    priority: list[Identifier] = []  # points whose changes do not wait for the batch, beside those the profile marks

    def __post_init__(self) -> None:
        for name in ("ct", "pt"):
            if (ratio := getattr(self, name)) is not None:
                positive(ratio, name)
        if not 0.1 <= self.interval <= 86400:
            raise ValueError("interval must be from 100ms to 1d")
        for point, interval in self.intervals.items():
            if not 0.1 <= interval <= 86400:
                raise ValueError(f"intervals: that of {point} must be from 100ms to 1d")
            if not is_multiple(interval, self.shortest):
                raise ValueError(f"intervals: that of {point} must be a multiple of the shortest, {self.shortest}")
        if len({float(interval) for interval in (self.interval, *self.intervals.values())}) > MAX_INTERVALS:
            raise ValueError(f"intervals: a meter has at most {MAX_INTERVALS} different ones")
        if not is_multiple(self.interval, self.shortest):
            raise ValueError(f"interval must be a multiple of the shortest in intervals, {self.shortest}")
        if self.snap is not None and self.snap > self.shortest / 2:
            raise ValueError("snap must be at most half the (shortest) interval")

    @property
    def shortest(self) -> Duration:
        """The interval at which the meter has slots."""
        return min((self.interval, *self.intervals.values()))

    @property
    def snap_seconds(self) -> float:
        """The tolerance in force, in seconds."""
        return min(self.shortest / 10, 1.0) if self.snap is None else self.snap


class GatewayConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole of gateway.yaml."""

    park: Identifier
    gateway: Identifier
    broker: BrokerConfig
    lines: Annotated[list[LineConfig], Meta(max_length=1000)]
    meters: Annotated[list[MeterConfig], Meta(max_length=20000)]
    buffer: BufferConfig = msgspec.field(default_factory=BufferConfig)
    controller: ControllerConfig | None = None
    profiles: list[str] = []  # folders searched before the built-in library
    timezone: str | None = None  # IANA name; intervals are counted from its midnight. Default: the system's
    encoding: EncodingName = "compact"
    rules: Annotated[list[RuleConfig], Meta(max_length=200)] = []  # what is told at once
    deadbands: Annotated[list[DeadbandConfig], Meta(max_length=200)] = []  # what need not be delivered

    def __post_init__(self) -> None:
        if self.timezone is not None and not _is_zone(self.timezone):
            raise ValueError(f"timezone must be a name such as Asia/Shanghai, got {self.timezone!r}")


class LineAddress(msgspec.Struct, frozen=True):
    """A line's url, taken apart. serial has device and settings, the others host and port."""

    kind: LineKind
    device: str = ""
    baud: int = 9600
    parity: Literal["N", "E", "O"] = "N"
    stopbits: Literal[1, 2] = 1
    rs485: Rs485 | None = None  # None: the adapter switches its transmitter by itself
    host: str = ""
    port: int = 502
    ca: str = ""  # tls: files; "" for the system's authorities, and for no certificate of ours
    cert: str = ""
    key: str = ""

    @property
    def name(self) -> str:
        """How the line is called in a sentence: its device, or host and port."""
        return self.device or f"{self.host}:{self.port}"

    @property
    def setting(self) -> str:
        """Of a serial port, as people write it: 9600 8N1."""
        return f"{self.baud} 8{self.parity}{self.stopbits}"

    @property
    def is_serial(self) -> bool:
        """Whether it hangs on a serial port."""
        return self.kind in ("serial", "ascii")

    def under(self, folder: Path) -> "LineAddress":
        """With its files named from the folder of the configuration."""
        files = {name: str(folder / path) for name in ("ca", "cert", "key") if (path := getattr(self, name))}
        return msgspec.structs.replace(self, **files)

    @property
    def bits_per_byte(self) -> int:
        """Bits one byte occupies on a serial wire: start, 8 data, parity, stop."""
        return 9 + (self.parity != "N") + self.stopbits


def is_multiple(interval: float, of: float) -> bool:
    """In whole milliseconds."""
    return round(1000 * interval) % round(1000 * of) == 0


def _is_zone(name: str) -> bool:
    from zoneinfo import ZoneInfo

    try:
        return name == "UTC" or bool(ZoneInfo(name))
    except (ValueError, OSError, KeyError):
        return False


def parse_line_url(url: str) -> LineAddress:
    """Takes a line's url apart. Raises ValueError with a sentence for the user."""
    expected = (
        "serial:///dev/ttyUSB0?baud=9600&parity=N&stopbits=1, tcp://host:502, rtu+tcp://host:port,"
        " tls://host:802, udp://host:502 or ascii:///dev/ttyUSB0"
    )
    parts = split_url(url, get_args(LineKind), expected)
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    settings = dict(pairs)
    if twice := [name for name in settings if sum(name == other for other, _ in pairs) > 1]:
        raise ValueError(f"{twice[0]} stands twice in the url: a line has one setting, for all of its meters")
    if parts.scheme in ("serial", "ascii"):
        return _parse_serial(parts, settings)
    if not parts.hostname:
        raise ValueError(f"url names no host: expected {parts.scheme}://host:port, got {url!r}")
    known = ("ca", "cert", "key") if parts.scheme == "tls" else ()
    if unknown := [name for name in settings if name not in known]:
        raise ValueError(f"unknown setting {unknown[0]!r} in url: {parts.scheme} takes {', '.join(known) or 'none'}")
    if ("cert" in settings) != ("key" in settings):
        raise ValueError("cert and key go together: give both or neither")
    port = parts.port or {"tcp": 502, "udp": 502, "tls": 802}.get(parts.scheme)
    if port is None:
        raise ValueError(f"url names no port: expected rtu+tcp://host:port, got {url!r}")
    ca, cert, key = (settings.get(name, "") for name in ("ca", "cert", "key"))
    return LineAddress(cast(LineKind, parts.scheme), host=parts.hostname, port=port, ca=ca, cert=cert, key=key)


def _parse_serial(parts: SplitResult, settings: dict[str, str]) -> LineAddress:
    if parts.netloc or not parts.path.startswith("/"):
        told = f"{parts.scheme}:///dev/ttyUSB0?baud=9600"
        raise ValueError(f"a serial url has three slashes before the device: {told}")
    known = ("baud", "parity", "stopbits", *(("rs485",) if parts.scheme == "serial" else ()))
    if unknown := sorted(set(settings) - set(known)):
        raise ValueError(f"unknown setting {unknown[0]!r} in url: {parts.scheme} takes {', '.join(known)}")
    rs485 = settings.get("rs485")
    if rs485 is not None and rs485 not in get_args(Rs485):
        raise ValueError(f"rs485 must be rts or rts-low, got {rs485!r}")
    baud = settings.get("baud", "9600")
    if not baud.isascii() or not baud.isdigit() or not 300 <= int(baud) <= 4_000_000:
        raise ValueError(f"baud must be a number from 300 to 4000000, got {baud!r}")
    parity = settings.get("parity", "N")
    stopbits = settings.get("stopbits", "1")
    if parity not in ("N", "E", "O"):
        raise ValueError(f"parity must be N, E or O, got {parity!r}")
    if stopbits not in ("1", "2"):
        raise ValueError(f"stopbits must be 1 or 2, got {stopbits!r}")
    return LineAddress(
        kind=cast(LineKind, parts.scheme),
        device=parts.path,
        baud=int(baud),
        parity="N" if parity == "N" else "E" if parity == "E" else "O",
        stopbits=1 if stopbits == "1" else 2,
        rs485=cast(Rs485 | None, rs485),
    )


def split_url(url: str, schemes: tuple[str, ...], expected: str) -> SplitResult:
    """urlsplit that names what was expected. Raises ValueError, also for a port that is no port."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise ValueError(f"expected {expected}, got {url!r} ({error})") from None
    if parts.scheme not in schemes:
        raise ValueError(f"expected {expected}, got {url!r}")
    return parts
