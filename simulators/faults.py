"""Faults: how a simulated meter misbehaves. Tests and scenarios change them while the meter runs."""

from dataclasses import dataclass, fields


@dataclass
class Faults:
    """All off by default; any may be combined."""

    silent: bool = False  # no answer
    delay: float = 0.0  # seconds before the answer, beside the turnaround; the answer counts as given
    late: float = 0.0  # the same, meant to come after the asker's time-out: the answer does not count
    exception: int = 0  # answers every request with this exception code
    unit: int | None = None  # another unit's id in the answer
    function: int | None = None  # another function code in the answer
    longer: int = 0  # so many registers (or bytes of bits) more than asked, in a frame that is whole
    corrupt: bool = False  # one bit of the values turned on the wire, so that the CRC is wrong (Modbus TCP has none)
    cut: int = 0  # so many bytes are missing at the end
    noise: bytes = b""  # follows the answer; an asker may still take the answer, or refuse it
    disconnect: bool = False  # TCP: ends the connection instead of answering

    @property
    def spoil(self) -> bool:
        """Whether an answer given now cannot be counted on to be taken."""
        odd = self.unit is not None or self.function is not None
        return bool(odd or self.late or self.exception or self.longer or self.corrupt or self.cut or self.noise)

    def on_wire(self, frame: bytes, *, has_crc: bool) -> bytes:
        """What of a frame arrives."""
        data = bytearray(frame)
        if self.corrupt and has_crc:
            data[-3] ^= 0x10  # the last byte before the CRC
        return bytes(data[: max(0, len(data) - self.cut)]) + self.noise

    def clear(self) -> None:
        """All off again."""
        for field in fields(self):
            setattr(self, field.name, field.default)
