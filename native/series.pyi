from array import array

Block = tuple[int, array[int], array[int], bytearray, list[str | None], bytes, bytes]
Found = tuple[int, array[int], array[int], bytearray, list[str | None]]

def encode(blocks: list[Block]) -> bytes: ...
def decode(body: bytes, layouts: list[bytes], most: int) -> list[Found]: ...
