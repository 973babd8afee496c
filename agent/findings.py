"""Findings: what a scan found, and the part of gateway.yaml that is made of it."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Final
from urllib.parse import urlencode

import msgspec

from parkfleet.agent.display import Explanation, adjusted, sentence
from parkfleet.agent.identify import Candidate, Names
from parkfleet.agent.profile_text import profile_text
from parkfleet.agent.scan import Unit
from parkfleet.protocols.config import LineAddress
from parkfleet.protocols.document import DocumentError
from parkfleet.protocols.library import read_profile
from parkfleet.protocols.profile import Profile

#: Below it the likeliest profile is only a guess, and stands in the part as a comment.
SURE: Final = 60
#: Below it a profile is not worth a word.
WORTH_A_WORD: Final = 40
#: How a part begins; a file that begins otherwise is not ours to replace.
FIRST_WORDS: Final = "# Found by `parkfleet agent scan`"
#: The folder of the adjusted profiles, beside the part.
PROFILES: Final = "profiles"
_BY_ID: Final = Path("/dev/serial/by-id")


class Finding(msgspec.Struct):
    """One unit that answered, and what is known of it."""

    unit: Unit
    names: Names = Names()
    candidates: list[Candidate] = []
    explanations: list[Explanation] = []
    asked: bool = False  # what it is; False when the scan was cut short before

    @property
    def profile(self) -> str:
        """The profile it most likely needs; "" when none is likely."""
        if self.explanations:
            return self.explanations[0].profile
        best = self.candidates[0] if self.candidates else None
        return best.profile if best and (best.score >= SURE or best.is_sure) else ""

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
    return address.setting if address.is_serial else address.name


class Part:
    """The lines and meters of a gateway.yaml, and the profiles that had to be adjusted for them."""

    def __init__(
        self, findings: Sequence[Finding], profiles: Sequence[Profile], line: str = "", folder: Path = Path()
    ) -> None:
        """line: id of a line that is configured already; otherwise each setting found becomes one.

        folder: where the part is going to stand, with the profiles of earlier ones.
        """
        self._findings = list(findings)
        self._line = line
        self._folder = folder
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
                self.adjusted[place] = self._own(known[best.profile], best)

    def text(self) -> str:
        """YAML; what is not sure stands there as a comment."""
        return "\n".join(self._rows()) + "\n"

    def write(self, path: Path) -> list[Path]:
        """Writes the part, and adjusted profiles into `profiles` beside it; gives the files' names. Raises OSError."""
        written = []
        for profile in {profile.profile: profile for profile in self.adjusted.values()}.values():
            target = path.parent / PROFILES / f"{profile.profile}.yaml"
            target.parent.mkdir(exist_ok=True)
            _replace(target, profile_text(profile))
            written.append(target)
        _replace(path, self.text())
        return [path, *written]

    def _own(self, profile: Profile, explanation: Explanation) -> Profile:
        """The adjusted profile under a name that no other one has, in this part or from an earlier one."""
        for number in count(1):
            made = adjusted(profile, explanation, number)
            others = [other for other in self.adjusted.values() if other.profile == made.profile]
            path = self._folder / PROFILES / f"{made.profile}.yaml"
            if path.exists():
                with contextlib.suppress(DocumentError):
                    others.append(read_profile(path))
                if not others:
                    continue
            if all(msgspec.structs.replace(other, notes=made.notes) == made for other in others):
                return made
        raise AssertionError("there is always another number")

    def _rows(self) -> Iterator[str]:
        yield f"{FIRST_WORDS} on {datetime.now(UTC):%Y-%m-%d %H:%M} UTC. Rename the meters as you like."
        if self.adjusted:
            yield f"profiles: [{PROFILES}]"
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
        row = f"id: {line}-{unit.unit:03}, line: {line}, unit: {unit.unit}, profile: {profile or 'UNKNOWN'}"
        for explanation in finding.explanations[:1]:
            row += "".join(f", {key}: {value}" for key in ("ct", "pt") if (value := getattr(explanation, key)))
        yield f"  {'' if self._is_sure(place) else '# '}- {{{row}}}"

    def _is_sure(self, place: int) -> bool:
        """Whether a finding can be polled as it stands in the part."""
        address = self._findings[place].unit.address
        return bool(self._findings[place].profile) and (not address.is_serial or address == next(iter(self._lines)))


def check_target(path: Path) -> None:
    """Raises ValueError when a part cannot be written there, or would replace what is none."""
    if not path.parent.is_dir():
        raise ValueError(f"cannot write {path}: there is no folder {path.parent}")
    try:
        if path.exists() and not path.read_text("utf-8", "replace").startswith(FIRST_WORDS):
            raise ValueError(f"{path} exists, and no scan wrote it: name another file")
        if not os.access(path.parent, os.W_OK):
            raise ValueError(f"cannot write {path}: you may not write into {path.parent.resolve()}")
    except OSError as error:
        raise ValueError(f"cannot write {path}: {error.strerror}") from None


def _replace(path: Path, text: str) -> None:
    """A whole file or the one before, also when the power goes. Raises OSError."""
    partial = path.with_name(f".{path.name}.new")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _line_id(address: LineAddress, number: int) -> str:
    name = Path(address.device).name if address.is_serial else f"tcp-{address.host}".replace(":", "-")
    clean = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "-" for c in name).strip("-_.") or "line"
    return clean[:50] if number == 1 else f"{clean[:50]}-{number}"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _one_line(text: str) -> str:
    """For a comment: what a device says of itself must not become YAML."""
    return "".join(c if c.isprintable() else " " for c in text)[:200]
