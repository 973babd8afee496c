"""Series codec: codec 1 compiled. Byte for byte what protocols/payload/delta.py writes, which is its oracle.

Hostile input: every read is checked against the end, every count against the caller's bound; what is wrong is a
ValueError with a reason, never a crash. Format: docs/payload.md.
"""

from array import array

from cpython cimport array as c_array
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from parkfleet.native.columns cimport (
    MAX_DIGITS,
    MAX_TEXT,
    Before,
    Expected,
    gather,
    has_value,
    put_codings,
    put_qualities,
    put_times,
    take_codings,
    take_column,
    take_qualities,
    take_times,
)
from parkfleet.native.varints cimport Reader, Writer, fail, put_byte, put_deltas, put_varint, reserve, take_varint

cdef c_array.array TEMPLATE = array("q")


def encode(list blocks, list layouts, size_t most):
    """The body of a batch. Raises ValueError for blocks that have no sense, or more than `most` readings.

    blocks: by entry ascending, each (entry, its column set, ts, slots, quality, texts): arrays of typecode q, a
    bytearray, a list. layouts: for each column set its columns' kinds (i, f, d or s) and, as signed bytes, their
    likely decimals or -1.
    """
    cdef Writer out
    cdef Before before
    cdef dict memories = {}
    cdef size_t readings = 0
    memset(&out, 0, sizeof(out))
    memset(&before, 0, sizeof(before))
    before.entry = -1
    try:
        put_varint(&out, len(blocks))
        for block in blocks:
            readings += put_block(&out, block, layouts, memories, &before, most - readings)
        if out.failed:
            raise MemoryError
        return (<char*> out.data)[:out.used]
    finally:
        free(out.data)


def decode(bytes body, list set_of, list layouts, size_t most):
    """[(entry, ts, slots, quality, texts)] of a body. Raises ValueError for whatever is none.

    set_of: for each entry of the schema its column set. layouts: as in encode. most: readings that a body may hold.
    """
    cdef Reader reader
    cdef Before before
    cdef dict memories = {}
    cdef uint64_t blocks, head, rows
    cdef size_t width, readings = 0
    cdef list found = []
    reader.at, reader.end, reader.error = <const uint8_t*> body, <const uint8_t*> body + len(body), NULL
    memset(&before, 0, sizeof(before))
    before.entry = -1
    blocks = take_varint(&reader)
    check(&reader)
    if blocks > <uint64_t> len(set_of):
        raise ValueError("more blocks than the schema has entries")
    for _ in range(blocks):
        head = take_varint(&reader)
        check(&reader)
        if head >> 1 >= <uint64_t> (len(set_of) - before.entry - 1):
            raise ValueError("an entry is not in the schema")
        before.entry += (head >> 1) + 1
        rows = before.rows if head & 1 else take_varint(&reader)
        check(&reader)
        width = max(len(layouts[set_of[before.entry]][0]), 1)
        if rows < 1 or rows > most or rows * width > most - readings:
            raise ValueError(f"a block has no rows, or all have more than {most} readings together")
        readings += rows * width
        before.rows = rows
        found.append(take_block(&reader, layouts, set_of[before.entry], memories, &before))
    if reader.at != reader.end:
        raise ValueError("bytes too many behind the last block")
    return found


cdef bint has_floats(bytes kinds):
    return b"f" in kinds or b"d" in kinds


cdef Expected* recall(dict memories, object index, bytes kinds, const uint8_t* digits) except NULL:
    """The memory of a column set, in a bytearray that lives as long as memories does."""
    cdef bytearray found = memories.get(index)
    cdef Expected* memory
    cdef size_t column
    cdef int hint
    if found is None:
        found = memories[index] = bytearray(len(kinds) * sizeof(Expected) + 1)
        memory = <Expected*> <char*> found
        for column in range(<size_t> len(kinds)):
            hint = <signed char> digits[column]
            memory[column].coding = <uint8_t> hint if 0 <= hint <= MAX_DIGITS else 0
            memory[column].first = 0
    return <Expected*> <char*> found


cdef put_block(Writer* out, block, list layouts, dict memories, Before* before, size_t most):
    """Writes one block; returns the readings it has (at least one a row). Raises ValueError for one without sense."""
    cdef int64_t entry
    cdef c_array.array ts, slots
    cdef bytearray quality
    cdef list texts
    cdef bytes kinds, digits
    cdef size_t rows, width, column, strings, string = 0, row
    cdef uint64_t first
    cdef uint64_t* values
    cdef size_t* counts
    cdef Expected* memory
    cdef Py_ssize_t shape
    entry, shape, ts, slots, quality, texts = block
    kinds, digits = layouts[shape]
    rows, width, strings = len(ts), len(kinds), kinds.count(b"s")
    if entry <= before.entry or rows == 0:
        raise ValueError(f"entry {entry}: blocks come by entry ascending, each with a row or more")
    if ts.ob_descr.typecode != c'q' or slots.ob_descr.typecode != c'q':
        raise ValueError(f"entry {entry}: times and slots are arrays of typecode q")
    if (
        <size_t> len(slots) != rows * width or <size_t> len(quality) != rows * width
        or <size_t> len(texts) != rows * strings or <size_t> len(digits) != width
    ):
        raise ValueError(f"entry {entry}: its arrays do not fit together")
    if rows * max(width, 1) > most:
        raise ValueError("more readings than one batch may hold")
    memory = recall(memories, shape, kinds, <const uint8_t*> digits)
    put_varint(out, <uint64_t> (entry - before.entry - 1) << 1 | (rows == before.rows))
    if rows != before.rows:
        put_varint(out, rows)
    before.entry, before.rows = entry, rows
    values = <uint64_t*> malloc((rows * width + rows) * sizeof(uint64_t) + width * sizeof(size_t))
    if values == NULL:
        raise MemoryError
    try:
        counts = <size_t*> (values + rows * width + rows)
        put_times(out, <const int64_t*> ts.data.as_longlongs, before, values)
        put_qualities(out, <const uint8_t*> quality, rows, width)
        for column in range(width):
            counts[column] = gather(
                <const int64_t*> slots.data.as_longlongs, <const uint8_t*> quality, rows, width, column,
                values + column * rows
            )
        if has_floats(kinds):
            put_codings(
                out, <const uint8_t*> kinds, <const uint8_t*> digits, width, rows, memory, values, counts,
                values + rows * width
            )
        for column in range(width):
            if kinds[column] == c's':
                put_texts(out, [
                    texts[row * strings + string] or "" for row in range(rows)
                    if has_value((<const uint8_t*> quality)[row * width + column])
                ])
                string += 1
            elif counts[column]:
                first = values[column * rows]
                put_deltas(out, values + column * rows, counts[column], memory[column].first)
                memory[column].first = first
    finally:
        free(values)
    return rows * max(width, 1)


cdef put_texts(Writer* out, list texts):
    """0 for "as before" (at first: empty), otherwise the length of the UTF-8 plus one and the bytes."""
    cdef bytes data, before = b""
    for text in texts:
        data = text.encode("utf-8", "replace")
        if len(data) > MAX_TEXT:  # no point has so much: cut between two characters rather than lose the batch
            data = data[:MAX_TEXT].decode("utf-8", "ignore").encode()
        if data == before:
            put_byte(out, 0)
        else:
            put_varint(out, len(data) + 1)
            if reserve(out, len(data)):
                memcpy(out.data + out.used, <const char*> data, len(data))
                out.used += len(data)
        before = data


cdef take_texts(Reader* reader, list texts, const uint8_t* quality, size_t rows, size_t width, size_t column,
                size_t strings, size_t string):
    """Raises UnicodeDecodeError, a ValueError, for what is no UTF-8."""
    cdef size_t row
    cdef uint64_t length
    cdef str text = ""
    for row in range(rows):
        if not has_value(quality[row * width + column]):
            continue
        length = take_varint(reader)
        if reader.error == NULL and length > MAX_TEXT + 1:
            fail(reader, "a text is longer than 512 bytes")
        if reader.error == NULL and length and length - 1 > <uint64_t> (reader.end - reader.at):
            fail(reader, "the body ends in the middle")
        if reader.error != NULL:
            return
        if length:
            try:
                text = (<const char*> reader.at)[:length - 1].decode()
            except UnicodeDecodeError:
                raise ValueError("a text is no UTF-8") from None
            reader.at += length - 1
        texts[row * strings + string] = text


cdef check(Reader* reader):
    if reader.error != NULL:
        raise ValueError((<bytes> reader.error).decode())


cdef take_block(Reader* reader, list layouts, Py_ssize_t shape, dict memories, Before* before):
    cdef bytes kinds, digits
    cdef size_t rows = before.rows, width, column, strings, string = 0
    cdef c_array.array ts, slots
    cdef bytearray quality
    cdef list texts
    cdef uint64_t* scratch
    cdef Expected* memory
    kinds, digits = layouts[shape]
    width, strings = len(kinds), kinds.count(b"s")
    memory = recall(memories, shape, kinds, <const uint8_t*> digits)
    ts = c_array.clone(TEMPLATE, rows, zero=True)
    slots = c_array.clone(TEMPLATE, rows * width, zero=True)
    quality = bytearray(rows * width)
    texts = [None] * (rows * strings)
    scratch = <uint64_t*> malloc(rows * sizeof(uint64_t))
    if scratch == NULL:
        raise MemoryError
    try:
        take_times(reader, <int64_t*> ts.data.as_longlongs, before, scratch)
        check(reader)
        take_qualities(reader, <uint8_t*> <char*> quality, rows, width)
        check(reader)
        if has_floats(kinds):
            take_codings(reader, <const uint8_t*> kinds, width, memory)
            check(reader)
        for column in range(width):
            if kinds[column] == c's':
                take_texts(reader, texts, <uint8_t*> <char*> quality, rows, width, column, strings, string)
                string += 1
            else:
                take_column(
                    reader, <int64_t*> slots.data.as_longlongs, <uint8_t*> <char*> quality, rows, width, column,
                    kinds[column], &memory[column], scratch
                )
            check(reader)
    finally:
        free(scratch)
    return before.entry, ts, slots, quality, texts
