from array import array

# entry, times, slots, quality, texts
Block = tuple[int, array[int], array[int], bytearray, list[str | None]]

CELLS: int
WEIGHTS: int
OWN: int
SHARED: int
FIRSTS: int
HABITS: int
INPUTS: int

class Chain:
    def __init__(
        self,
        set_of: list[int],
        layouts: list[tuple[bytes, bytes, bytes, bytes]],
        cells: array[int],
        weights: array[int],
        most: int,
        teach: bool = False,
    ) -> None: ...
    def copy(self) -> Chain: ...
    def pause(self) -> None: ...
    def encode(self, blocks: list[Block], last: bool = False) -> bytes: ...
    def decode(self, body: bytes, last: bool = False) -> list[Block]: ...
    def learned(self) -> tuple[bytes, bytes]: ...
