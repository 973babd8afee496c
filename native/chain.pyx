"""Chain: codec 2 compiled: what both sides remember from batch to batch, and a body out of it and back.

Byte for byte what protocols/payload/chain/pure.py writes, which is its oracle. Hostile input: counts are checked against the
caller's bound before memory is taken; what is wrong is a ValueError with a reason, never a crash. After an error a chain
must not be used again. Format: docs/payload.md.
"""

from array import array

from cpython cimport array as c_array
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset
from posix.mman cimport MAP_ANONYMOUS, MAP_FAILED, MAP_PRIVATE, PROT_READ, PROT_WRITE, mmap, munmap

from parkfleet.native cimport blocks as b
from parkfleet.native cimport values as v
from parkfleet.native.blocks cimport Before, Meter, row_count, row_qualities, row_times, row_values
from parkfleet.native.columns cimport MAX_TEXT, has_value
from parkfleet.native.forecast cimport Series
from parkfleet.native.mixing cimport make_tables, simple
from parkfleet.native.numbers cimport number, tree
from parkfleet.native.rangecoder cimport Coder, begin_decoding, begin_encoding, end_decoding, end_encoding
from parkfleet.native.values cimport NODES, Tables
from parkfleet.native.varints cimport Writer

cdef c_array.array TEMPLATE = array("q")
#: Columns that a chain may know: 230 MB.
cdef size_t MOST_SERIES = 250_000

CELLS = b.CELLS
WEIGHTS = v.WEIGHTS
#: Where cells begin that are a series' own at first, those of contexts, and all others.
OWN, SHARED, FIRSTS = v.OWN, v.SHARED, v.FIRSTS
INPUTS, HABITS = v.INPUTS, v.HABITS

make_tables()

#: Cells and weights of a chain that is no more, for the next: nearly always one is made as another ends. They are no part
#: of the heap, which their coming and going would tear into pieces; fresh pages cost 2 ms on a small box.
cdef size_t TABLES = 4 * (b.CELLS + v.WEIGHTS)
cdef void* spare = NULL


cdef void* take_tables():
    global spare
    cdef void* taken = spare
    spare = NULL
    if taken == NULL:
        taken = mmap(NULL, TABLES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    return NULL if taken == MAP_FAILED else taken


cdef void give_tables(void* tables):
    global spare
    if spare == NULL:
        spare = tables
    else:
        munmap(tables, TABLES)


cdef class Chain:
    """The memory of one side of codec 2, from a key batch on."""

    cdef list layouts
    cdef list set_of
    cdef size_t most
    cdef size_t series
    cdef Meter* meters
    cdef Tables tables
    cdef bint last  # the batch under way is the last
    cdef Chain base  # whose entries this one has until it meets them itself; nothing is coded with it any more
    cdef dict firsts  # by column set: the first number of each column, in this batch
    cdef dict texts  # by entry: the last text of each string column

    def __cinit__(
        self, list set_of, list layouts, c_array.array cells, c_array.array weights, size_t most, bint teach=False,
        Chain base=None
    ):
        """set_of: for each entry its column set. layouts: for each column set a byte a column each of types (i, f, d,
        s), digits (signed), kinds (0 to 2), quantities (below 32). cells, weights: a prior, of typecodes I and i; not
        looked at with a base, see copy(). most: readings that a body may hold. teach: the chain is for training a
        prior."""
        if base is None and (
            cells.ob_descr.typecode != c'I' or weights.ob_descr.typecode != c'i'
            or len(cells) != b.CELLS or len(weights) != v.WEIGHTS
        ):
            raise ValueError("the prior is not of this version")
        for types, digits, kinds, quantities in layouts if base is None else ():
            if not len(types) == len(digits) == len(kinds) == len(quantities):
                raise ValueError("a column set's bytes do not fit together")
            if any(kind >= v.KINDS for kind in kinds) or any(quantity >= v.QUANTITIES for quantity in quantities):
                raise ValueError("unknown kind or quantity")
        self.layouts, self.set_of, self.most, self.base = layouts, set_of, most, base
        self.meters = <Meter*> calloc(len(set_of) + 1, sizeof(Meter))
        self.tables.cells = <uint32_t*> take_tables()
        self.tables.teach = teach
        self.texts = {}
        if self.meters == NULL or self.tables.cells == NULL:
            raise MemoryError
        self.tables.weights = <int32_t*> (self.tables.cells + b.CELLS)
        if base is None:
            memcpy(self.tables.cells, cells.data.as_voidptr, 4 * b.CELLS)
            memcpy(self.tables.weights, weights.data.as_voidptr, 4 * v.WEIGHTS)
        else:
            self.borrow(base)

    cdef borrow(self, Chain base):
        cdef size_t entry
        memcpy(self.tables.cells, base.tables.cells, 4 * b.CELLS)
        memcpy(self.tables.weights, base.tables.weights, 4 * v.WEIGHTS)
        memcpy(self.meters, base.meters, len(self.set_of) * sizeof(Meter))
        for entry in range(<size_t> len(self.set_of)):
            self.meters[entry].lent = self.meters[entry].series != NULL
        self.series = base.series
        self.texts = {entry: list(texts) for entry, texts in base.texts.items()}

    def copy(self):
        """Another chain that knows what this one does. This one must code nothing from now on."""
        return Chain(self.set_of, self.layouts, None, None, self.most, False, self)

    def pause(self):
        """Time passes of which nobody tells: the primer's batches stand apart."""
        cdef size_t entry, column
        cdef Meter* m
        for entry in range(<size_t> len(self.set_of)):
            m = &self.meters[entry]
            if m.seen == 0:
                continue
            m.seen = b.AWAY
            for column in range(len(<bytes> self.layouts[self.set_of[entry]][0])):
                m.series[column].away = m.series[column].seen > 0

    def __dealloc__(self):
        cdef size_t at
        if self.meters != NULL:
            for at in range(<size_t> len(self.set_of)):
                if not self.meters[at].lent:
                    free(self.meters[at].series)
                    free(self.meters[at].own)
        free(self.meters)
        if self.tables.cells != NULL:
            give_tables(self.tables.cells)

    def learned(self):
        """Cells and weights as they are now."""
        return (<char*> self.tables.cells)[:4 * b.CELLS], (<char*> self.tables.weights)[:4 * v.WEIGHTS]

    def encode(self, list blocks, bint last=False):
        """The body of a batch. Raises ValueError for blocks that have no sense, before anything is learned from them.

        blocks: by entry ascending, each (entry, ts, slots, quality, texts): arrays of typecode q, a bytearray, a list.
        last: nothing is coded behind it: what an entry has taught is dropped behind its block.
        """
        cdef Writer out
        cdef Coder c
        self.check_blocks(blocks)
        self.last = last
        memset(&out, 0, sizeof(out))
        begin_encoding(&c, &out)
        try:
            self.run(&c, blocks)
            end_encoding(&c)
            if out.failed:
                raise MemoryError
            return (<char*> out.data)[:out.used]
        finally:
            free(out.data)

    def decode(self, bytes body, bint last=False):
        """[(entry, ts, slots, quality, texts)] of a body. Raises ValueError for whatever is none. last: see encode."""
        cdef Coder c
        self.last = last
        begin_decoding(&c, <const uint8_t*> body, len(body))
        found = self.run(&c, [])
        end_decoding(&c)
        check(&c)
        return found

    cdef check_blocks(self, list blocks):
        cdef size_t rows, width, readings = 0, series = self.series
        cdef int64_t entry, before = -1
        cdef c_array.array ts, slots
        cdef bytearray quality
        cdef list texts
        cdef bytes types
        for entry, ts, slots, quality, texts in blocks:
            if entry <= before or entry >= len(self.set_of) or len(ts) == 0:
                raise ValueError(f"entry {entry}: blocks come by entry ascending, each with a row or more")
            types = self.layouts[self.set_of[entry]][0]
            rows, width, before = len(ts), len(types), entry
            if ts.ob_descr.typecode != c'q' or slots.ob_descr.typecode != c'q':
                raise ValueError(f"entry {entry}: times and slots are arrays of typecode q")
            if (
                <size_t> len(slots) != rows * width or <size_t> len(quality) != rows * width
                or <size_t> len(texts) != rows * <size_t> types.count(b"s")
            ):
                raise ValueError(f"entry {entry}: its arrays do not fit together")
            readings += rows * max(width, 1)
            series += width if self.meters[entry].series == NULL else 0
        if readings > self.most:
            raise ValueError(f"more than {self.most} readings in one batch")
        if series > MOST_SERIES:
            raise ValueError(f"more than {MOST_SERIES} columns in one chain")

    cdef list run(self, Coder* c, list blocks):
        """A batch, both ways: its blocks."""
        cdef size_t entry, readings = 0, at = 0
        cdef int was = True, present
        cdef Before before
        cdef Meter* m
        cdef list found = []
        memset(&before, 0, sizeof(before))
        self.firsts = {}
        for entry in range(<size_t> len(self.set_of)):
            m = &self.meters[entry]
            present = at < <size_t> len(blocks) and blocks[at][0] == entry
            present = simple(c, self.tables.cells + b.PRESENT + 2 * m.seen + was, present)
            was = present
            if present:
                block = self.block(c, entry, blocks[at] if at < <size_t> len(blocks) else None, &before, self.most - readings)
                readings += max(len(block[2]), len(block[1]))
                found.append(block)
                at += 1
                if self.last:
                    self.part(m)
            m.seen = 2 if present else 1 if m.seen == 2 else m.seen
        return found

    cdef tuple block(self, Coder* c, size_t entry, tuple block, Before* before, size_t most):
        cdef Meter* m = &self.meters[entry]
        cdef bytes types, digits, kinds, quantities
        cdef c_array.array ts, slots, firsts
        cdef bytearray quality
        cdef list texts
        cdef size_t rows, width
        cdef uint64_t* numbers = NULL
        types, digits, kinds, quantities = self.layouts[self.set_of[entry]]
        width = len(types)
        rows = row_count(c, self.tables.cells, m, before, 0 if c.decoding else len(block[1]))
        if rows < 1 or rows > most or rows * max(width, 1) > most:
            raise ValueError(f"a block has no rows, or all have more than {self.most} readings together")
        m.rows = rows
        self.meet(m, width)
        firsts = self.firsts.get(self.set_of[entry])
        if firsts is None:
            firsts = self.firsts[self.set_of[entry]] = c_array.clone(TEMPLATE, width, zero=True)
        if c.decoding:
            ts, slots = c_array.clone(TEMPLATE, rows, zero=True), c_array.clone(TEMPLATE, rows * width, zero=True)
            quality, texts = bytearray(rows * width), [None] * (rows * types.count(b"s"))
        else:
            _, ts, slots, quality, texts = block
            numbers = <uint64_t*> malloc((rows * width + 1) * sizeof(uint64_t))
            if numbers == NULL:
                raise MemoryError
        cdef int64_t* at_ts = <int64_t*> ts.data.as_longlongs
        cdef int64_t* at_slots = <int64_t*> slots.data.as_longlongs
        cdef int64_t* at_firsts = <int64_t*> firsts.data.as_longlongs
        cdef uint8_t* at_quality = <uint8_t*> <char*> quality
        cdef const uint8_t* at_types = <const uint8_t*> types
        cdef const uint8_t* at_digits = <const uint8_t*> digits
        cdef const uint8_t* at_kinds = <const uint8_t*> kinds
        cdef const uint8_t* at_quantities = <const uint8_t*> quantities
        try:
            with nogil:
                row_times(c, self.tables.cells, m, before, at_ts, rows)
                row_qualities(c, self.tables.cells, m, at_quality, rows, width)
                row_values(
                    c, &self.tables, m, at_ts, at_slots, at_quality, rows, width, at_types, at_digits, at_kinds,
                    at_quantities, at_firsts, numbers
                )
        finally:
            free(numbers)
        check(c)
        if texts:
            self.row_texts(c, entry, texts, quality, rows, types)
            check(c)
        return entry, ts, slots, quality, texts

    cdef meet(self, Meter* m, size_t width):
        """Room for what is known of an entry's columns."""
        cdef Series* lent = m.series
        cdef uint32_t* lent_own = m.own
        if lent != NULL and not m.lent:
            return
        if lent == NULL and self.series + width > MOST_SERIES:
            raise ValueError(f"more than {MOST_SERIES} columns in one chain")
        m.series, m.own = <Series*> calloc(width + 1, sizeof(Series)), <uint32_t*> malloc((2 * width * NODES + 1) * 4)
        m.lent = False
        if m.series == NULL or m.own == NULL:
            raise MemoryError
        if lent == NULL:
            self.series += width
            return
        memcpy(m.series, lent, width * sizeof(Series))
        memcpy(m.own, lent_own, 2 * width * NODES * 4)

    cdef void part(self, Meter* m):
        """Forgets what is known of an entry's columns."""
        free(m.series)
        free(m.own)
        m.series, m.own = NULL, NULL

    cdef row_texts(self, Coder* c, size_t entry, list texts, bytearray quality, size_t rows, bytes types):
        """Column by column: whether a text is as the one before it; its length and bytes."""
        cdef uint32_t* cells = self.tables.cells
        cdef size_t width = len(types), strings = types.count(b"s"), string = 0, column, row
        cdef uint64_t length
        cdef bytes data
        cdef bytearray read
        cdef list before = self.texts.setdefault(entry, [b""] * strings)
        cdef int byte
        cdef size_t at
        for column in range(width):
            if types[column] != c's':
                continue
            for row in range(rows):
                if not has_value(quality[row * width + column]):
                    continue
                data = b"" if c.decoding else as_bytes(texts[row * strings + string])
                if not simple(c, cells + b.SAME_TEXT, data == before[string]):
                    length = number(c, cells + b.LENGTH, len(data))
                    if length > MAX_TEXT:
                        raise ValueError(f"a text is longer than {MAX_TEXT} bytes")
                    read = bytearray(data) if not c.decoding else bytearray(length)
                    for at in range(length):
                        byte = tree(c, cells + b.TEXT, 8, read[at])  # a statement of its own: Cython says it twice
                        read[at] = byte
                    before[string] = bytes(read)
                if c.decoding:
                    try:
                        texts[row * strings + string] = (<bytes> before[string]).decode()
                    except UnicodeDecodeError:
                        raise ValueError("a text is no UTF-8") from None
            string += 1


cdef bytes as_bytes(text):
    """UTF-8; what is too long is cut between two characters rather than that a batch is lost."""
    cdef bytes data = (text or "").encode("utf-8", "replace")
    if len(data) > MAX_TEXT:
        data = data[:MAX_TEXT].decode("utf-8", "ignore").encode()
    return data


cdef check(Coder* c):
    if c.error != NULL:
        raise ValueError((<bytes> c.error).decode())
