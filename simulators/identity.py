"""Identity of a simulated meter: what it says when it is asked what it is (FC 43/14 and FC 17)."""

from dataclasses import dataclass

from pymodbus.pdu import ModbusPDU
from pymodbus.pdu.mei_message import ReadDeviceInformationResponse
from pymodbus.pdu.other_message import ReportDeviceIdResponse

_MEI = 14
_BASIC = 3  # objects 0 to 2


@dataclass(frozen=True)
class Identity:
    """A real meter knows one of the two, both, or none."""

    objects: tuple[str, ...] = ()  # vendor, product code, revision, vendor url, product name, model name, application
    server_id: bytes = b""

    def answer(self, request: bytes) -> ModbusPDU | None:
        """The answer to a request PDU; None when it is not one of these, or not known here."""
        if request[:1] == b"\x11" and self.server_id:
            return ReportDeviceIdResponse(self.server_id)
        if len(request) == 4 and request[:2] == bytes([0x2B, _MEI]) and self.objects and request[2] in (1, 2):
            count = _BASIC if request[2] == 1 else len(self.objects)
            wanted = {i: text.encode() for i, text in enumerate(self.objects[:count]) if i >= request[3]}
            answer = ReadDeviceInformationResponse(request[2], wanted)
            answer.conformity = 1 if len(self.objects) <= _BASIC else 2
            return answer
        return None
