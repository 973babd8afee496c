"""Engine parts: pieces of the line engine on their own, for tests and fuzzing."""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memcpy, memset

from parkfleet.native.build_line cimport build_line, free_line
from parkfleet.native.frames cimport ANSWER, FOREIGN, REFUSAL, WRONG, Finding, pf_crc_prepare, rtu_search
from parkfleet.native.health cimport answered_well, learn, missed, open_budgets, patience, plan_probes
from parkfleet.native.model cimport RX_SIZE, TIMEOUT, WAITING, Connection, Line, Meter, Request, State
from parkfleet.native.registers cimport decode_request
from parkfleet.native.scan cimport clear_scan
from parkfleet.native.turns cimport probe_due

from parkfleet.native.spec import TCP, LineSpec

pf_crc_prepare()


def decode_answer(meter_spec, int request, const uint8_t[::1] data):
    """(slots, quality, texts, values) of one request's values: what the engine does, for tests."""
    cdef Line *line = build_line(LineSpec(TCP, 1_000_000_000, (meter_spec,), address=b"\0" * 16))
    cdef Meter *meter = &line.meters[0]
    try:
        if not 0 <= request < meter.request_count or data.shape[0] != meter.requests[request].data_bytes:
            raise ValueError("not the request's byte count")
        clear_scan(meter, 6)
        decode_request(meter, &meter.requests[request], &data[0])
        return (
            [meter.slots[i] for i in range(meter.column_count)],
            PyBytes_FromStringAndSize(<const char *>meter.quality, meter.column_count),
            PyBytes_FromStringAndSize(<const char *>meter.texts, meter.text_size),
            [meter.values[i] for i in range(meter.column_count)],
        )
    finally:
        free_line(line)


def search_answer(line_spec, chunks):
    """What the engine sees in the bytes that follow a serial line's only request: ("answer", values) and so on."""
    cdef Line *line = build_line(line_spec)
    cdef Connection *link = &line.connections[0]
    cdef Request *request = &line.meters[0].requests[0]
    cdef Finding found
    cdef const uint8_t *data
    cdef int size, foreign = 0
    try:
        for chunk in chunks:
            size = min(len(chunk), RX_SIZE - link.size)
            memcpy(link.rx + link.size, <const uint8_t *><bytes>chunk, size)
            link.size += size
            if link.size < link.need:
                continue
            rtu_search(link, request, &found)
            while found.kind == FOREIGN:
                foreign += 1
                rtu_search(link, request, &found)
            if found.kind == ANSWER:
                return "answer", PyBytes_FromStringAndSize(<const char *>link.rx + found.data, request.data_bytes)
            if found.kind == REFUSAL:
                return "refusal", found.code
            if found.kind == WRONG:
                return "wrong", foreign
        return "more", foreign
    finally:
        free_line(line)


def probes_of_silent(line_spec, taught, silent, int64_t span_ns):
    """What the engine does about silent units, in a time that nothing else passes: for tests."""
    cdef Line *line = build_line(line_spec)
    cdef State state
    cdef Meter *meter
    cdef int64_t sent, wire
    cdef int i
    memset(&state, 0, sizeof(State))
    state.random = 1
    asked = []
    try:
        open_budgets(line, 0)
        for i in range(line.meter_count):
            line.meters[i].place = WAITING
            for _ in range(30 if line.meters[i].unit.id in taught else 0):
                learn(line.meters[i].unit, taught[line.meters[i].unit.id])
            if line.meters[i].unit.id in silent:
                missed(&state, line, line.meters[i].unit, TIMEOUT, 0, 0)
        while state.now < span_ns and line.dead_count:
            meter = probe_due(&state, line)
            if meter == NULL:
                plan_probes(line)
                state.now = max(line.next_probe, state.now + 1)
            elif silent[meter.unit.id] <= state.now:
                asked.append((meter.unit.id, state.now, 0))
                answered_well(line, meter.unit, state.now)
            else:
                wire = meter.requests[meter.probe_request].out_ns + meter.requests[meter.probe_request].in_ns
                sent, state.now = state.now, state.now + wire + patience(line, meter.unit)
                asked.append((meter.unit.id, sent, state.now - sent))
                missed(&state, line, meter.unit, TIMEOUT, sent, wire)
        return asked
    finally:
        free_line(line)
