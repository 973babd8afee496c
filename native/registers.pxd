"""Registers: an answer's bytes to slots, bit for bit as protocols/registers.decode, without the GIL."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint64_t
from libc.string cimport memcpy

from parkfleet.native.model cimport (
    GOOD, INVALID, T_BCD, T_BITS, T_BOOL, T_FLOAT32, T_FLOAT64, T_INT16, T_INT32, T_INT64, T_STRING, Field, Meter,
    Request,
)


cdef inline uint16_t word_of(const Field *field, const uint8_t *data, int index) noexcept nogil:
    """The index-th most significant word of a field; orders CDAB and DCBA turn the words, BADC and DCBA the bytes."""
    cdef int place = field.first + (field.count - 1 - index if field.order & 1 else index)
    cdef uint8_t high = data[2 * place]
    cdef uint8_t low = data[2 * place + 1]
    if field.order & 2:
        return <uint16_t>(low << 8 | high)
    return <uint16_t>(high << 8 | low)


cdef inline int64_t sign_extended(uint64_t raw, int type) noexcept nogil:
    if type == T_INT16:
        return <int64_t><short>raw
    if type == T_INT32:
        return <int64_t><int>raw
    return <int64_t>raw


cdef inline bint from_bcd(uint64_t raw, int64_t *slot) noexcept nogil:
    """False when a nibble is above 9."""
    cdef int64_t value = 0
    cdef int shift = 60
    cdef int digit
    while shift >= 0:
        digit = <int>(raw >> shift & 15)
        if digit > 9:
            return False
        value = 10 * value + digit
        shift -= 4
    slot[0] = value
    return True


cdef inline bint is_invalid(const Field *field, uint64_t raw, int64_t slot) noexcept nogil:
    """Whether the raw value or the slot, as the numbers they are, is one of the declared codes."""
    cdef int i
    cdef bint below = field.is_signed and slot < 0
    for i in range(field.invalid_count):
        if field.negative[i]:
            if below and <uint64_t>slot == field.invalid[i]:
                return True
        elif raw == field.invalid[i] or (not below and <uint64_t>slot == field.invalid[i]):
            return True
    return False


cdef inline double scaled(const Field *field, int64_t slot) noexcept nogil:
    """The number a slot stands for."""
    cdef double number
    cdef float single
    cdef unsigned int bits
    if field.type == T_FLOAT32:
        bits = <unsigned int>slot
        memcpy(&single, &bits, 4)
        number = single
    elif field.type == T_FLOAT64:
        memcpy(&number, &slot, 8)
    elif field.is_signed:
        number = <double>slot
    else:
        number = <double><uint64_t>slot
    return (number * field.multiply + field.add) / field.divide


cdef inline uint8_t decode_field(const Field *field, const uint8_t *data, int64_t *slot, uint8_t *texts) noexcept nogil:
    """Writes the slot (0 without a value), or the text; returns the quality."""
    cdef uint64_t raw = 0
    cdef uint16_t word
    cdef int i
    cdef int64_t value
    slot[0] = 0
    if field.type == T_BOOL:
        slot[0] = data[field.first >> 3] >> (field.first & 7) & 1
        return GOOD
    if field.type == T_STRING:
        for i in range(field.count):
            word = word_of(field, data, i)
            texts[field.text_at + 2 * i] = <uint8_t>(word >> 8)
            texts[field.text_at + 2 * i + 1] = <uint8_t>(word & 0xFF)
        return GOOD
    for i in range(field.count):
        raw = raw << 16 | word_of(field, data, i)
    if field.type == T_BCD:
        if not from_bcd(raw, &value):
            return INVALID
        raw = <uint64_t>value
    elif field.type == T_BITS:
        value = <int64_t>(raw >> field.bit & ((<uint64_t>1 << field.width) - 1))
        raw = <uint64_t>value
    else:
        value = sign_extended(raw, field.type)
        if field.type == T_FLOAT32 and raw & 0x7F800000 == 0x7F800000:
            return INVALID
        if field.type == T_FLOAT64 and raw & <uint64_t>0x7FF0000000000000 == <uint64_t>0x7FF0000000000000:
            return INVALID
    if field.invalid_count and is_invalid(field, raw, value):
        return INVALID
    slot[0] = value
    return GOOD


cdef inline void decode_plain_float(const Field *field, const uint8_t *data, Meter *meter) noexcept nogil:
    """The commonest field, a float32 in ABCD without codes of its own, at a third of the price."""
    cdef unsigned int bits = (
        <unsigned int>data[0] << 24 | <unsigned int>data[1] << 16 | <unsigned int>data[2] << 8 | <unsigned int>data[3]
    )
    cdef float single
    if bits & 0x7F800000 == 0x7F800000:
        meter.quality[field.column] = INVALID
        bits = 0
    else:
        meter.quality[field.column] = GOOD
    meter.slots[field.column] = bits
    if meter.values_wanted:
        memcpy(&single, &bits, 4)
        meter.values[field.column] = (single * field.multiply + field.add) / field.divide


cdef inline void decode_request(Meter *meter, const Request *request, const uint8_t *data) noexcept nogil:
    """Decodes an answer's values (its byte count has been checked) into the meter's scan."""
    cdef int i
    cdef const Field *field
    for i in range(request.field_count):
        field = &request.fields[i]
        if field.plain_float:
            decode_plain_float(field, data + 2 * field.first, meter)
            continue
        meter.quality[field.column] = decode_field(field, data, &meter.slots[field.column], meter.texts)
        if meter.values_wanted:
            meter.values[field.column] = scaled(field, meter.slots[field.column])
