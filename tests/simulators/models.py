"""Profiles that only tests need: one with every table, type and order, and small ones of each medium."""

import msgspec
import yaml

from parkfleet.protocols.profile import Profile

EVERYTHING = """
profile: everything
title: {en: "Every table, type and order"}
medium: power
source: made up
max_registers: 64
holes: [{table: holding, address: 200, count: 10}]
points:
  - {id: relay, table: coil, address: 3, type: bool, kind: state}
  - {id: voltage_present, table: discrete, address: 10, type: bool, unit: V}
  - {id: tamper, table: discrete, address: 17, type: bool, kind: state}
  - {id: voltage_l1, address: 0, type: int16, scale: "0.1", unit: V}
  - {id: voltage_l2, address: 1, type: uint16, order: BADC, scale: "0.1", unit: V}
  - {id: power_l1, address: 2, type: int32, order: CDAB, unit: W}
  - {id: energy_import, address: 4, type: uint32, order: DCBA, scale: "0.01", unit: kWh, kind: counter}
  - {id: energy_l1, address: 6, type: int64, order: BADC, unit: Wh, kind: counter}
  - {id: energy_l2, address: 10, type: uint64, order: DCBA, unit: Wh, kind: counter}
  - {id: current_l1, address: 14, type: float32, order: CDAB, unit: A}
  - {id: frequency, address: 16, type: float32, decimals: 2, unit: Hz}
  - {id: reactive_power, address: 18, type: float64, order: BADC, unit: kvar}
  - {id: energy_bcd, address: 22, type: bcd, registers: 3, scale: "0.001", unit: kWh, kind: counter}
  - {id: model, address: 25, type: string, registers: 8, order: CDAB}
  - {id: serial_number, address: 33, type: uint32}
  - {id: status_low, address: 35, type: bits, bit: 0, width: 4, kind: state}
  - {id: voltage_high, address: 35, type: bits, bit: 4, width: 12, unit: V}
  - {id: far, address: 60, type: int16, unit: "%", invalid: [90, 89]}
  - {id: behind_the_hole, address: 210, type: int16, offset: "-40", unit: "°C"}
  - {id: current_l2, table: input, address: 7, type: float32, order: ABCD, unit: A}
"""

WATER = """
profile: some-water
title: {en: Water}
medium: water
source: made up
points:
  - {id: volume, address: 0, type: uint32, scale: "0.001", unit: m³, kind: counter}
  - {id: flow, address: 2, type: float32, unit: m³/h}
"""

HEAT = """
profile: some-heat
title: {en: Heat}
medium: heat
source: made up
points:
  - {id: energy, table: input, address: 0, type: uint32, unit: kWh, kind: counter}
  - {id: volume, table: input, address: 2, type: uint32, scale: "0.01", unit: m³, kind: counter}
  - {id: power, table: input, address: 4, type: float32, unit: kW}
  - {id: flow, table: input, address: 6, type: float32, unit: m³/h}
  - {id: temperature_supply, table: input, address: 8, type: int16, scale: "0.01", unit: °C}
  - {id: temperature_return, table: input, address: 9, type: int16, scale: "0.01", unit: °C}
"""

GAS = """
profile: some-gas
title: {en: Gas}
medium: gas
source: made up
points:
  - {id: volume_standard, address: 10, type: float64, unit: m³, kind: counter}
  - {id: flow_actual, address: 14, type: float32, unit: m³/h}
  - {id: temperature, address: 16, type: float32, unit: °C}
  - {id: pressure, address: 18, type: float32, unit: kPa}
"""


def profile(text: str) -> Profile:
    """A profile from its YAML."""
    return msgspec.convert(yaml.safe_load(text), Profile, strict=False)
