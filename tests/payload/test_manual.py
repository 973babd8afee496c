"""docs/payload.md: its test vectors are what our decoders read, and what our encoders write."""

import re

import pytest

from parkfleet.protocols.payload import delta, delta_native
from parkfleet.protocols.payload.consumer import BatchDecoded, Consumer
from parkfleet.protocols.payload.envelope import Envelope
from parkfleet.protocols.quality import Quality
from tests.payload import vectors

TEXT = vectors.MANUAL.read_text("utf-8")
BLOCKS = vectors.vectors(TEXT)
SCHEMA = bytes.fromhex(BLOCKS["schema"])
BATCH = bytes.fromhex(BLOCKS["batch"])


def test_vectors_decode_to_the_readings() -> None:
    """The manual's bytes are the manual's readings."""
    (schema_id,) = re.findall(r"its id `(\w{8})`", TEXT)
    assert vectors.readings(SCHEMA, BATCH, int(schema_id, 16)) == BLOCKS["readings"].splitlines()


def test_key_and_chained_vectors() -> None:
    """The key batch of the manual, and the one that continues it, are the same readings, and what we write."""
    consumer = Consumer()
    consumer.feed(vectors.TOPICS.schema(vectors.SCHEMA.id), SCHEMA)
    for name, made in zip(("key", "chained"), vectors.chained(), strict=True):
        data = bytes.fromhex(BLOCKS[name])
        assert data == made.pack()
        (decoded,) = consumer.feed(vectors.TOPICS.batch, data)
        assert isinstance(decoded, BatchDecoded)
        assert decoded.rows == vectors.rows()


def test_json_vectors() -> None:
    """The messages in JSON are what we write, and the same readings."""
    assert (BLOCKS["series"], BLOCKS["json"]) == vectors.in_json()
    consumer = Consumer()
    consumer.feed(vectors.TOPICS.series(vectors.SCHEMA.id), BLOCKS["series"].encode())
    (decoded,) = consumer.feed(vectors.TOPICS.json, BLOCKS["json"].encode())
    assert isinstance(decoded, BatchDecoded)
    assert sorted(vectors.told(decoded)) == sorted(BLOCKS["readings"].splitlines())


@pytest.mark.parametrize("codec", [delta, delta_native])
def test_vectors_are_what_we_write(codec: object) -> None:
    """The format has not changed since the manual was written: a change needs a new codec or version."""
    assert vectors.SCHEMA.pack() == SCHEMA
    envelope = Envelope.unpack(BATCH)
    assert envelope.body == codec.encode(vectors.SCHEMA, vectors.rows())  # type: ignore[attr-defined]
    assert envelope == vectors.envelope()


def test_every_quality_stands_in_the_manual() -> None:
    """Each code has its row."""
    for quality in Quality:
        assert f"| {quality.value} | `{quality.name.lower()}` |" in TEXT
