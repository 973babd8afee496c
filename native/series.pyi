from array import array

# entry, its column set, times, slots, quality, texts
Block = tuple[int, int, array[int], array[int], bytearray, list[str | None]]
Found = tuple[int, array[int], array[int], bytearray, list[str | None]]
# for each column set: kinds (i, f, d, s) and digits, a byte a column each
Layouts = list[tuple[bytes, bytes]]

def encode(blocks: list[Block], layouts: Layouts, most: int) -> bytes: ...
def decode(body: bytes, set_of: list[int], layouts: Layouts, most: int) -> list[Found]: ...
