"""ConfigService: what operators do with the fleet's configuration, over gRPC."""

import math
from collections.abc import AsyncIterator
from typing import Any, Final, NoReturn, TypeAlias

import grpc
from grpc import aio

from parkfleet.controller.caller import caller, visible_gateways
from parkfleet.controller.config_access import permit, visible_layers
from parkfleet.controller.config_defaults import model_default
from parkfleet.controller.config_diff import diff
from parkfleet.controller.config_edit import layer_text, parse_value, refused, with_setting, without_setting
from parkfleet.controller.config_fleet import ConfigFleet, Proposal
from parkfleet.controller.config_layers import LayerName, read_layer, says
from parkfleet.controller.config_merge import Tree, parse_path
from parkfleet.controller.config_messages import (
    MAX_CHANGES,
    changes_message,
    impact_message,
    json_text,
    moment_of,
    problem_message,
    revision_info,
    secret_info,
)
from parkfleet.controller.config_store import ConflictError, Moment
from parkfleet.controller.registry import GatewayKey
from parkfleet.proto import config_pb2 as pb
from parkfleet.proto.config_pb2_grpc import FleetConfigurationServicer
from parkfleet.protocols.document import Document, DocumentError, Problem
from parkfleet.protocols.secret import MAX_SECRET_BYTES, is_secret_name

Context: TypeAlias = aio.ServicerContext[Any, Any]

#: Characters of an author's name and of a reason.
MAX_AUTHOR: Final = 100
MAX_REASON: Final = 500
#: Revisions of a history, unless told, and at most.
HISTORY: Final = (20, 200)
#: Mistakes that are told of a change; 10,000 gateways with the same one help nobody.
MAX_PROBLEMS: Final = 100


class ConfigService(FleetConfigurationServicer):
    """The service of layers, documents and secrets."""

    def __init__(self, fleet: ConfigFleet) -> None:
        self._fleet = fleet

    async def ListLayers(self, request: pb.ListLayersRequest, context: Context) -> pb.ListLayersResponse:
        """The newest revision of each layer, by name."""
        heads = [head for head in self._fleet.heads() if str(head.layer).startswith(request.prefix)]
        return pb.ListLayersResponse(layers=map(revision_info, visible_layers(heads, self._fleet)))

    async def GetLayer(self, request: pb.GetLayerRequest, context: Context) -> pb.Layer:
        """A layer, now or at a moment."""
        layer = await self._layer(request.layer, context)
        found = await self._fleet.head(layer, moment_of(request.moment))
        info = revision_info(found) if found else pb.RevisionInfo(layer=str(layer))
        return pb.Layer(info=info, document=layer_text(found.tree) if found else "")

    async def ChangeLayer(self, request: pb.ChangeLayerRequest, context: Context) -> AsyncIterator[pb.ChangeEvent]:
        """What a change does to each gateway, then its storing."""
        layer = await self._layer(request.layer, context)
        author, reason = await self._signed(request.author, request.reason, request.dry_run, context)
        try:
            document = await self._draft(layer, request)
            tree = read_layer(layer, document)
        except DocumentError as error:
            for problem in error.problems[:MAX_PROBLEMS]:
                yield pb.ChangeEvent(problem=problem_message(problem))
            yield pb.ChangeEvent(result=pb.ChangeResult(problems=len(error.problems)))
            return
        except ValueError as error:
            await _refuse(context, str(error))
        proposal = self._fleet.propose(layer, tree, document, request.base if request.HasField("base") else None)
        permit(proposal, self._fleet.held(layer), request.dry_run)
        yield pb.ChangeEvent(layer=pb.LayerDiff(changes=changes_message(proposal.changes)))
        async for event in self._told(proposal):
            yield event
        yield await self._stored(proposal, author, reason, request.dry_run, context)

    async def GetHistory(self, request: pb.GetHistoryRequest, context: Context) -> pb.GetHistoryResponse:
        """The revisions of a layer with what each changed, the newest first."""
        layer = await self._layer(request.layer, context)
        limit = min(request.limit or HISTORY[0], HISTORY[1])
        found = await self._fleet.store.history(layer, limit + 1)
        before: list[Tree] = [*(older.tree for older in found[1:]), {}]
        entries = [
            pb.HistoryEntry(
                info=revision_info(one), changes=changes_message(diff(older, one.tree), MAX_CHANGES // limit + 1)
            )
            for one, older in zip(found, before, strict=True)
        ]
        return pb.GetHistoryResponse(entries=entries[:limit])

    async def DiffLayer(self, request: pb.DiffLayerRequest, context: Context) -> pb.DiffLayerResponse:
        """What changed in a layer between two revisions."""
        layer = await self._layer(request.layer, context)
        store = self._fleet.store
        after = await store.head(layer, Moment(number=request.after) if request.after else None)
        number = request.before or (after.number - 1 if after else 0)
        before = await store.head(layer, Moment(number=number)) if after else None
        if after is None:
            await _refuse(context, f"{layer} has no revision yet: `parkfleet fleet config edit {layer}`")
        nothing = pb.RevisionInfo(layer=str(layer))
        return pb.DiffLayerResponse(
            before=revision_info(before) if before else nothing,
            after=revision_info(after),
            changes=changes_message(diff(before.tree if before else {}, after.tree)),
        )

    async def GetEffective(self, request: pb.GetEffectiveRequest, context: Context) -> pb.EffectiveConfiguration:
        """What a gateway should run and what it had reported, now or at a moment."""
        key, moment = GatewayKey(request.park, request.gateway), moment_of(request.moment)
        desired = await self._fleet.desired_at(key, moment)
        answer = pb.EffectiveConfiguration(managed=desired is not None)
        if desired is not None:
            answer.revision, answer.hash = desired.revision, desired.hash()
            answer.document = layer_text(desired.document)
            answer.layers.extend(map(revision_info, desired.layers))
        if desired is not None and moment is None and (verdict := self._fleet.check(key)):
            answer.problems.extend(map(problem_message, verdict.problems[:MAX_PROBLEMS]))
            answer.problems.extend(problem_message(one, warning=True) for one in verdict.warnings[:MAX_PROBLEMS])
        at_ms = None if moment is None else moment.at_ms
        if moment is not None and moment.number is not None:
            at_ms = await self._fleet.store.at_of(moment.number)
        report = await self._fleet.store.report(key, at_ms)
        if report is not None:
            words = (report.at_ms, report.revision, report.hash, report.state, report.reason)
            at, revision, name, state, reason = words
            answer.reported.CopyFrom(
                pb.ReportedConfiguration(at_ms=at, revision=revision, hash=name, state=state, reason=reason)
            )
        return answer

    async def Explain(self, request: pb.ExplainRequest, context: Context) -> pb.ExplainResponse:
        """What each layer says of a key of a gateway."""
        key = GatewayKey(request.park, request.gateway)
        try:
            path = parse_path(request.key)
            default = model_default(path)
        except ValueError as error:
            await _refuse(context, str(error))
        desired = await self._fleet.desired_at(key, moment_of(request.moment))
        if desired is None:
            await _refuse(context, f"{key} is not managed: it has no layer gateway/{key}", grpc.StatusCode.NOT_FOUND)
        sayings = [pb.Saying(info=revision_info(one), value=json_text(value)) for one, value in says(desired, path)]
        return pb.ExplainResponse(sayings=sayings, model_default=default or "")

    async def Validate(self, request: pb.ValidateRequest, context: Context) -> AsyncIterator[pb.ChangeEvent]:
        """Checks gateways one by one."""
        keys = [key for key in sorted(self._fleet.gateways()) if request.park in ("", key.park)]
        keys = visible_gateways([key for key in keys if request.gateway in ("", key.gateway)])
        problems = 0
        for number, key in enumerate(keys, 1):
            verdict = self._fleet.check(key)
            for problem in verdict.problems if verdict else ():
                problems += 1
                if problems <= MAX_PROBLEMS:
                    yield pb.ChangeEvent(problem=problem_message(problem))
            if number % 16 == 0:
                yield pb.ChangeEvent(progress=pb.Progress(done=number, of=len(keys)))
        yield pb.ChangeEvent(result=pb.ChangeResult(gateways=len(keys), problems=problems))

    async def SetSecret(self, request: pb.SetSecretRequest, context: Context) -> pb.SecretInfo:
        """Keeps a secret, or forgets it. The value is in no answer and no log."""
        author, reason = await self._signed(request.author, request.reason, False, context)
        if not is_secret_name(request.name):
            await _refuse(context, "a secret's name is 1 to 64 letters, digits, '_' or '-'")
        if not request.remove and not 1 <= len(request.value) <= MAX_SECRET_BYTES:
            await _refuse(context, f"a secret has 1 to {MAX_SECRET_BYTES} bytes, this one {len(request.value)}")
        if request.remove and request.name not in self._fleet.secrets:
            await _refuse(context, f"there is no secret {request.name!r}", grpc.StatusCode.NOT_FOUND)
        value = None if request.remove else request.value
        return secret_info(await self._fleet.set_secret(request.name, value, author, reason))

    async def ListSecrets(self, request: pb.ListSecretsRequest, context: Context) -> pb.ListSecretsResponse:
        """Names and last changes."""
        return pb.ListSecretsResponse(secrets=map(secret_info, self._fleet.secrets.values()))

    async def _draft(self, layer: LayerName, request: pb.ChangeLayerRequest) -> Document:
        """The layer as the request wants it. Raises DocumentError, ValueError."""
        kind = request.WhichOneof("change")
        if kind == "document":
            return Document(request.file or str(layer), request.document)
        head = await self._fleet.head(layer)
        tree = head.tree if head else {}
        if kind == "rollback":
            past = await self._fleet.store.revision(request.rollback)
            if past is None or past.layer != layer:
                raise ValueError(f"{layer} has no revision {request.rollback}: see `fleet config history {layer}`")
            tree = past.tree
        elif kind != "settings":
            raise ValueError("the request says no change")
        for setting in request.settings.settings:
            try:
                if setting.unset:
                    tree = without_setting(tree, setting.key)
                else:
                    tree = with_setting(tree, setting.key, parse_value(setting.key, setting.value))
            except ValueError as error:
                raise refused(setting.key, str(error)) from None
        return Document(str(layer), layer_text(tree))

    async def _told(self, proposal: Proposal) -> AsyncIterator[pb.ChangeEvent]:
        """Each gateway's impact, as it is found, and what is wrong."""
        told: set[Problem] = set(proposal.problems)
        for problem in proposal.problems[:MAX_PROBLEMS]:
            yield pb.ChangeEvent(problem=problem_message(problem))
        steps = max(1, math.ceil(len(proposal.touched) / 100))
        number = 0
        async for impact in self._fleet.impacts(proposal):
            number += 1
            yield pb.ChangeEvent(gateway=impact_message(impact))
            words = [(one, False) for one in impact.verdict.problems] + [(one, True) for one in impact.verdict.warnings]
            for problem, warning in words:
                if problem not in told and len(told) < MAX_PROBLEMS:
                    told.add(problem)
                    yield pb.ChangeEvent(problem=problem_message(problem, warning))
            if number % steps == 0:
                yield pb.ChangeEvent(progress=pb.Progress(done=number, of=len(proposal.touched)))

    async def _stored(
        self, proposal: Proposal, author: str, reason: str, dry_run: bool, context: Context
    ) -> pb.ChangeEvent:
        """The last event; stores the proposal when nothing is wrong with it and it is meant to be stored."""
        result = pb.ChangeResult(gateways=len(proposal.touched), problems=len(proposal.problems))
        if not proposal.problems and proposal.changes and not dry_run:
            try:
                result.stored.CopyFrom(revision_info(await self._fleet.store_proposal(proposal, author, reason)))
            except ConflictError as error:
                await _refuse(context, str(error), grpc.StatusCode.ABORTED)
        return pb.ChangeEvent(result=result)

    async def _layer(self, name: str, context: Context) -> LayerName:
        try:
            return LayerName.parse(name)
        except ValueError as error:
            await _refuse(context, str(error))

    async def _signed(self, given: str, reason: str, dry_run: bool, context: Context) -> tuple[str, str]:
        """Author and reason of a change; both are needed, and bounded. given: the author where nobody signs in."""
        author, reason = (caller().principal.signature or given).strip(), reason.strip()
        if not dry_run and not (author and reason):
            await _refuse(context, "a change has an author and a reason: add --reason WHY")
        if len(author) > MAX_AUTHOR or len(reason) > MAX_REASON:
            await _refuse(context, f"an author has at most {MAX_AUTHOR} characters, a reason {MAX_REASON}")
        return author, reason


async def _refuse(context: Context, told: str, code: grpc.StatusCode = grpc.StatusCode.INVALID_ARGUMENT) -> NoReturn:
    await context.abort(code, told)
    raise AssertionError("abort() raises")
