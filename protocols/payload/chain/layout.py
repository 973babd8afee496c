"""Layout: what the coder needs to know of a column set: its columns, their kinds, and the quantities a prior knows."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from parkfleet.protocols.payload.schema import Schema
from parkfleet.protocols.payload.series import Column

#: A kind, a unit, the decimals of its numbers.
Quantity = tuple[str, str, int]
#: The general quantities, by kind: what the prior does not know is one of these.
KINDS: Final = {"counter": 0, "gauge": 1, "state": 2}


@dataclass(frozen=True)
class Layout:
    """A column set."""

    columns: tuple[Column, ...]
    kinds: bytes
    quantities: bytes

    @property
    def strings(self) -> int:
        """How many of its columns are texts."""
        return sum(column.type == "string" for column in self.columns)


def quantity_of(column: Column) -> Quantity:
    """What a column measures, and how finely."""
    return column.kind, column.unit, column.factor.decimals + max(column.digits, 0)


def layouts(schema: Schema, quantities: Mapping[Quantity, int]) -> list[Layout]:
    """Each column set of a schema, with the prior's quantities."""
    return [
        Layout(
            columns,
            bytes(KINDS[column.kind] for column in columns),
            bytes(quantities.get(quantity_of(column), KINDS[column.kind]) for column in columns),
        )
        for columns in schema.sets
    ]
