"""Building: a line's specification turned into the engine's structures, checked, every bound of it."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from parkfleet.native.frames cimport crc16
from parkfleet.native.health cimport PF_NEVER
from parkfleet.native.model cimport (
    MAX_CONNECTIONS, MAX_OUTSTANDING, MAX_PARTS, RTU_REQUEST, RTU_TCP, SERIAL, T_BCD, T_BITS, T_BOOL, T_FLOAT32, T_FLOAT64, T_INT16,
    T_INT32, T_INT64, T_STRING, T_UINT16, TCP, Connection, Field, Line, Meter, Request, Unit,
)
from parkfleet.native.results cimport record_size
from parkfleet.native.wear cimport wear


cdef inline void demand(bint condition, str told) except *:
    if not condition:
        raise ValueError(told)


cdef inline void *block(Line *line, size_t count, size_t size) except NULL:
    """Zeroed memory that lives as long as the line."""
    cdef void *memory = calloc(count or 1, size)
    if memory == NULL:
        raise MemoryError
    line.blocks[line.block_count] = memory
    line.block_count += 1
    return memory


cdef inline void free_line(Line *line) noexcept nogil:
    """With what its meters hold beside it."""
    cdef int i
    for i in range(line.meter_count if line.meters != NULL else 0):
        if line.meters[i].replacement != NULL:
            free_line(line.meters[i].replacement)
        if line.meters[i].graft != NULL:
            free_line(line.meters[i].graft)
    for i in range(line.block_count):
        free(line.blocks[i])
    free(line.blocks)
    free(line)


cdef inline int registers_of(int type) noexcept nogil:
    """Registers of a type that has a fixed number, or 0."""
    if type >= T_BCD:
        return 0
    if type <= T_UINT16:
        return 1
    return 2 if type <= 3 or type == T_FLOAT32 else 4


cdef inline void build_field(Line *line, Field *field, object spec, Meter *meter, Request *request) except *:
    cdef int fixed = registers_of(spec.type)
    cdef int count = spec.registers
    demand(0 <= spec.type <= T_BOOL and 0 <= spec.order <= 3, "unknown type or order")
    demand(0 <= spec.column < meter.column_count, "column beyond the meter's columns")
    demand((spec.type == T_BOOL) == (request.function <= 2), "bits are bool, registers everything else")
    demand(1 <= count <= (64 if spec.type == T_STRING else 4), "a field takes 1 to 4 registers, a string up to 64")
    demand(not fixed or count == fixed, "wrong number of registers for the type")
    demand(0 <= spec.first and spec.first + count <= request.count, "field outside its request")
    demand(0 <= spec.bit < 64 and 1 <= spec.width <= 32 and spec.divide != 0, "bit, width or divide out of range")
    demand(spec.type != T_BOOL or count == 1, "a bool is one bit")
    field.column, field.first, field.type, field.order = spec.column, spec.first, spec.type, spec.order
    field.count, field.bit, field.width = count, spec.bit, spec.width
    field.is_signed = spec.type in (T_INT16, T_INT32, T_INT64, T_FLOAT64)
    field.multiply, field.add, field.divide = spec.multiply, spec.add, spec.divide
    if spec.type == T_STRING:
        field.text_at = meter.text_size
        meter.text_size += 2 * count
    possible = [code for code in spec.invalid if -(1 << 63) <= code < 1 << 64]
    demand(len(possible) < 1 << 16, "too many invalid codes")
    if possible:
        field.invalid_count = len(possible)
        field.invalid = <uint64_t *>block(line, len(possible), sizeof(uint64_t))
        field.negative = <uint8_t *>block(line, len(possible), 1)
        for i, code in enumerate(possible):
            field.invalid[i] = code & 0xFFFFFFFFFFFFFFFF
            field.negative[i] = code < 0
    field.plain_float = spec.type == T_FLOAT32 and spec.order == 0 and not possible


cdef inline void build_frame(Line *line, Request *request, int address) except *:
    cdef uint8_t *frame = request.frame
    cdef int at = 6 if line.kind == TCP else 0
    cdef uint16_t crc
    frame[at] = request.unit
    frame[at + 1] = request.function
    frame[at + 2], frame[at + 3] = address >> 8, address & 0xFF
    frame[at + 4], frame[at + 5] = request.count >> 8, request.count & 0xFF
    if line.kind == TCP:
        frame[5] = 6
        request.frame_size = 12
        return
    crc = crc16(frame, 6)
    frame[6], frame[7] = crc & 0xFF, crc >> 8
    request.frame_size = RTU_REQUEST
    request.out_ns = RTU_REQUEST * line.byte_ns
    request.in_ns = (5 + request.data_bytes) * line.byte_ns


cdef inline void build_request(Line *line, Request *request, object spec, Meter *meter) except *:
    cdef bint bits = spec.function <= 2
    demand(1 <= spec.function <= 4, "function must be 1 to 4")
    demand(1 <= spec.items <= (2000 if bits else 125), "count must be 1 to 125 registers or 2000 bits")
    demand(0 <= spec.address and spec.address + spec.items <= 65536, "address beyond 65535")
    request.unit, request.function, request.count = meter.unit.id, spec.function, spec.items
    request.data_bytes = (spec.items + 7) // 8 if bits else 2 * spec.items
    request.field_count = len(spec.fields)
    request.fields = <Field *>block(line, len(spec.fields), sizeof(Field))
    for i, field in enumerate(spec.fields):
        build_field(line, &request.fields[i], field, meter, request)
    build_frame(line, request, spec.address)


cdef inline void build_reading(Line *line, Meter *meter, object spec) except *:
    """What it asks and keeps in a scan."""
    cdef int i
    demand(1 <= len(spec.requests) < 1 << 14 and 0 <= spec.columns < 1 << 14, "a meter needs requests and columns")
    demand(0 <= spec.tag < 1 << 31, "tag out of range")
    meter.tag = spec.tag
    meter.values_wanted = spec.values
    meter.request_count, meter.column_count = len(spec.requests), spec.columns
    meter.requests = <Request *>block(line, len(spec.requests), sizeof(Request))
    for i, request in enumerate(spec.requests):
        build_request(line, &meter.requests[i], request, meter)
        if meter.requests[i].data_bytes < meter.requests[meter.probe_request].data_bytes:
            meter.probe_request = i
    meter.answers = <int64_t *>block(line, meter.request_count, 8)
    meter.slots = <int64_t *>block(line, meter.column_count, 8)
    meter.values = <double *>block(line, meter.column_count, 8)
    meter.quality = <uint8_t *>block(line, meter.column_count, 1)
    meter.texts = <uint8_t *>block(line, meter.text_size, 1)
    meter.record_size = record_size(meter.request_count, meter.column_count, meter.text_size, meter.values_wanted)


cdef inline void build_parts_of(Line *line, Meter *meter, object spec) except *:
    """Its variants: the meter as it is without any seldom part stands first."""
    cdef int i
    cdef int count = len(spec.everys)
    demand(count <= MAX_PARTS and len(spec.variants) == (1 << count) - 1, "at most 3 parts, and a variant for each case")
    if count == 0:
        return
    demand(spec.interval_ns > 0, "parts that are read seldom need an interval")
    meter.part_count = count
    for i, every in enumerate(spec.everys):
        demand(2 <= every <= 10_000_000, "a part is read in each 2nd to 10,000,000th slot")
        meter.every[i] = every
    meter.variants = <Meter *>block(line, 1 << count, sizeof(Meter))
    wear(&meter.variants[0], meter)
    for i, variant in enumerate(spec.variants):
        demand(not variant.everys and variant.unit == spec.unit, "a variant has the meter's unit, and no parts")
        meter.variants[i + 1].unit = meter.unit
        build_reading(line, &meter.variants[i + 1], variant)


cdef inline void build_meter(Line *line, Meter *meter, object spec) except *:
    demand(spec.interval_ns == 0 or 1_000_000 <= spec.interval_ns <= 7 * 86_400_000_000_000, "interval out of range")
    demand(0 <= spec.gap_ns <= 60_000_000_000, "gap out of range")
    meter.interval, meter.gap = spec.interval_ns, spec.gap_ns
    meter.offset = spec.offset_ns % spec.interval_ns if spec.interval_ns else 0
    build_reading(line, meter, spec)
    build_parts_of(line, meter, spec)


cdef inline void build_units(Line *line, object spec) except *:
    """One for each unit id, whose probe is the smallest request of its meters."""
    ids = sorted({one.unit for one in spec.meters})
    demand(not ids or (min(ids) >= 0 and max(ids) <= 255), "unit must be 0 to 255")
    line.unit_count = len(ids)
    line.units = <Unit *>block(line, len(ids), sizeof(Unit))
    for i, id in enumerate(ids):
        line.units[i].id = id
        line.units[i].probe_meter = -1
        line.units[i].base_ns = 5_000_000_000
    for i, meter_spec in enumerate(spec.meters):
        line.meters[i].unit = &line.units[ids.index(meter_spec.unit)]


cdef inline void choose_probes(Line *line) noexcept nogil:
    cdef int i
    cdef Meter *meter
    cdef Meter *other
    cdef Unit *unit
    for i in range(line.meter_count):
        meter = &line.meters[i]
        unit = meter.unit
        # The backoff begins at half a slot, so that the second try is the next slot, or soon for slow meters.
        unit.base_ns = min(unit.base_ns, max(meter.interval, 200_000_000))
        if unit.probe_meter >= 0:
            other = &line.meters[unit.probe_meter]
            if other.requests[other.probe_request].data_bytes <= meter.requests[meter.probe_request].data_bytes:
                continue
        unit.probe_meter = i


cdef inline int block_bound(object spec) except -1:
    """How many blocks build_line allocates at most."""
    cdef int count = 8
    for own in spec.meters:
        for meter in (own, *own.variants):
            count += 7
            for request in meter.requests:
                count += 1 + 2 * len(request.fields)
    return count


cdef inline void build_parts(Line *line, object spec) except *:
    demand(spec.kind in (SERIAL, TCP, RTU_TCP), "unknown kind of line")
    demand(1_000_000 <= spec.timeout_ns <= 60_000_000_000, "timeout must be 1 ms to 60 s")
    demand(1 <= spec.connections <= MAX_CONNECTIONS and 1 <= spec.outstanding <= MAX_OUTSTANDING, "1 to 16 at once")
    demand(spec.kind == TCP or spec.connections == spec.outstanding == 1, "one transaction at a time without MBAP")
    demand(0 <= spec.byte_ns <= 100_000_000 and 0 <= spec.silence_ns <= 1_000_000_000, "byte or silence out of range")
    demand(len(spec.address) <= 32, "no address is longer than 32 bytes")
    line.kind, line.timeout, line.byte_ns, line.silence = spec.kind, spec.timeout_ns, spec.byte_ns, spec.silence_ns
    demand(0 <= spec.least_timeout_ns, "the least timeout is below 0")
    line.least_timeout = min(spec.least_timeout_ns, spec.timeout_ns)
    line.connection_count, line.outstanding = spec.connections, spec.outstanding
    line.address_size = len(spec.address)
    if line.address_size:
        memcpy(line.address, <const uint8_t *><bytes>spec.address, line.address_size)
    line.meter_count = len(spec.meters)
    line.meters = <Meter *>block(line, line.meter_count, sizeof(Meter))
    line.waiting = <Meter **>block(line, line.meter_count, sizeof(void *))
    line.ready = <Meter **>block(line, line.meter_count, sizeof(void *))
    line.active = <Meter **>block(line, line.meter_count, sizeof(void *))
    line.connections = <Connection *>block(line, line.connection_count, sizeof(Connection))
    build_units(line, spec)
    for i, meter in enumerate(spec.meters):
        build_meter(line, &line.meters[i], meter)
    choose_probes(line)
    for i in range(line.connection_count):
        line.connections[i].line = line
        line.connections[i].fd = -1
    line.next_probe = PF_NEVER
    line.timer_at = -1


cdef inline Line *build_line(object spec) except NULL:
    """Raises ValueError for what does not fit; the engine never meets it then."""
    cdef Line *line = <Line *>calloc(1, sizeof(Line))
    if line == NULL:
        raise MemoryError
    line.blocks = <void **>calloc(block_bound(spec), sizeof(void *))
    if line.blocks == NULL:
        free(line)
        raise MemoryError
    try:
        build_parts(line, spec)
    except BaseException:
        free_line(line)
        raise
    return line
