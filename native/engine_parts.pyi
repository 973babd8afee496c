"""Engine parts: pieces of the line engine on their own, for tests and fuzzing."""

from collections.abc import Iterable, Mapping, Sequence

from parkfleet.native.spec import LineSpec, MeterSpec

def decode_answer(
    meter_spec: MeterSpec, request: int, data: bytes
) -> tuple[Sequence[int], bytes, bytes, Sequence[float]]:
    """(slots, quality, texts, values) of one request's values. Raises ValueError for a wrong byte count."""

def search_answer(line_spec: LineSpec, chunks: Iterable[bytes]) -> tuple[str, bytes | int]:
    """What an RTU line's first request finds in bytes as they come: for tests and fuzzing.

    ("answer", values), ("refusal", exception code), ("wrong", frames passed over) or ("more", the same).
    """

def probes_of_silent(
    line_spec: LineSpec, taught: Mapping[int, int], silent: Mapping[int, int], span_ns: int
) -> list[tuple[int, int, int]]:
    """When each silent unit of a line is asked by the engine's rules, in a time of its own: for tests.

    taught: by unit, the turnaround in ns that it had. silent: those that are from 0 on, and when they answer again.
    (unit, asked at, waited) of each probe until span_ns, in ns; the wait, with its wire time, is 0 when it answered.
    """
