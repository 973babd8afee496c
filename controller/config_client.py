"""ConfigClient: the fleet's configuration as the command line and scripts ask for it."""

import json
from collections.abc import AsyncIterable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from grpc import aio

from parkfleet.controller.client import FleetClient, FleetError
from parkfleet.proto import config_pb2 as pb
from parkfleet.proto.config_pb2_grpc import FleetConfigurationStub
from parkfleet.protocols.document import Problem

if TYPE_CHECKING:
    from parkfleet.proto.config_pb2_grpc import FleetConfigurationAsyncStub  # only its stub file has it

#: An answer from memory and one file. Seconds.
ANSWER_S: Final = 10.0
#: A change of a region with 10,000 gateways: each document is made and checked twice. Seconds.
CHANGE_S: Final = 300.0


@dataclass
class Outcome:
    """What a change does, and whether it was stored."""

    layer: list[pb.KeyChange] = field(default_factory=list)
    gateways: list[pb.GatewayImpact] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    result: pb.ChangeResult = field(default_factory=pb.ChangeResult)

    @property
    def good(self) -> bool:
        """Whether nothing is wrong with it."""
        return not self.result.problems

    def as_json(self) -> dict[str, Any]:
        """As it stands in --json."""
        stored = self.result.stored
        return {
            "stored": info_json(stored) if self.result.HasField("stored") else None,
            "changes": [change_json(change) for change in self.layer],
            "gateways": [impact_json(impact) for impact in self.gateways],
            "touched": self.result.gateways,
            "problems": [problem._asdict() for problem in self.problems],
            "problem_count": self.result.problems,
            "warnings": [problem._asdict() for problem in self.warnings],
        }


class ConfigClient:
    """The configuration of a controller whose FleetClient is open. Every method raises FleetError."""

    def __init__(self, fleet: FleetClient) -> None:
        self._fleet = fleet
        self._stub: FleetConfigurationAsyncStub = FleetConfigurationStub(fleet.channel)

    async def call(self, method: str, request: Any) -> Any:
        """One call with one answer, by the method's name in proto/config.proto."""
        try:
            return await getattr(self._stub, method)(request, timeout=ANSWER_S)
        except aio.AioRpcError as error:
            raise self._fleet.told(error) from None

    async def change(
        self, request: pb.ChangeLayerRequest, progress: Callable[[int, int], None] = lambda done, of: None
    ) -> Outcome:
        """Changes a layer, or shows what that would do."""
        return await self._outcome(self._stub.ChangeLayer(request, timeout=CHANGE_S), progress)

    async def validate(
        self, park: str = "", gateway: str = "", progress: Callable[[int, int], None] = lambda done, of: None
    ) -> Outcome:
        """Checks the documents of gateways."""
        request = pb.ValidateRequest(park=park, gateway=gateway)
        return await self._outcome(self._stub.Validate(request, timeout=CHANGE_S), progress)

    async def _outcome(self, events: AsyncIterable[pb.ChangeEvent], progress: Callable[[int, int], None]) -> Outcome:
        outcome = Outcome()
        finished = False
        try:
            async for event in events:
                match event.WhichOneof("event"):
                    case "layer":
                        outcome.layer.extend(event.layer.changes)
                    case "gateway":
                        outcome.gateways.append(event.gateway)
                    case "problem":
                        kept = outcome.warnings if event.problem.warning else outcome.problems
                        kept.append(problem_of(event.problem))
                    case "progress":
                        progress(event.progress.done, event.progress.of)
                    case "result":
                        outcome.result = event.result
                        finished = True
        except aio.AioRpcError as error:
            raise self._fleet.told(error) from None
        if not finished:
            raise FleetError("the controller ended its answer early: whether it stored anything, its history says")
        return outcome


def problem_of(message: pb.ConfigProblem) -> Problem:
    """A problem as the controller told it."""
    return Problem(message.file, message.line, message.column, message.where, message.message)


def info_json(info: pb.RevisionInfo) -> dict[str, Any]:
    """A revision, as it stands in --json."""
    return {
        "revision": info.revision,
        "layer": info.layer,
        "author": info.author,
        "reason": info.reason,
        "at": info.at_ms,
    }


def change_json(change: pb.KeyChange) -> dict[str, Any]:
    """One value that differs; before and after only where there was one."""
    found: dict[str, Any] = {"key": change.key}
    for side in ("before", "after"):
        if change.HasField(side):
            found[side] = json.loads(getattr(change, side))
    return found


def impact_json(impact: pb.GatewayImpact) -> dict[str, Any]:
    """What becomes of a gateway."""
    return {
        "park": impact.park,
        "gateway": impact.gateway,
        "changes": [change_json(change) for change in impact.changes],
        "meters": {
            "gained": list(impact.gains),
            "lost": list(impact.loses),
            "changed": list(impact.changes_meters),
        },
    }
