"""Frames: an RTU connection's received bytes searched once for the answer that is awaited; CRC.

An answer is complete by its own length; silence is never waited for. Positions are kept between calls: `boundary`
behind the frames that were recognised, `scan` before which no answer of ours begins, `need` below which nothing
new can be seen. What comes before the answer (noise at the direction change, late answers, a second master) is
passed over. An answer counts only with the asked unit, function and byte count, and the right CRC.
"""

from libc.stdint cimport uint8_t, uint16_t

from parkfleet.native.model cimport RTU_MAX, RTU_REQUEST, Connection, Request

cdef extern from *:
    """
    static unsigned short pf_crc_table[256];
    static void pf_crc_prepare(void) {
        for (unsigned value = 0; value < 256; value++) {
            unsigned crc = value;
            for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0xA001 : 0);
            pf_crc_table[value] = (unsigned short)crc;
        }
    }
    """
    const uint16_t pf_crc_table[256]
    void pf_crc_prepare() noexcept nogil

cdef enum Found:
    MORE = 0        # not whole yet
    ANSWER          # values at data
    REFUSAL         # an exception answer, its code in code
    WRONG           # the asked unit answered something else, or with a wrong CRC
    FOREIGN         # a whole frame of another unit was passed over; search again

cdef struct Finding:
    int kind
    int data        # index of the values in rx
    int behind      # index behind the frame
    uint8_t unit    # of a foreign frame
    uint8_t code


cdef inline uint16_t crc16(const uint8_t *data, int size) noexcept nogil:
    cdef unsigned int crc = 0xFFFF
    cdef int i
    for i in range(size):
        crc = pf_crc_table[(crc ^ data[i]) & 0xFF] ^ crc >> 8
    return <uint16_t>crc


cdef inline bint crc_right(const uint8_t *frame, int size) noexcept nogil:
    """Of a frame with its CRC at the end, low byte first; size is at least 3."""
    return crc16(frame, size - 2) == <uint16_t>(frame[size - 2] | frame[size - 1] << 8)


cdef inline bint is_exception_code(uint8_t code) noexcept nogil:
    """0 is none: it would read as an answer with values."""
    return 1 <= code <= 0x7F


cdef inline int answer_size(const uint8_t *frame) noexcept nogil:
    """Length by its first three bytes of what looks like an answer, or 0."""
    if frame[1] & 0x80:
        return 5
    if 1 <= frame[1] <= 4 and 5 + frame[2] <= RTU_MAX:
        return 5 + frame[2]
    return 0


cdef inline int foreign_size(const uint8_t *frame, int size) noexcept nogil:
    """Length of the whole frame of any kind that begins here, or 0: answers, and requests of a second master."""
    cdef int length
    if size >= RTU_REQUEST and crc_right(frame, RTU_REQUEST):
        return RTU_REQUEST
    if size >= 3:
        length = answer_size(frame)
        if 0 < length <= size and crc_right(frame, length):
            return length
    return 0


cdef inline int echo_size(const uint8_t *frame, int size, const Request *request) noexcept nogil:
    """How many bytes, up to a whole request, are those we sent: some RS-485 adapters hear themselves."""
    cdef int same = 0
    while same < size and same < RTU_REQUEST and frame[same] == request.frame[same]:
        same += 1
    return same


cdef inline bint passed_over(Connection *link, const Request *request, Finding *found) noexcept nogil:
    """Takes a whole frame of another unit, or our own request's echo, off the front. True also when it may become one."""
    cdef uint8_t *frame = link.rx + link.boundary
    cdef int size = link.size - link.boundary
    cdef int length
    if size < 3:
        return False
    if frame[0] == request.unit:
        if 5 + request.data_bytes <= RTU_REQUEST:
            return False  # an answer as short as its request cannot be told from an echo
        length = echo_size(frame, size, request)
        if length < size and length < RTU_REQUEST:
            return False
        if length < RTU_REQUEST:
            link.need = link.boundary + RTU_REQUEST
            return True
    else:
        length = foreign_size(frame, size)
        if length == 0:
            return False
    found.kind = FOREIGN
    found.unit = frame[0]
    link.boundary += length
    link.scan = max(link.scan, link.boundary)
    link.need = 0
    return True


cdef inline void rtu_search(Connection *link, const Request *request, Finding *found) noexcept nogil:
    """The next finding in the bytes that came since the request was sent."""
    cdef int at, length
    cdef uint8_t *frame
    found.kind = MORE
    if passed_over(link, request, found):
        return
    while link.size - link.scan >= 3:
        at = link.scan
        frame = link.rx + at
        if frame[0] == request.unit:
            length = 0
            if frame[1] == request.function and frame[2] == request.data_bytes:
                length = 5 + request.data_bytes
            elif frame[1] == (request.function | 0x80):
                length = 5
            elif at == link.boundary:
                length = answer_size(frame)
            if length:
                if at + length > link.size:
                    link.need = at + length
                    return
                if judge(link, request, found, at, length):
                    return
        link.scan = at + 1
    link.need = link.scan + 3


cdef inline bint judge(Connection *link, const Request *request, Finding *found, int at, int length) noexcept nogil:
    """Whether the whole candidate at `at` settles the search; garbage that only looked like an answer does not."""
    cdef uint8_t *frame = link.rx + at
    found.data = at + 3
    found.behind = at + length
    if not crc_right(frame, length):
        found.kind = WRONG if at + length >= link.size and frame[1] == request.function else MORE
    elif frame[1] == request.function and frame[2] == request.data_bytes:
        found.kind = ANSWER
    elif frame[1] == (request.function | 0x80) and is_exception_code(frame[2]):
        found.kind = REFUSAL
        found.code = frame[2]
    else:
        found.kind = WRONG
    return found.kind != MORE
