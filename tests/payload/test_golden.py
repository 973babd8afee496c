"""Golden batches: bytes written once are read alike for ever, and written alike until another codec follows."""

from pathlib import Path
from types import ModuleType

import pytest

from parkfleet.protocols.payload import delta, delta_native
from parkfleet.protocols.payload.chain import CHAINED, KEY, native, pure
from parkfleet.protocols.payload.chain.coding import Begin, first_link, primed
from parkfleet.protocols.payload.consumer import BatchDecoded, Consumer, ScansDecoded, reading_json
from parkfleet.protocols.payload.envelope import LINK_BYTES, Envelope
from parkfleet.protocols.payload.scans import pack_scans, pack_series
from parkfleet.protocols.payload.schema import Schema
from parkfleet.protocols.payload.topics import GatewayTopics
from tests.payload import golden

TOPICS = GatewayTopics("park", "gw")
FOLDERS = sorted(path for path in golden.FOLDER.iterdir() if path.is_dir())


@pytest.mark.parametrize("codec", [delta, delta_native], ids=["pure", "native"])
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_golden_batch(folder: Path, codec: ModuleType) -> None:
    """The batch's bytes are the rows beside it, both ways."""
    schema = Schema.unpack((folder / "schema.msgpack").read_bytes())
    envelope = Envelope.unpack((folder / "batch.msgpack").read_bytes())
    assert envelope.schema_id == schema.id
    rows = codec.decode(schema, envelope.body)
    assert golden.as_json(rows) == (folder / "rows.json").read_text("utf-8")
    assert codec.encode(schema, rows) == envelope.body


@pytest.mark.parametrize("begin", [pure.Chain, native.Chain], ids=["pure", "native"])
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_golden_chain(folder: Path, begin: Begin) -> None:
    """The key's and the chained batch's bytes are the rows beside them, both ways: also the prior has not changed."""
    schema = Schema.unpack((folder / "schema.msgpack").read_bytes())
    key, chained = (Envelope.unpack((folder / f"{kind}.msgpack").read_bytes()) for kind in ("key", "chained"))
    assert (key.codec, key.schema_id, chained.codec) == (KEY, schema.id, CHAINED)
    assert chained.body[:LINK_BYTES] == first_link(schema, key.body).to_bytes(LINK_BYTES, "big")
    reader, writer = primed(begin, schema).copy(), primed(begin, schema).copy()
    for coded in (key.body, chained.body[LINK_BYTES:]):
        rows = reader.decode(coded)
        assert golden.as_json(rows) == (folder / "rows.json").read_text("utf-8")
        assert writer.encode(rows) == coded


def test_golden_primer() -> None:
    """One case has a primer, with all that makes its keys: silent meters, texts, a column that comes late."""
    schema = Schema.unpack((golden.FOLDER / "primed-meters/schema.msgpack").read_bytes())
    assert schema == golden.primed_meters()[0]
    assert len(schema.primer) == 5


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_golden_json(folder: Path) -> None:
    """The messages in JSON are what we write, byte for byte, and are read as the readings of the compact batch."""
    schema = Schema.unpack((folder / "schema.msgpack").read_bytes())
    batch = Envelope.unpack((folder / "batch.msgpack").read_bytes())
    rows = delta.decode(schema, batch.body)
    assert pack_series(schema) == (folder / "series.json").read_bytes()
    assert pack_scans(schema, batch, rows) == (folder / "scans.json").read_bytes()
    assert pack_scans(schema, golden.joined(schema, rows), rows) == (folder / "joined.json").read_bytes()
    found = []
    for channel, payload in (("batch", batch.pack()), ("json", (folder / "scans.json").read_bytes())):
        consumer = Consumer()
        consumer.feed(TOPICS.schema(schema.id), schema.pack())
        consumer.feed(TOPICS.series(schema.id), (folder / "series.json").read_bytes())
        (decoded,) = consumer.feed(f"{TOPICS.base}/{channel}", payload)
        assert isinstance(decoded, BatchDecoded)
        found.append(sorted(reading_json(reading) for reading in decoded.readings()))
    assert found[0] == found[1]
    (joined,) = consumer.feed(TOPICS.json, (folder / "joined.json").read_bytes())
    assert isinstance(joined, ScansDecoded)
    assert (joined.seqs, joined.envelope.replayed) == (((5, 7),), True)
    assert {scan.seq for scan in joined.scans} <= {5, 6}


def test_every_case_has_its_folder() -> None:
    """No golden case was lost."""
    assert {folder.name for folder in FOLDERS} == set(golden.CASES)
