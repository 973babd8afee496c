"""Findings: what a scan found, and the part of gateway.yaml that is made of it."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import msgspec
import yaml

from parkfleet.agent.display import Explanation, adjusted, sentence
from parkfleet.agent.identify import Candidate, Names
from parkfleet.agent.scan import Unit
from parkfleet.protocols.config import LineAddress
from parkfleet.protocols.profile import Point, Profile

#: Below it the likeliest profile is only a guess, and stands in the part as a comment.
SURE: Final = 60
#: Below it a profile is not worth a word.
WORTH_A_WORD: Final = 40
_BY_ID: Final = Path("/dev/serial/by-id")


class Finding(msgspec.Struct):
    """One unit that answered, and what is known of it."""

    unit: Unit
    names: Names = Names()
    candidates: list[Candidate] = []
    explanations: list[Explanation] = []

    @property
    def profile(self) -> str:
        """The profile it most likely needs; "" when none is likely."""
        if self.explanations:
            return self.explanations[0].profile
        best = self.candidates[0] if self.candidates else None
        return best.profile if best and (best.score >= SURE or best.named) else ""

    @property
    def others(self) -> list[Candidate]:
        """At most three other profiles that it may need."""
        return [c for c in self.candidates if c.profile != self.profile and c.score >= WORTH_A_WORD][:3]


def url_of(address: LineAddress) -> str:
    """As in gateway.yaml; a serial port by the name it keeps when adapters are plugged elsewhere."""
    if not address.is_serial:
        files = {name: value for name in ("ca", "cert", "key") if (value := getattr(address, name))}
        query = f"?{urlencode(files, safe='/')}" if files else ""
        return f"{address.kind}://{address.host}:{address.port}{query}"
    settings = f"baud={address.baud}&parity={address.parity}&stopbits={address.stopbits}"
    return f"{address.kind}://{stable_name(Path(address.device))}?{settings}"


def stable_name(device: Path, links: Path = _BY_ID) -> Path:
    """The link by which the adapter is known whatever port it is plugged into, if it has one."""
    try:
        same = [link for link in sorted(links.iterdir()) if link.resolve() == device.resolve()]
    except OSError:
        return device
    return same[0] if same else device


def settings_of(address: LineAddress) -> str:
    """Such as 9600 8N1; a TCP endpoint has none."""
    return f"{address.baud} 8{address.parity}{address.stopbits}" if address.is_serial else address.name


class Part:
    """The lines and meters of a gateway.yaml, and the profiles that had to be adjusted for them."""

    def __init__(self, findings: Sequence[Finding], profiles: Sequence[Profile], line: str = "") -> None:
        """line: id of a line that is configured already; otherwise each setting found becomes one."""
        self._findings = list(findings)
        self._line = line
        self._lines: dict[LineAddress, str] = {}
        for finding in findings:
            address = finding.unit.address
            number = len(self._lines) + 1
            self._lines.setdefault(address, line or _line_id(address, number))
        known = {profile.profile: profile for profile in profiles}
        self.adjusted: dict[int, Profile] = {}  # by place among the findings
        for place, finding in enumerate(self._findings):
            best = finding.explanations[0] if finding.explanations else None
            if best is not None and not best.as_is:
                self.adjusted[place] = adjusted(known[best.profile], best)

    def text(self) -> str:
        """YAML; what is not sure stands there as a comment."""
        return "\n".join(self._rows()) + "\n"

    def write(self, path: Path) -> list[Path]:
        """Writes the part, and adjusted profiles into `profiles` beside it; gives the files' names."""
        path.write_text(self.text(), "utf-8")
        written = [path]
        for profile in {profile.profile: profile for profile in self.adjusted.values()}.values():
            folder = path.parent / "profiles"
            folder.mkdir(exist_ok=True)
            target = folder / f"{profile.profile}.yaml"
            target.write_text(profile_text(profile), "utf-8")
            written.append(target)
        return written

    def _rows(self) -> Iterator[str]:
        now = datetime.now(UTC)
        yield f"# Found by `parkfleet agent scan` on {now:%Y-%m-%d %H:%M} UTC. Rename the meters as you like."
        if self.adjusted:
            yield "profiles: [profiles]"
        if not self._line:
            yield "lines:" if self._lines else "lines: []"
            for place, (address, line) in enumerate(self._lines.items()):
                if place and address.is_serial:
                    yield "  # One port has one setting: set these meters to the first line's, then scan again."
                comment = "# " if place and address.is_serial else ""
                yield f"  {comment}- {{id: {line}, url: {_quoted(url_of(address))}}}"
        yield "meters:" if any(self._is_sure(place) for place in range(len(self._findings))) else "meters: []"
        for place, finding in enumerate(self._findings):
            yield from self._meter(place, finding)

    def _meter(self, place: int, finding: Finding) -> Iterator[str]:
        unit = finding.unit
        line = self._lines[unit.address]
        profile = self.adjusted[place].profile if place in self.adjusted else finding.profile
        if finding.names.text:
            yield f"  # unit {unit.unit} calls itself {_one_line(finding.names.text)}"
        for explanation in finding.explanations[:1]:
            yield f"  # settled by its display: {_one_line(sentence(explanation))}"
        others = [f"{candidate.profile} ({candidate.score} %)" for candidate in finding.others]
        if others:
            yield f"  # {'may also' if profile else 'may'} be {', '.join(others)}"
        row = f"{{id: {line}-{unit.unit:03}, line: {line}, unit: {unit.unit}, profile: {profile or 'UNKNOWN'}}}"
        yield f"  {'' if self._is_sure(place) else '# '}- {row}"

    def _is_sure(self, place: int) -> bool:
        """Whether a finding can be polled as it stands in the part."""
        address = self._findings[place].unit.address
        return bool(self._findings[place].profile) and (not address.is_serial or address == next(iter(self._lines)))


def profile_text(profile: Profile) -> str:
    """A profile as its YAML file."""
    document: dict[str, Any] = {
        "profile": profile.profile,
        "title": profile.title,
        "medium": profile.medium,
        "source": profile.source,
        "max_registers": profile.max_registers,
        "max_bits": profile.max_bits,
        "notes": profile.notes,
        "holes": [msgspec.to_builtins(hole) for hole in profile.holes],
        "points": [_point(point) for point in profile.points],
    }
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True)


def _point(point: Point) -> dict[str, Any]:
    """What of a point is not the default."""
    said: dict[str, Any] = {}
    for field in msgspec.structs.fields(point):
        value = getattr(point, field.name)
        default = [] if field.name == "invalid" else {} if field.name == "title" else field.default
        if value != default:
            said[field.name] = _number(value) if isinstance(value, Decimal) else value
    return said


def _number(value: Decimal) -> int | float:
    return int(value) if value == int(value) else float(value)


def _line_id(address: LineAddress, number: int) -> str:
    name = Path(address.device).name if address.is_serial else f"tcp-{address.host}".replace(":", "-")
    clean = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "-" for c in name).strip("-_.") or "line"
    return clean[:50] if number == 1 else f"{clean[:50]}-{number}"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _one_line(text: str) -> str:
    """For a comment: what a device says of itself must not become YAML."""
    return "".join(c if c.isprintable() else " " for c in text)[:200]
