"""Messages of the session, made from the agent's plain data and kept within their limits: a controller that
refused them would help nobody, so what is too long is shortened here."""

from collections.abc import Mapping
from itertools import islice

from parkfleet.agent.status import AgentFacts, AgentSnapshot, ConfigurationName, Desired, LineReport, ReportedState
from parkfleet.proto import common_pb2, limits
from parkfleet.proto.session_pb2 import AgentMessage, DesiredConfiguration, Goodbye


def hello_message(facts: AgentFacts) -> AgentMessage:
    """The first message."""
    return AgentMessage(
        hello=common_pb2.Hello(
            park=facts.park,
            gateway=facts.gateway,
            agent_version=_word(facts.version),
            boot_id=_word(facts.boot_id),
            protocol=limits.PROTOCOL_VERSION,
            lines=facts.lines,
            meters=facts.meters,
            configuration_hash=_word(facts.configuration_hash),
        )
    )


def heartbeat_message(snapshot: AgentSnapshot, sequence: int, sent_ms: int) -> AgentMessage:
    """A heartbeat, with as many lines and words as there is room for."""
    heartbeat = common_pb2.Heartbeat(
        sent_ms=sent_ms,
        sequence=sequence,
        uptime_s=int(snapshot.uptime_s),
        buffer=common_pb2.Buffer(
            batches=snapshot.buffer.batches,
            readings=snapshot.buffer.readings,
            bytes=snapshot.buffer.bytes,
            oldest_ts=snapshot.buffer.oldest_ts,
            last_seq=snapshot.buffer.last_seq,
            epoch=snapshot.buffer.epoch,
            thinned_readings=snapshot.buffer.thinned_readings,
            dropped_readings=snapshot.buffer.dropped_readings,
        ),
        delivered=common_pb2.Delivered(
            batches=snapshot.delivered.batches,
            readings=snapshot.delivered.readings,
            bytes=snapshot.delivered.bytes,
        ),
        broker=common_pb2.Broker(connected=snapshot.broker.connected, told=_sentence(snapshot.broker.told)),
        lines=[_line(line) for line in snapshot.lines[: limits.MAX_LINES]],
        meters_ok=snapshot.meters_ok,
        meters_bad=snapshot.meters_bad,
        rss_bytes=snapshot.rss_bytes,
        alarms=snapshot.alarms,
    )
    if heartbeat.ByteSize() > limits.MAX_HEARTBEAT_BYTES:
        for line in heartbeat.lines:  # the words go first; what is left of a thousand lines is 90 kB
            line.ClearField("told")
            line.ClearField("errors")
            line.ClearField("late")
    return AgentMessage(heartbeat=heartbeat)


def status_message(state: ReportedState) -> AgentMessage:
    """What the gateway runs."""
    failed = None
    if state.last_failed is not None:
        failed = common_pb2.FailedConfiguration(
            configuration=_configuration(state.last_failed), reason=_sentence(state.failure)
        )
    return AgentMessage(
        status=common_pb2.ReportedState(
            release=_word(state.release),
            running=_configuration(state.running),
            last_received=None if state.last_received is None else _configuration(state.last_received),
            last_failed=failed,
            on_trial=state.on_trial,
        )
    )


def desired_configuration(message: DesiredConfiguration) -> Desired:
    """What the controller sends, as the agent's own data."""
    name = ConfigurationName(message.configuration.revision, _word(message.configuration.hash))
    return Desired(name, message.document, dict(message.secrets))


def goodbye_message(reason: str) -> AgentMessage:
    """The last message."""
    return AgentMessage(goodbye=Goodbye(reason=_sentence(reason)))


def _line(line: LineReport) -> common_pb2.LineStatus:
    return common_pb2.LineStatus(
        id=_word(line.id),
        load=min(max(line.load, 0.0), 1.0),
        requests=line.requests,
        errors={_word(cause): count for cause, count in islice(line.errors.items(), limits.MAX_CAUSES)},
        up=line.up,
        told=_sentence(line.told),
        missed=line.missed,
        late={_word(meter): count for meter, count in _worst(line.late)},
    )


def _worst(late: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(late.items(), key=lambda item: (-item[1], item[0]))[: limits.MAX_LATE]


def _configuration(name: ConfigurationName) -> common_pb2.Configuration:
    return common_pb2.Configuration(revision=name.revision, hash=_word(name.hash))


def _word(text: str) -> str:
    return _valid(text)[: limits.MAX_WORD]


def _sentence(text: str) -> str:
    return _valid(text)[: limits.MAX_SENTENCE]


def _valid(text: str) -> str:
    """Text that protobuf takes: an error message may quote bytes that are no UTF-8."""
    return text.encode("utf-8", "replace").decode("utf-8")
