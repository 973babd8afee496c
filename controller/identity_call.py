"""Identity call: one call of the identity service from the command line."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import typer

from parkfleet.controller.call import fleet_client, run_call

if TYPE_CHECKING:
    from parkfleet.proto.identity_pb2_grpc import FleetIdentityAsyncStub

#: A commit, and a list of revoked certificates written. Seconds.
ANSWER_S = 20.0


def identity_call(controller: str, ask: Callable[["FleetIdentityAsyncStub"], Awaitable[Any]]) -> Any:
    """The answer to a question. Every failure becomes a sentence and an exit code."""
    from grpc import aio

    from parkfleet.proto.identity_pb2_grpc import FleetIdentityStub

    answers: list[Any] = []

    async def work() -> None:
        async with fleet_client(controller) as fleet:
            try:
                answers.append(await ask(FleetIdentityStub(fleet.channel)))
            except aio.AioRpcError as error:
                raise fleet.told(error) from None

    run_call(controller, work())
    return answers[0]


def span_ms(text: str, option: str) -> int:
    """ms of a duration such as 7d. Ends the command when it is none."""
    from parkfleet.protocols.quantity import Duration

    try:
        return round(Duration.parse(text) * 1000)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None
