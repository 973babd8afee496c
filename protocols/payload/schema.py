"""Schema: the names of a batch's columns. Packed as msgpack, known by a 32-bit id over its bytes.

Packed: [version, column sets, entries], and a primer where there is one; a column set is a list of columns, an entry
refers to one by its index, so that two hundred equal meters cost their names only.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from parkfleet.protocols.payload.errors import PayloadError
from parkfleet.protocols.payload.series import Column, Entry

VERSION: Final = 1
#: Twenty thousand meters are below 2 MB.
MAX_BYTES: Final = 8 * 1024 * 1024
#: Five times what a gateway may have of meters (config.py): what hostile bytes may become in memory.
MAX_ENTRIES: Final = 100_000
#: Columns over all entries: what a batch of one scan each may have to hold.
MAX_COLUMNS: Final = 2_000_000
#: Batches of a primer, and their bytes together.
MAX_PRIMER: Final = 256
MAX_PRIMER_BYTES: Final = 256 * 1024
_KINDS: Final = {"int": "i", "uint64": "i", "float32": "f", "float64": "d", "string": "s"}


class _Packed(msgspec.Struct, array_like=True):
    version: int
    sets: Annotated[list[tuple[Column, ...]], Meta(max_length=MAX_ENTRIES)]
    # meter, profile, medium, index of its column set
    entries: Annotated[list[tuple[str, str, str, int]], Meta(max_length=MAX_ENTRIES)]
    primer: Annotated[list[bytes], Meta(max_length=MAX_PRIMER)] = []


@dataclass(frozen=True, eq=False)
class Schema:
    """What a gateway's batches carry.

    primer: bodies of earlier batches of these meters, each behind a pause; a key batch begins with what they teach.
    """

    entries: tuple[Entry, ...]
    primer: tuple[bytes, ...] = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schema) and self._packed == other._packed

    def __hash__(self) -> int:
        return self.id

    def pack(self) -> bytes:
        """The schema's bytes: the same schema always has the same."""
        return self._packed

    @cached_property
    def id(self) -> int:
        """The first 32 bits of BLAKE2b over the packed schema, as an unsigned integer."""
        return schema_id(self._packed)

    @property
    def sets(self) -> tuple[tuple[Column, ...], ...]:
        """The different column sets, in the order in which entries first have them."""
        return self._indexed[0]

    @property
    def set_of(self) -> list[int]:
        """For each entry the index of its column set."""
        return self._indexed[1]

    @cached_property
    def layouts(self) -> list[tuple[bytes, bytes]]:
        """For each column set its kinds (i, f, d, s) and digits (-1: unknown), a byte a column each: for native/."""
        return [
            (
                "".join(_KINDS[column.type] for column in columns).encode(),
                bytes(max(column.digits, -1) & 0xFF for column in columns),
            )
            for columns in self.sets
        ]

    @cached_property
    def _indexed(self) -> tuple[tuple[tuple[Column, ...], ...], list[int]]:
        sets: dict[tuple[Column, ...], int] = {}
        known: dict[int, int] = {}  # by identity: entries share their sets, and hashing one is slow
        for entry in self.entries:
            if id(entry.columns) not in known:
                known[id(entry.columns)] = sets.setdefault(entry.columns, len(sets))
        return tuple(sets), [known[id(entry.columns)] for entry in self.entries]

    @cached_property
    def _packed(self) -> bytes:
        entries = [(e.meter, e.profile, e.medium, i) for e, i in zip(self.entries, self.set_of, strict=True)]
        plain = (VERSION, self.sets, entries)
        return msgspec.msgpack.encode((*plain, self.primer) if self.primer else plain)

    @classmethod
    def unpack(cls, data: bytes) -> "Schema":
        """Reads a packed schema. Raises PayloadError for anything else."""
        if len(data) > MAX_BYTES:
            raise PayloadError(f"schema of {len(data)} bytes: at most {MAX_BYTES}")
        try:
            packed = msgspec.msgpack.decode(data, type=_Packed)
        except (msgspec.MsgspecError, RecursionError, ValueError) as error:
            raise PayloadError(f"not a schema: {error}") from None
        if packed.version != VERSION:
            raise PayloadError(f"schema version {packed.version}: this decoder knows {VERSION}")
        if len(set(packed.sets)) < len(packed.sets):  # codec 1 remembers by column set: equal ones would be one
            raise PayloadError("schema has the same column set twice")
        if any(not 0 <= index < len(packed.sets) for *_, index in packed.entries):
            raise PayloadError("schema refers to a column set that it does not have")
        if any(not _sound(column) for columns in packed.sets for column in columns):
            raise PayloadError("schema has a column with an impossible factor or number of digits")
        if sum(map(len, packed.primer)) > MAX_PRIMER_BYTES:
            raise PayloadError(f"the schema's primer is longer than {MAX_PRIMER_BYTES} bytes")
        if sum(len(packed.sets[index]) for *_, index in packed.entries) > MAX_COLUMNS:
            raise PayloadError(f"schema of more than {MAX_COLUMNS} columns")
        entries = tuple(Entry(meter, prof, medium, packed.sets[i]) for meter, prof, medium, i in packed.entries)
        return cls(entries, tuple(packed.primer))


def schema_id(packed: bytes) -> int:
    """The id of a packed schema."""
    return int.from_bytes(hashlib.blake2b(packed, digest_size=4).digest(), "big")


def _sound(column: Column) -> bool:
    factor = column.factor
    return (
        0 <= factor.decimals <= 12
        and abs(factor.multiply) <= 10**12
        and abs(factor.add) <= 2**62
        and -1 <= column.digits <= 9
    )
