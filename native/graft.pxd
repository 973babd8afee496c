"""Graft: a meter's requests replaced while its line runs, between two of its scans.

The new requests come as the only meter of a line that was never added; its memory lives as long as they are in use.
"""

from parkfleet.native.build_line cimport free_line
from parkfleet.native.model cimport ACTIVE, Line, Meter


cdef inline void graft(Meter *meter) noexcept nogil:
    """Takes the waiting replacement over; the meter has no scan under way. Its unit, slot and counters stay."""
    cdef Line *fresh = meter.replacement
    cdef Meter *source = &fresh.meters[0]
    meter.tag = source.tag
    meter.gap = source.gap
    meter.requests, meter.request_count, meter.probe_request = (
        source.requests, source.request_count, source.probe_request)
    meter.answers, meter.slots, meter.values = source.answers, source.slots, source.values
    meter.quality, meter.texts = source.quality, source.texts
    meter.column_count, meter.text_size, meter.record_size = source.column_count, source.text_size, source.record_size
    meter.values_wanted = source.values_wanted
    if meter.graft != NULL:
        free_line(meter.graft)
    meter.graft = fresh
    meter.replacement = NULL


cdef inline void replace_meter(Line *line, int index, Line *fresh) noexcept nogil:
    """At once, or when the scan under way has ended; a replacement that still waits is given up."""
    cdef Meter *meter = &line.meters[index]
    if meter.replacement != NULL:
        free_line(meter.replacement)
    meter.replacement = fresh
    if meter.place != ACTIVE:
        graft(meter)
