"""Engine: one native thread that owns serial lines and TCP endpoints, and reads their meters at their slots.

Python adds lines as specifications (native/spec.py) and takes finished scans as arrays; in between the engine works
without the GIL, allocates nothing and raises nothing. Parts, from the bottom: model (structures), clock, registers,
frames, heap, results, health (time-outs, probes), link (one descriptor), wear (what a meter asks), scan (one meter's
slot), line (transactions), arrivals, turns, graft (a meter's requests replaced), loop, commands.
"""

import os
from threading import Lock

from cpython.array cimport array, clone
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset
from posix.unistd cimport close

from parkfleet.native.build_line cimport build_line, free_line
from parkfleet.native.clock cimport monotonic, wall
from parkfleet.native.commands cimport (
    ADD, ADDRESS, CLOCK, HOLD, LEND, OPENED, REMOVE, REPLACE, STOP, TAKE_BACK, TAP, WAKE, ZONE, Command, Commands,
    abandon, end_all, obey, open_commands, close_commands, post,
)
from parkfleet.native.frames cimport pf_crc_prepare
from parkfleet.native.health cimport patience
from parkfleet.native.link cimport EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLLIN, epoll_create1, epoll_ctl, epoll_event
from parkfleet.native.loop cimport is_finished, pf_sharp_timers, signal, turn
from parkfleet.native.model cimport SAMPLES, Line, Meter, State, Unit
from parkfleet.native.results cimport RecordHead, next_record, release_record

from parkfleet.native.spec import LineCounters, LineSpec, MeterCounters

pf_crc_prepare()

#: Two seconds of a busy TCP line, minutes of a serial one.
cdef enum:
    TAP_BYTES = 1 << 20

cdef array INTEGERS = array("q")
cdef array DOUBLES = array("d")


cdef array copied(array kind, const void *data, Py_ssize_t count):
    cdef array result = clone(kind, count, False)
    memcpy(result.data.as_voidptr, data, 8 * count)
    return result


cdef uint32_t largest_record(const Meter *meter):
    """Of all its variants."""
    cdef int i
    return max([meter.record_size] + [meter.variants[i].record_size for i in range(1, 1 << meter.part_count)])


cdef int64_t median(const Unit *unit):
    """Of the last turnarounds; 0: none yet."""
    cdef int count = <int>min(unit.sample_count, SAMPLES)
    cdef int i
    return sorted([unit.samples[i] for i in range(count)])[count // 2] if count else 0


cdef tuple unpacked(const RecordHead *head):
    """A record as Python has it: see native/spec.py, Record."""
    cdef const uint8_t *at = <const uint8_t *>(head + 1)
    cdef uint32_t columns = head.column_count
    cdef const int64_t *times = <const int64_t *>at
    cdef int i
    answers = (times[0],) if head.request_count == 1 else tuple([times[i] for i in range(<int>head.request_count)])
    at += 8 * head.request_count
    cdef array slots = copied(INTEGERS, at, columns)
    at += 8 * columns
    values = None
    if head.values:
        values = copied(DOUBLES, at, columns)
        at += 8 * columns
    quality = PyBytes_FromStringAndSize(<const char *>at, columns)
    texts = PyBytes_FromStringAndSize(<const char *>(at + columns), head.text_size)
    return head.tag, head.slot_ms, answers, slots, quality, texts, values


cdef class Engine:
    """See engine.pyi."""

    cdef State state
    cdef Commands commands
    cdef dict _lines        # index: address of its Line
    cdef list _free
    cdef object _running    # held by run()
    cdef bint _closed

    def __cinit__(self, int lines=1024, int ring_bytes=1 << 22, int64_t notify_ns=2_000_000, uint64_t seed=0):
        cdef epoll_event event
        memset(&self.state, 0, sizeof(State))
        self.state.epoll = self.state.command_fd = self.state.result_fd = -1
        if not 1 <= lines <= 65536 or ring_bytes < 4096 or ring_bytes & (ring_bytes - 1):
            raise ValueError("lines must be 1 to 65536, ring_bytes a power of two from 4096")
        self._lines, self._free, self._running = {}, list(range(lines - 1, -1, -1)), Lock()
        self.state.line_limit = lines
        self.state.lines = <Line **>calloc(lines, sizeof(void *))
        self.state.timers = <Line **>calloc(lines, sizeof(void *))
        self.state.ring.data = <uint8_t *>calloc(1, ring_bytes)
        self.state.ring.size = ring_bytes
        if self.state.lines == NULL or self.state.timers == NULL or self.state.ring.data == NULL:
            raise MemoryError
        self.state.random = seed * 2 + 1 if seed else int.from_bytes(os.urandom(8), "little") | 1
        self.state.notify_every = notify_ns
        self.state.follow_clock = 1
        self.state.now = self.state.clock_check = monotonic()
        self.state.wall_offset = wall() - self.state.now
        self.state.epoll = epoll_create1(EPOLL_CLOEXEC)
        self.state.command_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.state.result_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        event.events = EPOLLIN
        event.data.ptr = NULL
        if self.state.epoll < 0 or epoll_ctl(self.state.epoll, EPOLL_CTL_ADD, self.state.command_fd, &event) != 0:
            raise OSError("no epoll")
        open_commands(&self.commands)

    def __dealloc__(self):
        self._release()

    cdef void _release(self):
        """Frees everything; the thread is not in run()."""
        cdef int fd
        if self._closed:
            return
        self._closed = True
        if self.state.lines != NULL and self.state.timers != NULL:
            abandon(&self.commands, &self.state)
        close_commands(&self.commands)
        for fd in (self.state.epoll, self.state.command_fd, self.state.result_fd):
            if fd >= 0:
                close(fd)
        free(self.state.lines)
        free(self.state.timers)
        free(self.state.ring.data)
        free(self.state.taps.data)

    def close(self):
        if self._closed:
            return
        if not self._running.acquire(False):
            raise RuntimeError("the engine runs: stop() it and join its thread first")
        self._release()

    @property
    def results_fd(self):
        return self.state.result_fd

    @property
    def overruns(self):
        return self.state.ring.overruns

    @property
    def changes(self):
        return self.state.changes

    def run(self):
        cdef bint commanded
        self._open()
        if not self._running.acquire(False):
            raise RuntimeError("the engine runs already")
        try:
            with nogil:
                pf_sharp_timers()
                self.state.now = monotonic()
                obey(&self.commands, &self.state)
                while not is_finished(&self.state):
                    if turn(&self.state):
                        obey(&self.commands, &self.state)
                end_all(&self.state)
                signal(self.state.result_fd)
        finally:
            self._running.release()

    def turn(self):
        self._open()
        obey(&self.commands, &self.state)
        turn(&self.state)

    def stop(self, double within_s=2.0):
        self._post(STOP, 0, <int64_t>(within_s * 1e9), NULL)

    def add_line(self, spec):
        cdef Line *line
        cdef int i
        self._open()
        if not self._free:
            raise ValueError("no more lines")
        line = build_line(spec)
        for i in range(line.meter_count):
            if largest_record(&line.meters[i]) > self.state.ring.size // 4:
                free_line(line)
                raise ValueError("a meter's record does not fit into the ring")
        index = self._free.pop()
        line.index = index
        self._lines[index] = <size_t>line
        self._post(ADD, index, spec.fd, line)
        return index

    def remove_line(self, int index):
        self._line(index)
        del self._lines[index]
        self._post(REMOVE, index, 0, NULL)
        self._free.insert(0, index)

    def line_opened(self, int index, int fd):
        self._line(index)
        self._post(OPENED, index, fd, NULL)

    def set_address(self, int index, bytes address):
        self._line(index)
        if len(address) > 32:
            raise ValueError("no address is longer than 32 bytes")
        self._post(ADDRESS, index, len(address), NULL, address)

    def wake(self, int index, int unit):
        self._line(index)
        self._post(WAKE, index, unit, NULL)

    def replace_meter(self, int index, int meter, spec):
        cdef Line *line = self._line(index)
        cdef Line *fresh
        cdef int kind = line.kind
        if not 0 <= meter < line.meter_count:
            raise KeyError(f"no meter {meter}")
        if spec.unit != line.meters[meter].unit.id:
            raise ValueError("a meter keeps its unit")
        fresh = build_line(LineSpec(kind, line.timeout, (spec,), line.byte_ns, line.silence))
        if largest_record(&fresh.meters[0]) > self.state.ring.size // 4:
            free_line(fresh)
            raise ValueError("a meter's record does not fit into the ring")
        try:
            self._post(REPLACE, index, meter, fresh)
        except BaseException:
            free_line(fresh)
            raise

    def lend(self, int index):
        self._line(index)
        self._post(LEND, index, 0, NULL)

    def take_back(self, int index):
        self._line(index)
        self._post(TAKE_BACK, index, 0, NULL)

    def hold(self, int index, int unit, int64_t span_ns):
        self._line(index)
        if not 0 <= unit <= 255 or not 0 <= span_ns < 1 << 50:
            raise ValueError("unit must be 0 to 255, and no unit is held for days")
        self._post(HOLD, index, span_ns << 8 | unit, NULL)

    def held_ns(self, int index, int unit):
        cdef Line *line = self._line(index)
        cdef int i
        for i in range(line.unit_count):
            if line.units[i].id == unit:
                return max(0, line.units[i].not_before - monotonic())
        return 0

    def loans(self, int index):
        return self._line(index).loans

    def set_clock(self, offset_ns):
        self._post(CLOCK, 0 if offset_ns is None else 1, offset_ns or 0, NULL)

    def set_zone(self, int64_t offset_ns):
        if not -86_400_000_000_000 < offset_ns < 86_400_000_000_000:
            raise ValueError("no local time is a day from UTC")
        self._post(ZONE, 0, offset_ns, NULL)

    def missed(self, int index):
        cdef Line *line = self._line(index)
        cdef int i
        return [line.meters[i].missed for i in range(line.meter_count)]

    def take(self, int limit=0):
        cdef list records = []
        cdef RecordHead *head
        self._open()
        try:
            os.eventfd_read(self.state.result_fd)
        except BlockingIOError:
            pass
        while limit <= 0 or len(records) < limit:
            head = next_record(&self.state.ring)
            if head == NULL:
                break
            records.append(unpacked(head))
            release_record(&self.state.ring, head)
        return records

    def tap(self, int index, bint wanted):
        self._line(index)
        if wanted and self.state.taps.data == NULL:  # the engine's thread looks at it after the command alone
            self.state.taps.data = <uint8_t *>calloc(1, TAP_BYTES)
            if self.state.taps.data == NULL:
                raise MemoryError
            self.state.taps.size = TAP_BYTES
        self._post(TAP, index, wanted, NULL)

    def tapped(self):
        cdef list taken = []
        cdef RecordHead *head
        self._open()
        while self.state.taps.data != NULL:
            head = next_record(&self.state.taps)
            if head == NULL:
                break
            taken.append((bool(head.tag), head.slot_ms, PyBytes_FromStringAndSize(<const char *>(head + 1), head.text_size)))
            release_record(&self.state.taps, head)
        return taken, self.state.taps.overruns

    def line_counters(self, int index):
        cdef Line *line = self._line(index)
        cdef uint64_t *counted = <uint64_t *>&line.counters
        cdef int i
        numbers = [counted[i] for i in range(<int>(sizeof(line.counters) // 8))]
        return LineCounters(bool(line.up), bool(line.failed), line.error, *numbers)

    def meter_counters(self, int index):
        cdef Line *line = self._line(index)
        cdef Meter *meter
        cdef int i
        result = []
        for i in range(line.meter_count):
            meter = &line.meters[i]
            result.append(MeterCounters(
                meter.tag, meter.unit.id, meter.scans, meter.missed, meter.unit.misses, meter.unit.cause,
                meter.unit.turnaround, meter.unit.deviation, patience(line, meter.unit), median(meter.unit),
                meter.unit.sample_count, meter.asked, meter.answered_all, meter.timeouts, meter.busy_ns,
            ))
        return result

    cdef Line *_line(self, int index) except NULL:
        self._open()
        if index not in self._lines:
            raise KeyError(f"no line {index}")
        return <Line *><size_t>self._lines[index]

    cdef void _open(self) except *:
        if self._closed:
            raise RuntimeError("the engine is closed")

    cdef void _post(self, int what, int index, int64_t number, Line *line, const uint8_t *address=NULL) except *:
        self._open()
        if not post(&self.commands, what, index, number, line, address):
            raise MemoryError
        signal(self.state.command_fd)
