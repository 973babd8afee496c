"""Whole gateways under measurement: ours and ThingsBoard's, between the same meters and the same broker."""
