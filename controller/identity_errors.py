"""Identity errors: why somebody does not get in, in a sentence for him."""

from enum import Enum


class Fault(Enum):
    """Whose fault it is, for the status of a call."""

    UNPROVEN = "unproven"  # who he says he is, he has not proven
    REFUSED = "refused"  # he has, and may not
    TAKEN = "taken"  # the name is another's
    UNKNOWN = "unknown"  # what he names does not exist
    WRONG = "wrong"  # what he says makes no sense
    BUSY = "busy"  # later perhaps


class IdentityError(Exception):
    """A refusal; the message is the sentence."""

    def __init__(self, fault: Fault, told: str) -> None:
        super().__init__(told)
        self.fault = fault
