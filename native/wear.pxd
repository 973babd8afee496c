"""Wear: what a meter asks and keeps in a scan, taken from another description of it; its unit, slot and counters stay."""

from parkfleet.native.model cimport Meter


cdef inline void wear(Meter *meter, const Meter *source) noexcept nogil:
    """The meter has no scan under way."""
    meter.tag = source.tag
    meter.requests, meter.request_count, meter.probe_request = (
        source.requests, source.request_count, source.probe_request)
    meter.answers, meter.slots, meter.values = source.answers, source.slots, source.values
    meter.quality, meter.texts = source.quality, source.texts
    meter.column_count, meter.text_size, meter.record_size = source.column_count, source.text_size, source.record_size
    meter.values_wanted = source.values_wanted
