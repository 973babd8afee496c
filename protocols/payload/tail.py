"""Command `parkfleet tail`: what a consumer sees, decoded, as it arrives."""

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from parkfleet.protocols.config import BrokerConfig
    from parkfleet.protocols.payload.consumer import Output, Reading
    from parkfleet.protocols.payload.memory import Range

app = typer.Typer(add_completion=False)

_EXAMPLES = """Examples:

    parkfleet tail --broker mqtt://127.0.0.1:1883

    parkfleet tail --broker mqtt://127.0.0.1:1883 --park demo --json | jq 'select(.quality != "good")'

Duplicates are removed; gaps, events and messages that cannot be used are told (with --json: on stderr).

Exit codes: 0 ended by Ctrl-C or --count, 1 the broker cannot be reached or ended the connection."""


@app.command(epilog=_EXAMPLES)
def tail(
    broker: Annotated[str, typer.Option(help="mqtt://host:port or mqtts://host:port; it must speak MQTT 5.")],
    park: Annotated[str, typer.Option(help="Only this park.")] = "+",
    gateway: Annotated[str, typer.Option(help="Only this gateway.")] = "+",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a reading and line.")] = False,
    count: Annotated[int | None, typer.Option(min=1, help="Leave after so many readings.")] = None,
    gap_age: Annotated[float, typer.Option(min=0.1, help="Tell a gap when nothing fills it for so many seconds.")] = 30,
    ca: Annotated[str | None, typer.Option(help="mqtts: file with the authority's certificate.")] = None,
    cert: Annotated[str | None, typer.Option(help="mqtts: file with our certificate.")] = None,
    key: Annotated[str | None, typer.Option(help="mqtts: file with our key.")] = None,
    username: Annotated[str | None, typer.Option(help="User name at the broker.")] = None,
    password_file: Annotated[str | None, typer.Option(help="File with the password.")] = None,
) -> None:
    """See what a consumer sees: every reading once, with its time and quality."""
    from parkfleet.protocols.config import BrokerConfig
    from parkfleet.protocols.mqtt import BrokerError

    try:
        settings = BrokerConfig(broker, ca=ca, cert=cert, key=key, username=username, password_file=password_file)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--broker") from None
    try:
        asyncio.run(_tail(settings, f"pf/v1/{park}/{gateway}/#", as_json, count, gap_age))
    except BrokerError as error:
        typer.echo(f"tail: {error}", err=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        raise typer.Exit(0) from None
    except BrokenPipeError:  # whoever read our output has enough
        sys.stderr.close()
        raise typer.Exit(0) from None


async def _tail(broker: "BrokerConfig", topics: str, as_json: bool, count: int | None, gap_age: float) -> None:
    """Prints until the connection ends or count readings are out. Raises BrokerError."""
    import secrets

    from parkfleet.protocols.mqtt import BrokerError, MqttConnection
    from parkfleet.protocols.payload.consumer import BatchDecoded, Consumer

    consumer = Consumer(gap_age=gap_age)
    messages: asyncio.Queue[tuple[str, bytes] | None] = asyncio.Queue()
    connection = await MqttConnection.open(
        broker,
        f"parkfleet-tail-{secrets.token_hex(4)}",
        on_message=lambda topic, payload, _: messages.put_nowait((topic, payload)),
    )
    connection.lost.add_done_callback(lambda _: messages.put_nowait(None))
    try:
        await connection.subscribe(topics)
        while True:
            try:
                async with asyncio.timeout(min(gap_age, 1.0)):
                    message = await messages.get()
            except TimeoutError:
                outputs = consumer.due()
            else:
                if message is None:
                    break
                outputs = consumer.feed(*message)
            for output in outputs:
                if not isinstance(output, BatchDecoded):
                    _tell(output, as_json)
                    continue
                for reading in output.readings():
                    print(_as_json(reading) if as_json else _in_columns(reading))
                    count = count if count is None else count - 1
                    if count == 0:
                        return
            sys.stdout.flush()
        raise BrokerError(connection.lost.result())
    finally:
        await connection.close()


def _as_json(reading: "Reading") -> str:
    from parkfleet.protocols.payload.consumer import reading_json

    return reading_json(reading)


def _in_columns(reading: "Reading") -> str:
    from datetime import UTC, datetime

    time = datetime.fromtimestamp(reading.ts / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    value = "-" if reading.value is None else f"{reading.value} {reading.unit}".rstrip()
    quality = "" if reading.quality == "good" else f"  [{reading.quality}]"
    return f"{time}  {reading.park}/{reading.gateway}  {reading.meter}  {reading.point:24} {value}{quality}"


def _tell(output: "Output", as_json: bool) -> None:
    """Gaps, events, states and rejected messages, in a sentence; duplicates are not worth one."""
    from parkfleet.protocols.payload.consumer import EventSeen, GapLost, GapSeen, Rejected, StatusSeen

    match output:
        case GapSeen():
            told = f"gap: {_ranges(output.gaps)} of {output.source.gateway} have not come"
        case GapLost():
            told = f"gone: {output.source.gateway} has {_ranges(output.gaps)} no more"
        case EventSeen():
            told = f"event of {output.topic.gateway}: {output.event.kind}: {output.event.text}"
        case StatusSeen():
            told = f"{output.topic.gateway} is {output.status.state}"
        case Rejected():
            told = f"not usable, {output.topic}: {output.reason}"
        case _:
            return
    print(f"# {told}", file=sys.stderr if as_json else sys.stdout)


def _ranges(gaps: "tuple[Range, ...]") -> str:
    """Batches 3, 5 to 9; the first few of many."""
    told = [str(first) if first == last else f"{first} to {last}" for first, last in gaps[:5]]
    return f"batches {', '.join(told)}" + (f" and {len(gaps) - 5} more ranges" if len(gaps) > 5 else "")
