"""Graft: a meter's requests replaced while its line runs, between two of its scans.

The new requests come as the only meter of a line that was never added; its memory lives as long as they are in use.
"""

from parkfleet.native.build_line cimport free_line
from parkfleet.native.model cimport ACTIVE, Line, Meter
from parkfleet.native.wear cimport wear


cdef inline void graft(Meter *meter) noexcept nogil:
    """Takes the waiting replacement over; the meter has no scan under way. Its unit, slot and counters stay."""
    cdef Line *fresh = meter.replacement
    cdef Meter *source = &fresh.meters[0]
    wear(meter, source)
    meter.gap = source.gap
    meter.part_count, meter.every, meter.variants = source.part_count, source.every, source.variants
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
