"""Limits: what both ends of a session hold to. What a remote may send has its bound and unit here.

An agent keeps within them (it shortens), a controller refuses what exceeds them.
"""

from typing import Final

#: Raised when an agent and a controller of different numbers cannot understand each other at all; new fields
#: alone do not raise it.
PROTOCOL_VERSION: Final = 1

#: Any message on any stream, in bytes. Firmware and logs never travel on the session.
MAX_MESSAGE_BYTES: Final = 1024**2
#: A join token with a request for a certificate, or a certificate with a proof: a kilobyte. Bytes.
MAX_ENROLMENT_BYTES: Final = 16 * 1024
#: A hello or a status has a dozen short fields; the controller keeps the last of each gateway in memory. Bytes.
MAX_HELLO_BYTES: Final = 4 * 1024
MAX_STATUS_BYTES: Final = 4 * 1024
#: A thousand lines (the most gateway.yaml may have) with a few error counts each. Bytes.
MAX_HEARTBEAT_BYTES: Final = 256 * 1024
#: A gateway's configuration: some 7,000 meters. With its secrets it stays below a message. Bytes.
MAX_DOCUMENT_BYTES: Final = 768 * 1024
MAX_SECRETS_BYTES: Final = 192 * 1024
#: Lines of one gateway, as in gateway.yaml.
MAX_LINES: Final = 1000
#: Causes of errors counted per line; the poller knows about ten.
MAX_CAUSES: Final = 32
#: Meters named per line as those that missed most slots.
MAX_LATE: Final = 8
#: Characters of a sentence (why a line is down, why a session ends) and of a version, hash, id or cause.
MAX_SENTENCE: Final = 200
MAX_WORD: Final = 100

#: Remote hands: so many deeds at once on a gateway, so many bytes of output each, in pieces, each for so long at most.
MAX_DEEDS: Final = 4
MAX_DEED_BYTES: Final = 16 * 1024**2
MAX_PIECE_BYTES: Final = 32 * 1024
DEED_S: Final = (1, 3600)

#: The heartbeat interval a controller may ask for, in seconds: below, heartbeats crowd out readings on a slow
#: link; above, "online" says nothing.
HEARTBEAT_S: Final = (0.1, 3600.0)
#: The longest a controller may send an agent away, in seconds: after that it tries again whatever was said.
MAX_RETRY_AFTER_S: Final = 3600.0
