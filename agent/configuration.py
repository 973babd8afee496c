"""Configuration: gateway.yaml and the profiles it names, read and cross-checked as one."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from parkfleet.protocols.config import GatewayConfig, LineConfig, MeterConfig, parse_line_url
from parkfleet.protocols.document import Document, DocumentError, Problem
from parkfleet.protocols.library import UnknownProfileError, load_profile
from parkfleet.protocols.profile import Profile, RatioName


@dataclass(frozen=True)
class Configuration:
    """A gateway's configuration that has passed every check."""

    gateway: GatewayConfig
    profiles: dict[str, Profile]  # by name, those the meters use
    folder: Path  # relative paths start here
    hash: str = ""  # SHA-256 of the file, hexadecimal: what the controller compares

    def path(self, name: str) -> Path:
        """A file named in the configuration, relative to the configuration's own folder."""
        return self.folder / name


def load_configuration(path: Path) -> Configuration:
    """Reads gateway.yaml and its profiles. Raises DocumentError with every mistake in all of them."""
    document = Document.read(path)
    problems = document.check(GatewayConfig)
    folder = path.resolve().parent
    named = document.data.get("profiles") if isinstance(document.data, dict) else None
    folders = [folder / str(name) for name in named] if isinstance(named, list) else []
    # The parts are checked against each other even where some item is wrong in itself: every mistake at once.
    lines, meters = document.items("lines", LineConfig), document.items("meters", MeterConfig)
    profiles, unusable = _load_profiles(document, meters, folders)
    problems += unusable
    problems += [document.problem(*found) for found in _cross_check(lines, meters, profiles)]
    if not problems and not lines:
        problems.append(document.problem("lines", "is empty: add the line your meters hang on"))
    if problems:
        raise DocumentError(sorted(set(problems)))
    return Configuration(document.convert(GatewayConfig), profiles, folder, document.sha256)


def _load_profiles(
    document: Document, meters: list[tuple[int, MeterConfig]], folders: list[Path]
) -> tuple[dict[str, Profile], list[Problem]]:
    """The profiles the meters name, and the problems of those that cannot be used."""
    profiles: dict[str, Profile] = {}
    problems: list[Problem] = []
    for index, meter in meters:
        if meter.profile in profiles:
            continue
        try:
            profiles[meter.profile] = load_profile(meter.profile, folders)
        except UnknownProfileError as error:
            problems.append(document.problem(f"meters[{index}].profile", str(error)))
        except DocumentError as error:
            problems += error.problems
    return profiles, problems


def _cross_check(
    lines: list[tuple[int, LineConfig]], meters: list[tuple[int, MeterConfig]], profiles: dict[str, Profile]
) -> Iterator[tuple[str, str]]:
    """(path, sentence) of what is wrong between the parts of the document."""
    yield from _twice("lines", [(index, line.id) for index, line in lines], "line id")
    yield from _twice("meters", [(index, meter.id) for index, meter in meters], "meter id")
    yield from _twice("lines", [(index, _resource(line.url)) for index, line in lines], "device or endpoint", "url")
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
        for key in ("ct", "pt"):
            if profile and getattr(meter, key) is not None and (told := _no_ratio(profile, key)):
                yield f"meters[{index}].{key}", told


def _no_ratio(profile: Profile, key: RatioName) -> str:
    """Why a transformer's ratio must not be given for a model; empty when it may."""
    if profile.primary:
        return f"{profile.profile} reports primary values by itself: with {key} they would count twice"
    if key not in profile.ratios:
        return f"no point of profile {profile.profile} takes a {key} ratio (ratio: [{key}] in the profile)"
    return ""


def remarks(configuration: Configuration) -> Iterator[str]:
    """What is worth knowing of a configuration without a mistake: on which side of its transformers a meter stands."""
    for meter in configuration.gateway.meters:
        profile = configuration.profiles[meter.profile]
        if profile.primary:
            yield f"meter {meter.id}: {profile.profile} applies its transformers' ratios by itself, as set in the meter"
            continue
        known = profile.ratio_from
        missing = sorted(
            name
            for name in profile.ratios
            if getattr(meter, name) is None and not (known and getattr(known, name) is not None)
        )
        if missing:
            keys = " and ".join(missing)
            yield f"meter {meter.id}: direct connection is assumed; behind transformers give {keys} (ct: 200/5)"


def _twice(section: str, values: list[tuple[int, str]], noun: str, key: str = "id") -> Iterator[tuple[str, str]]:
    first: dict[str, int] = {}
    for index, value in values:
        if value in first:
            yield f"{section}[{index}].{key}", f"{noun} {value!r} is used twice: also by {section}[{first[value]}]"
        first.setdefault(value, index)


def _resource(url: str) -> str:
    """What a line occupies alone: two lines on one port would talk into each other."""
    address = parse_line_url(url)
    return address.name
