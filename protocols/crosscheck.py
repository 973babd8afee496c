"""Crosscheck: a gateway's configuration and the profiles it names, checked against each other.

The agent and the controller use this same check: what the controller takes, a gateway does not refuse.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from parkfleet.protocols.config import GatewayConfig, LineAddress, LineConfig, MeterConfig, is_multiple, parse_line_url
from parkfleet.protocols.document import Document, DocumentError, Problem, convert
from parkfleet.protocols.library import UnknownProfileError, load_profile
from parkfleet.protocols.profile import Profile, RatioName
from parkfleet.protocols.rules import DeadbandConfig, Read, RuleConfig, misfits

#: Finds a profile by name. Raises UnknownProfileError, and DocumentError when it has mistakes.
FindProfile = Callable[[str], Profile]


class Checked(NamedTuple):
    """What a check found."""

    problems: list[Problem]  # in the order of file and line
    profiles: dict[str, Profile]  # by name, those the meters use and that can be used
    unknown: list[Problem]  # those of problems that tell of a profile that was not found


def check_gateway(document: Document, find: FindProfile) -> Checked:
    """Every mistake in a gateway's configuration, its profiles and between them."""
    problems: list[Problem] = []
    try:
        config = convert(document.data, GatewayConfig)
        lines, meters = list(enumerate(config.lines)), list(enumerate(config.meters))
        rules, deadbands = list(enumerate(config.rules)), list(enumerate(config.deadbands))
        problems += document.problems
    except msgspec.ValidationError:
        # The parts are checked against each other even where some item is wrong in itself: every mistake at once.
        problems += document.check(GatewayConfig)
        lines, meters = document.items("lines", LineConfig), document.items("meters", MeterConfig)
        rules, deadbands = document.items("rules", RuleConfig), document.items("deadbands", DeadbandConfig)
    profiles, unusable, unknown = _load_profiles(document, meters, find)
    problems += unusable
    problems += [document.problem(*found) for found in _cross_check(lines, meters, profiles)]
    problems += [document.problem(*found) for found in _check_rules(rules, deadbands, meters, profiles)]
    if not problems and not lines:
        problems.append(document.problem("lines", "is empty: add the line your meters hang on"))
    return Checked(sorted(set(problems)), profiles, unknown)


def profile_finder(folders: Sequence[Path]) -> FindProfile:
    """Finds profiles in these folders, then in the built-in library."""
    return lambda name: load_profile(name, list(folders))


def _load_profiles(
    document: Document, meters: list[tuple[int, MeterConfig]], find: FindProfile
) -> tuple[dict[str, Profile], list[Problem], list[Problem]]:
    """The profiles the meters name, the problems of those that cannot be used, and of those that are not there."""
    profiles: dict[str, Profile] = {}
    problems: list[Problem] = []
    unknown: list[Problem] = []
    for index, meter in meters:
        if meter.profile in profiles:
            continue
        try:
            profiles[meter.profile] = find(meter.profile)
        except UnknownProfileError as error:
            problem = document.problem(f"meters[{index}].profile", str(error))
            unknown.append(problem)
            problems.append(problem)
        except DocumentError as error:
            problems += error.problems
    return profiles, problems, unknown


def _cross_check(
    lines: list[tuple[int, LineConfig]], meters: list[tuple[int, MeterConfig]], profiles: dict[str, Profile]
) -> Iterator[tuple[str, str]]:
    """(path, sentence) of what is wrong between the parts of the document."""
    yield from _twice("lines", [(index, line.id) for index, line in lines], "line id")
    yield from _twice("meters", [(index, meter.id) for index, meter in meters], "meter id")
    yield from _shared_ports(lines)
    kinds = {line.id: parse_line_url(line.url).kind for _, line in lines}
    units: dict[tuple[str, int], str] = {}
    for index, meter in meters:
        kind = kinds.get(meter.line)
        if kind is None:
            known = ", ".join(sorted(kinds)) or "none"
            yield f"meters[{index}].line", f"there is no valid line {meter.line!r}: lines are {known}"
        elif kind in ("serial", "ascii", "rtu+tcp") and not 1 <= meter.unit <= 247:
            yield f"meters[{index}].unit", f"a meter on a {kind} line has a unit id from 1 to 247, got {meter.unit}"
        other = units.setdefault((meter.line, meter.unit), meter.id)
        if other != meter.id:
            yield f"meters[{index}].unit", f"unit {meter.unit} on line {meter.line} is already meter {other!r}"
        profile = profiles.get(meter.profile)
        points = set(profile.delivered) if profile else set(meter.points)
        for number, name in enumerate(meter.points):
            if name not in points:
                yield f"meters[{index}].points[{number}]", f"profile {meter.profile} has no point {name!r}"
        for name in meter.intervals:
            if name not in points:
                yield f"meters[{index}].intervals.{name}", f"profile {meter.profile} has no point {name!r}"
            elif meter.points and name not in meter.points:
                yield f"meters[{index}].intervals.{name}", f"{name!r} is not among the meter's points: it is not read"
        for number, name in enumerate(meter.priority):
            if name not in (meter.points or points):
                yield f"meters[{index}].priority[{number}]", f"the meter does not deliver a point {name!r}"
            elif profile and any(own.id == name and own.type == "string" for own in profile.points):
                yield f"meters[{index}].priority[{number}]", f"{name!r} is a text: priority is for numbers"
        if profile and (told := _no_common_slots(meter, profile)):
            yield f"meters[{index}].intervals", told
        for key in ("ct", "pt"):
            if profile and getattr(meter, key) is not None and (told := _no_ratio(profile, key)):
                yield f"meters[{index}].{key}", told


def _check_rules(
    rules: list[tuple[int, RuleConfig]],
    deadbands: list[tuple[int, DeadbandConfig]],
    meters: list[tuple[int, MeterConfig]],
    profiles: dict[str, Profile],
) -> Iterator[tuple[str, str]]:
    """(path, sentence) of what is wrong between rules or deadbands and the meters."""
    yield from _twice("rules", [(index, rule.id) for index, rule in rules], "rule id")
    yield from _twice("deadbands", [(index, band.id) for index, band in deadbands], "deadband id")
    if any(meter.profile not in profiles for _, meter in meters):
        return  # that is told already, and what its meters deliver is not known
    read = {meter.id: read_of(meter, profiles[meter.profile]) for _, meter in meters}
    yield from misfits("rules", rules, read)
    yield from misfits("deadbands", deadbands, read)


def read_of(meter: MeterConfig, profile: Profile) -> Read:
    """A meter as rules and deadbands see it."""
    return Read(meter.id, profile, frozenset(meter.points or profile.delivered))


def _no_common_slots(meter: MeterConfig, profile: Profile) -> str:
    """Why its points' intervals do not go together; empty when they do."""
    used = {meter.intervals.get(name, meter.interval) for name in meter.points or profile.delivered}
    wrong = [interval for interval in used if not is_multiple(interval, min(used))]
    return f"{wrong[0]} is no multiple of the shortest that any of its points has, {min(used)}" if wrong else ""


def _no_ratio(profile: Profile, key: RatioName) -> str:
    """Why a transformer's ratio must not be given for a model; empty when it may."""
    if profile.primary:
        return f"{profile.profile} reports primary values by itself: with {key} they would count twice"
    if key not in profile.ratios:
        return f"no point of profile {profile.profile} takes a {key} ratio (ratio: [{key}] in the profile)"
    return ""


def _twice(section: str, values: list[tuple[int, str]], noun: str) -> Iterator[tuple[str, str]]:
    first: dict[str, int] = {}
    for index, value in values:
        if value in first:
            yield f"{section}[{index}].id", f"{noun} {value!r} is used twice: also by {section}[{first[value]}]"
        first.setdefault(value, index)


def _shared_ports(lines: list[tuple[int, LineConfig]]) -> Iterator[tuple[str, str]]:
    """Two lines on one port or endpoint would talk into each other."""
    first: dict[str, tuple[int, LineAddress]] = {}
    for index, line in lines:
        address = parse_line_url(line.url)
        before, other = first.setdefault(address.name, (index, address))
        if before == index:
            continue
        told = f"device or endpoint {address.name!r} is used twice: also by lines[{before}]"
        if address.is_serial and address.setting != other.setting:
            told += (
                f", there at {other.setting}, here at {address.setting}. All meters on a bus speak at one setting: set"
                " them to it and put them on one line, or give the others an adapter of their own"
            )
        yield f"lines[{index}].url", told
