"""Model: the line engine's structures, allocated once when a line is added, touched by its thread only."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    RX_SIZE = 512           # a connection's receive buffer: more than the longest frame (260)
    MAX_CONNECTIONS = 16
    MAX_OUTSTANDING = 16
    TX_SIZE = 12 * MAX_OUTSTANDING
    RTU_MAX = 256           # unit, function, 252 bytes, CRC
    RTU_REQUEST = 8         # every read request, and what a second master's look like
    MBAP_HEADER = 7
    MBAP_MAX_LENGTH = 254
    MAX_PARTS = 3           # of a meter that are read seldom
    SAMPLES = 15            # turnarounds kept of a unit, for their median

cdef enum LineKind:
    SERIAL = 0
    TCP = 1
    RTU_TCP = 2

cdef enum FieldType:
    T_INT16 = 0
    T_UINT16
    T_INT32
    T_UINT32
    T_INT64
    T_UINT64
    T_FLOAT32
    T_FLOAT64
    T_BCD
    T_BITS
    T_STRING
    T_BOOL

# protocols/quality.py; the codes never change their meaning.
cdef enum Cause:
    GOOD = 0
    TIMEOUT = 1
    CORRUPT = 2
    DISCONNECTED = 3
    INVALID = 4
    SKIPPED = 6
    EXCEPTION = 0x80

cdef enum Place:
    IDLE = 0                # in no heap
    WAITING                 # for its slot, or for its unit to be asked again
    READY                   # its slot has come
    ACTIVE                  # its scan is under way

cdef enum Link:
    CLOSED = 0
    CONNECTING
    UP

cdef struct Field:
    uint16_t column
    uint16_t first
    uint8_t type
    uint8_t order
    uint8_t count
    uint8_t bit
    uint8_t width
    uint8_t is_signed       # the slot may be negative
    uint8_t plain_float     # float32, ABCD, no codes
    uint16_t invalid_count
    uint32_t text_at        # in the meter's text area
    uint64_t *invalid
    uint8_t *negative       # whether invalid[i] is below 0
    double multiply
    double add
    double divide

cdef struct Request:
    uint8_t frame[12]       # RTU: 8 bytes with CRC; TCP: MBAP and PDU, transaction id still 0
    uint8_t frame_size
    uint8_t unit
    uint8_t function
    uint8_t data_bytes      # of values in the answer
    uint16_t count
    uint16_t field_count
    Field *fields
    int64_t out_ns          # wire time of the request
    int64_t in_ns           # wire time of the answer

# One slave of a line: two meters of one unit share what is known of it.
cdef struct Unit:
    uint8_t id
    uint8_t cause           # of the last miss
    uint8_t late            # an answer may still come that nobody waits for
    int32_t misses          # time-outs in a row; 0: alive
    int32_t probe_meter     # whose smallest request is the probe
    int64_t turnaround      # smoothed; 0: nothing learned
    int64_t deviation
    int64_t samples[SAMPLES]  # the last turnarounds, a ring
    uint64_t sample_count
    int64_t late_sent       # when the request was sent whose answer may come late, and its wire time
    int64_t late_wire
    int64_t not_before      # no request before this: late answers, or the slave's own gap
    int64_t next_probe
    int64_t last_probe
    int64_t base_ns         # of the backoff

cdef struct Meter:
    uint32_t tag
    Unit *unit
    int64_t interval        # 0: continuous
    int64_t offset
    int64_t gap
    int64_t slot            # UTC; of the scan that is due next, or under way
    int64_t key             # in the heap the meter stands in, monotonic
    int32_t heap_at
    uint8_t place
    uint8_t values_wanted
    uint16_t request_count
    uint16_t column_count
    uint32_t text_size
    uint32_t record_size
    Request *requests
    uint16_t probe_request
    # the scan under way
    uint8_t probing         # the smallest request goes first and alone
    uint8_t off_slot        # a probe between slots: tells nothing when it fails
    uint8_t failed          # cause that ended the scan
    uint16_t sent
    uint16_t under_way
    uint16_t answered
    int64_t *answers
    int64_t *slots
    double *values
    uint8_t *quality
    uint8_t *texts
    int32_t part_count      # read seldom
    int64_t every[MAX_PARTS]  # slots
    int64_t latest          # index of the slot that was taken last
    uint8_t numbered        # one was
    Meter *variants         # by the bits of the parts that are due; NULL: always read alike
    Line *replacement       # holds its next requests, taken over when its scan has ended; NULL: none
    Line *graft             # holds the memory of its requests when they were replaced; NULL: its line does
    # counted
    uint64_t scans
    uint64_t missed
    uint64_t asked          # requests sent
    uint64_t answered_all   # answers, refusals among them
    uint64_t timeouts
    uint64_t busy_ns

cdef struct Transaction:
    Meter *meter            # NULL: free
    Request *request
    uint16_t index          # of the request in its meter
    uint16_t id             # MBAP
    uint8_t foreign         # frames of other units came meanwhile
    uint8_t begun           # the first byte came
    int64_t sent            # when the request began
    int64_t sent_end        # when its last byte has left the wire
    int64_t deadline

cdef struct Connection:
    Line *line
    int fd
    uint8_t state
    uint8_t proven          # answered since it was opened
    uint8_t more            # the last read filled the buffer: there may be more
    int64_t retry_at
    int64_t backoff
    int64_t deadline        # of connecting
    int64_t quiet_at        # RTU: when the last byte, ours or not, was on the wire
    int64_t nap_until       # serial: not listened to before this, 0: listened to
    uint16_t next_id
    int32_t under_way
    Transaction transactions[MAX_OUTSTANDING]
    int32_t size            # bytes in rx
    int32_t boundary        # RTU: frames before it are done with
    int32_t scan            # RTU: no answer of ours begins before it
    int32_t need            # RTU: nothing new to see before rx holds so many bytes
    uint8_t rx[RX_SIZE]
    int32_t tx_size         # TCP with several under way: requests that go out together at the end of the line's turn
    uint8_t tx[TX_SIZE]

cdef struct Counters:
    uint64_t openings       # ports handed over, or told as not to be opened
    uint64_t losses
    uint64_t requests
    uint64_t answers
    uint64_t scans
    uint64_t missed
    uint64_t timeouts
    uint64_t corrupt
    uint64_t exceptions
    uint64_t disconnects
    uint64_t foreign
    uint64_t late
    uint64_t early
    uint64_t stray
    uint64_t bytes_out
    uint64_t bytes_in
    uint64_t busy_ns
    uint64_t dead_busy_ns

cdef struct Line:
    uint8_t kind
    uint8_t up
    uint8_t failed          # tried and down: meters due meanwhile are told as disconnected
    uint8_t lending         # somebody else wants the serial port: no scan is begun
    uint8_t lent            # and has it: nothing is sent or listened to
    uint8_t tapped          # what goes over its wire is written down
    uint64_t loans          # how often it was lent
    int32_t index
    int32_t error           # errno of the last failure
    int64_t byte_ns
    int64_t silence
    int64_t timeout         # longest wait for an answer to begin
    int64_t least_timeout   # shortest, whatever was learned
    int32_t outstanding
    int32_t connection_count
    int32_t unit_count
    int32_t meter_count
    Connection *connections
    Unit *units
    Meter *meters
    Meter **waiting         # heap by the time of release
    Meter **ready           # heap by deadline
    Meter **active
    int32_t waiting_count
    int32_t ready_count
    int32_t active_count
    int32_t dead_count      # units with misses
    int64_t next_probe      # none is due before it
    int64_t budget          # what dead meters may still use, ns; below 0 after a probe
    int64_t goodwill        # what waiting for units that are well may still cost in vain, ns; may go below 0
    int64_t budget_at       # when both were reckoned
    int64_t rally_at        # silent units are not asked out of turn before it
    int64_t blocked_since   # requests wait for silence; 0: they do not
    int64_t wake            # the line's next timer, monotonic
    int32_t timer_at        # its place in the engine's timers
    uint32_t address_size
    uint8_t address[32]
    void **blocks           # everything allocated for this line
    int32_t block_count
    Counters counters

cdef struct Ring:
    uint8_t *data
    uint64_t size           # a power of two
    uint64_t head           # written by the engine's thread
    uint64_t tail           # written by the taker
    uint64_t overruns

cdef struct State:
    int epoll
    int command_fd
    int result_fd
    int64_t now
    int64_t wall_offset     # UTC = monotonic + this
    int64_t zone            # local time is UTC + this; slots lie on the local clock
    uint8_t follow_clock    # keep wall_offset by the system's clock
    int64_t clock_check
    int64_t grace           # no time-out before this: the process itself was not running
    int64_t stop_by         # 0: running
    int64_t notify_at       # 0: nothing to tell
    int64_t notify_every
    uint64_t changes        # of lines' states
    uint64_t random
    Line **lines
    int32_t line_limit
    Line **timers           # heap by wake
    int32_t timer_count
    Ring ring
    Ring taps               # bytes off the wire; no memory until somebody wants them
