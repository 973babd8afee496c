"""Golden batches: bytes written once are read alike for ever, and written alike until another codec follows."""

from pathlib import Path
from types import ModuleType

import pytest

from parkfleet.protocols.payload import delta, delta_native
from parkfleet.protocols.payload.envelope import Envelope
from parkfleet.protocols.payload.schema import Schema
from tests.payload import golden

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


def test_every_case_has_its_folder() -> None:
    """No golden case was lost."""
    assert {folder.name for folder in FOLDERS} == set(golden.CASES)
