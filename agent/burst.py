"""Burst: a few requests one right behind the other, and what became of each."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from parkfleet.agent.transport import LineDownError
from parkfleet.protocols.modbus.pdu import AnswerTimeoutError, ExceptionAnswerError, ModbusError, Request
from parkfleet.protocols.quality import EXCEPTION, Quality

#: Codes after which an answer may come yet.
NO_ANSWER: Final = frozenset({Quality.TIMEOUT, Quality.CORRUPT})


def outcome(error: ModbusError | LineDownError) -> int:
    """The quality code of what keeps a request from giving values."""
    if isinstance(error, LineDownError):
        return Quality.DISCONNECTED
    if isinstance(error, ExceptionAnswerError):
        return EXCEPTION | error.code
    return Quality.TIMEOUT if isinstance(error, AnswerTimeoutError) else Quality.CORRUPT


async def burst(
    transact: Callable[[Request[object], float], Awaitable[object]],
    requests: Sequence[tuple[float, Request[object]]],
    timeout: float,
) -> list[int]:
    """Sends requests, each after a pause in seconds; their quality codes, 0 for values. Raises LineDownError.

    RTU has no transaction id: after one that is not answered as long again is waited, so that a late answer is never
    taken for that of the next. After the last that is the caller's to keep.
    """
    codes: list[int] = []
    for pause, request in requests:
        late = codes and codes[-1] in NO_ANSWER
        await asyncio.sleep(pause + (timeout if late else 0.0))  # the silence that is to be tried
        try:
            await transact(request, timeout)
        except ModbusError as error:
            codes.append(outcome(error))
        else:
            codes.append(Quality.GOOD)
    return codes
