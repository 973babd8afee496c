"""Codecs 2 and 3, compiled and pure: bit-exact both ways, the same bytes from both, chains that never lie."""

import random
from array import array
from collections.abc import Callable
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parkfleet.protocols.payload.chain import CHAINED, KEY, Decoder, Encoder, coding, native, pure
from parkfleet.protocols.payload.chain.coding import MAX_PRIMER_READINGS, Chain, begin_chain
from parkfleet.protocols.payload.chain.prior import Prior, built_in
from parkfleet.protocols.payload.codecs import decode, encode
from parkfleet.protocols.payload.errors import ChainError, PayloadError
from parkfleet.protocols.payload.schema import MAX_PRIMER, MAX_PRIMER_BYTES, Schema
from parkfleet.protocols.payload.series import Column, Entry, Rows
from tests.payload.strategies import batches, blocks, float32_bits, float64_bits, schemas
from tests.payload.test_codec import damaged, rows_of, schema_of

Begin = Callable[..., Chain]
BEGINS: dict[str, Begin] = {"pure": pure.Chain, "native": native.Chain}
T0 = 1_700_000_000_000


@pytest.fixture(params=list(BEGINS))
def begin(request: pytest.FixtureRequest) -> Begin:
    return BEGINS[request.param]


@cache
def blank() -> Prior:
    return Prior.blank()


@st.composite
def runs(draw: st.DrawFn) -> tuple[Schema, list[tuple[bool, list[Rows]]]]:
    """A schema and a few batches of it, one after the other; whether a pause comes before each."""
    schema = draw(schemas())
    run = []
    for _ in range(draw(st.integers(1, 5))):
        chosen = draw(st.sets(st.integers(0, len(schema.entries) - 1)))
        run.append((draw(st.booleans()), [draw(blocks(schema, entry)) for entry in sorted(chosen)]))
    return schema, run


def paused(chain: Chain) -> Chain:
    """What knows the same behind a pause."""
    chain.pause()
    return chain.copy()


@settings(max_examples=150, deadline=None)
@given(runs())
def test_chain_gives_back_what_was_encoded(run: tuple[Schema, list[tuple[bool, list[Rows]]]]) -> None:
    """Every slot, quality, time and text of each batch comes back to the bit; both sides write the same bytes.

    Also the last one's, of which the compiled coder keeps nothing.
    """
    schema, batches = run
    chains: list[Chain] = [b(schema, built_in()) for b in (pure.Chain, native.Chain, pure.Chain, native.Chain)]
    for number, (pause, rows) in enumerate(batches, 1):
        if pause:
            chains = list(map(paused, chains))
        body, last = chains[0].encode(rows), number == len(batches)
        assert chains[1].encode(rows, last) == body
        assert chains[2].decode(body) == rows
        assert chains[3].decode(body, last) == rows


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_chain_of_plausible_meters(data: st.DataObject) -> None:
    """Walks, counters and repetitions reach every forecast and context; native and pure agree on each byte of them."""
    chance = random.Random(data.draw(st.integers(0, 2**32)))
    columns = (
        Column("u", "V", "float32", "gauge", digits=1),
        Column("p", "W", "int", "gauge"),
        Column("e", "kWh", "int", "counter"),
        Column("m", "", "float64", "gauge", digits=3),
        Column("s", "", "int", "state"),
    )
    schema = Schema(tuple(Entry(name, "p", "power", columns) for name in "ab"))
    scale, grain = chance.choice([1, 30, 3000, 2**33]), chance.choice([1, 1, 5, 78125])
    level, energy = 230.0, chance.choice([0, 10**6, -(2**63)])
    chains: list[Chain] = [
        native.Chain(schema, built_in()),
        pure.Chain(schema, built_in()),
        native.Chain(schema, blank()),
    ]
    for batch in range(6):
        if batch > 1:
            chains = list(map(paused, chains))
        rows = [Rows(0), Rows(1)]
        for at in range(chance.choice([1, 5, 30])):
            for block in rows:
                level += chance.choice([0, 0, 0.1, -0.1])
                power = chance.randint(-scale, scale) * grain
                energy = min(energy + abs(power) // 7, 2**63 - 1)
                slots = [float32_bits(round(level, 1)), power, energy, float64_bits(power / 1000), at // 9]
                block.ts.append(T0 + 700_000 * batch + 1000 * at + chance.choice([0] * 9 + [3]))
                block.slots.extend(slots)
                block.quality.extend(bytes(5))
        bodies = [chain.encode(rows) for chain in chains]
        assert bodies[0] == bodies[1]
        assert decode(KEY, schema, begin_chain(schema).encode(rows)) == rows


@settings(max_examples=100, deadline=None)
@given(batches(), st.integers(0, 2**32))
def test_damaged_body_is_refused_or_read_alike(batch: tuple[Schema, list[Rows]], seed: int) -> None:
    """A body with bytes changed, cut or added is a PayloadError or rows, the same from both decoders."""
    schema, rows = batch
    body = encode(schema, rows)
    chance = random.Random(seed)
    for _ in range(4):
        bad = damaged(body, chance)
        assert outcome(pure.Chain, schema, bad) == outcome(native.Chain, schema, bad)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.binary(max_size=60), min_size=1, max_size=4), schemas())
def test_random_body(bodies: list[bytes], schema: Schema) -> None:
    """Random bytes never do more than raise PayloadError."""
    for body in bodies:
        assert outcome(pure.Chain, schema, body) == outcome(native.Chain, schema, body)


def outcome(begin: Begin, schema: Schema, body: bytes) -> list[Rows] | str:
    """The rows, or what is wrong with the body; a low bound, as pure Python takes minutes for the real one."""
    chain = begin(schema, built_in(), most=200)
    try:
        return chain.decode(body)
    except PayloadError as error:
        return str(error)


def test_readings_are_bounded(begin: Begin) -> None:
    """A few bytes may stand for very many equal readings: the bound holds before memory is taken."""
    schema = schema_of(Column("p", "V", "int", "gauge"))
    body = begin(schema, built_in()).encode([rows_of(*[[7]] * 300)])
    assert len(body) < 30
    with pytest.raises(PayloadError, match="more than 299 readings together"):
        begin(schema, built_in(), most=299).decode(body)


def test_steady_meter_costs_nothing_more(begin: Begin) -> None:
    """Regular times and values that stay: a thousand rows cost little more than a hundred."""
    schema = schema_of(*[Column(f"p{n}", "V", "float32", "gauge") for n in range(3)])
    slots = [float32_bits(230.1)] * 3
    sizes = [len(begin(schema, built_in()).encode([rows_of(*[slots] * count)])) for count in (100, 1000)]
    assert sizes[1] - sizes[0] <= 6


def test_regular_times_cost_nothing() -> None:
    """An hour of seconds with a late start and one gap: below a byte for 100 rows."""
    schema = schema_of()
    ts = array("q", [T0 + 217 + 1000 * row + (5000 if row > 1800 else 0) for row in range(3600)])
    assert len(encode(schema, [Rows(0, ts)])) <= 36


def test_dead_meter_costs_a_few_bytes(begin: Begin) -> None:
    """A minute of a silent meter is its times and one cause."""
    schema = schema_of(*[Column(f"p{n}", "V", "float32", "gauge") for n in range(10)])
    assert len(begin(schema, built_in()).encode([rows_of(*[[0] * 10] * 60, quality=1)])) <= 30


def test_counter_beside_its_rate_is_foreseen() -> None:
    """Energy that is the power's sum costs less than a bit once the ratio is known."""
    schema = schema_of(Column("p", "W", "int", "gauge"), Column("e", "Wh", "int", "counter"))
    chance, energy, slots = random.Random(3), 0.0, []
    for _ in range(3600):
        power = chance.randint(20_000, 90_000)
        energy += power / 3600
        slots.append([power, int(energy)])
    both = len(encode(schema, [rows_of(*slots)]))
    alone = len(encode(schema_of(Column("p", "W", "int", "gauge")), [rows_of(*[row[:1] for row in slots])]))
    assert both - alone < 3600 / 8  # a bit each; the differences alone have more than four


def test_common_divisor_costs_nothing() -> None:
    """Values that are all multiples of 78125 (1/128 in seven decimals) cost what their quotients cost."""
    schema = schema_of(Column("flow", "gpm", "int", "gauge"))
    chance = random.Random(4)
    walk = [chance.randint(100, 200) for _ in range(300)]
    fine, coarse = (len(encode(schema, [rows_of(*[[k * step] for k in walk])])) for step in (1, 78125))
    assert coarse <= fine + 6


def test_wrong_rows_change_nothing(begin: Begin) -> None:
    """Rows without sense are refused before the chain has learned from them."""
    schema = schema_of(Column("p", "V", "int", "gauge"))
    chain, other = begin(schema, built_in()), begin(schema, built_in())
    for bad in ([Rows(0)], [rows_of([1]), rows_of([1])], [Rows(7, array("q", [1]))], [rows_of([1, 2])]):
        with pytest.raises(ValueError, match="entry"):
            chain.encode(bad)
    assert chain.encode([rows_of([5])]) == other.encode([rows_of([5])])


SCHEMA = schema_of(Column("u", "V", "float32", "gauge", digits=1), Column("e", "kWh", "int", "counter"))


def minute(number: int) -> list[Rows]:
    """One minute of a meter."""
    chance = random.Random(number)
    rows = Rows(0)
    for second in range(60):
        rows.ts.append(T0 + 60_000 * number + 1000 * second)
        rows.slots.extend([float32_bits(round(230 + chance.gauss(0, 1), 1)), 1000 * number + 16 * second])
        rows.quality.extend(b"\0\0")
    return [rows]


def coded(encoder: Encoder, count: int, first: int = 0) -> list[tuple[int, bytes]]:
    return [encoder.encode(minute(number)) for number in range(first, first + count)]


def read(decoder: Decoder, codec: int, body: bytes) -> list[Rows]:
    return decoder.decode_key(SCHEMA, body) if codec == KEY else decoder.decode_chained(body)[1]


def test_key_interval() -> None:
    """Every tenth batch is a key; all decode in order; the chained ones are smaller."""
    made = coded(Encoder(SCHEMA, key_every=10), 25)
    assert [number for number, (codec, _) in enumerate(made) if codec == KEY] == [0, 10, 20]
    decoder = Decoder()
    for number, (codec, body) in enumerate(made):
        assert read(decoder, codec, body) == minute(number)
    keys, chained = ([len(body) for codec, body in made if codec == kind] for kind in (KEY, CHAINED))
    assert sum(chained) / len(chained) < 0.9 * sum(keys) / len(keys)


def test_lost_batch_is_noticed_and_healed_by_the_next_key() -> None:
    """Without batch 3 the rest of its chain is refused, never read wrongly; the next key begins anew."""
    made = coded(Encoder(SCHEMA, key_every=6), 12)
    decoder = Decoder()
    for number, (codec, body) in enumerate(made):
        if number == 3:
            continue
        if number in (4, 5):
            with pytest.raises(ChainError, match="one before it is missing"):
                read(decoder, codec, body)
        else:
            assert read(decoder, codec, body) == minute(number)


def test_lost_batch_is_healed_by_replay() -> None:
    """The refused batches decode once the missing one has come: in the order of their links."""
    made = coded(Encoder(SCHEMA, key_every=6), 6)
    decoder = Decoder()
    for number in (0, 1, 2):
        read(decoder, *made[number])
    with pytest.raises(ChainError):
        read(decoder, *made[4])
    for number in (3, 4, 5):
        assert read(decoder, *made[number]) == minute(number)


def test_replay_of_an_old_chain_beside_the_live_one() -> None:
    """An old key and what follows it may come between live batches."""
    live, old = coded(Encoder(SCHEMA, key_every=9), 4, 100), coded(Encoder(SCHEMA, key_every=9), 3)
    decoder = Decoder()
    for number in range(4):
        assert read(decoder, *live[number]) == minute(100 + number)
        if number < 3:
            assert read(decoder, *old[number]) == minute(number)


def test_key_may_be_continued_again() -> None:
    """A batch that comes twice is no harm while its key is remembered."""
    made = coded(Encoder(SCHEMA, key_every=9), 2)
    decoder = Decoder()
    for number in (0, 1, 1):
        assert read(decoder, *made[number]) == minute(number)


def test_broken_chain_begins_with_a_key() -> None:
    """After a reconnect or a loss the agent asks for a key."""
    encoder = Encoder(SCHEMA, key_every=100)
    assert [codec for codec, _ in coded(encoder, 2)] == [KEY, CHAINED]
    encoder.break_chain()
    assert encoder.encode(minute(2))[0] == KEY


def test_failed_batch_breaks_the_chain() -> None:
    """Rows that cannot be encoded leave no half memory behind."""
    encoder = Encoder(SCHEMA, key_every=100)
    encoder.encode(minute(0))
    with pytest.raises(ValueError, match="entry"):
        encoder.encode([Rows(9, array("q", [1]))])
    assert encoder.encode(minute(1))[0] == KEY


def test_chained_batch_of_another_schema_is_refused() -> None:
    """The link covers the schema."""
    other = schema_of(Column("u", "V", "float32", "gauge"), Column("e", "kWh", "int", "counter"))
    (_, key), (_, chained) = coded(Encoder(SCHEMA, key_every=9), 2)
    decoder = Decoder()
    decoder.decode_key(other, key)
    with pytest.raises(ChainError):
        decoder.decode_chained(chained)


def test_chained_body_that_is_too_short() -> None:
    """A body without a link is named."""
    with pytest.raises(PayloadError, match="begins with the link"):
        Decoder().decode_chained(b"abc")


def primed(*primer: bytes) -> Schema:
    return Schema(SCHEMA.entries, primer)


def primer_of(*numbers: int) -> list[bytes]:
    """These minutes, a pause behind each."""
    chain, bodies = native.Chain(SCHEMA, built_in()), []
    for number in numbers:
        bodies.append(chain.encode(minute(number)))
        chain.pause()
    return bodies


def test_primer_makes_keys_small() -> None:
    """A key of meters that the schema's primer has shown costs less, and decodes compiled and in pure Python."""
    schema = primed(*primer_of(0, 1, 2, 60, 90))
    body = encode(schema, minute(500))
    assert len(body) < 0.9 * len(encode(SCHEMA, minute(500)))
    assert decode(KEY, schema, body) == minute(500)
    assert coding.primed(pure.Chain, schema).copy().decode(body) == minute(500)
    assert encode(schema, minute(500)) == body  # the first one has left nothing behind


def test_chain_begins_with_a_primed_key() -> None:
    """Chained batches follow a primed key as any other."""
    schema = primed(*primer_of(0, 30))
    encoder, decoder = Encoder(schema, key_every=3), Decoder()
    for number in range(500, 506):
        codec, body = encoder.encode(minute(number))
        assert (decoder.decode_key(schema, body) if codec == KEY else decoder.decode_chained(body)[1]) == minute(number)


def test_schema_with_a_primer_comes_back() -> None:
    """The primer is a part of the schema and of its id; without one the bytes are as they always were."""
    schema = primed(*primer_of(0, 1))
    assert Schema.unpack(schema.pack()) == schema
    assert schema.id != SCHEMA.id
    assert Schema.unpack(SCHEMA.pack()).primer == ()


def test_primer_that_is_none() -> None:
    """Bytes that are no batch, too many bytes, too many batches or readings are refused."""
    with pytest.raises(PayloadError):
        begin_chain(primed(b"\xff" * 40))
    for bodies in ([bytes(MAX_PRIMER_BYTES + 1)], [b""] * (MAX_PRIMER + 1)):
        with pytest.raises(PayloadError):
            Schema.unpack(primed(*bodies).pack())
    steady = schema_of(Column("p", "V", "int", "gauge"))
    body = native.Chain(steady, built_in()).encode([rows_of(*[[7]] * (MAX_PRIMER_READINGS + 1))])
    with pytest.raises(PayloadError, match="more than 65536 readings"):
        begin_chain(Schema(steady.entries, (body,)))


def test_prior_comes_back() -> None:
    """The file's bytes are the prior; one of other dimensions is refused."""
    prior = built_in()
    assert Prior.unpack(prior.pack()) == prior
    assert prior.quantities["gauge", "V", 2] >= 3
    with pytest.raises(ValueError, match="not of this version"):
        native.Chain(SCHEMA, Prior(prior.cells[1:], prior.weights, {}))
