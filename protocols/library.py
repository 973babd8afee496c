"""Library: finds a profile by its name, in the user's folders first, then among the built-in ones."""

import difflib
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from parkfleet.protocols.derived import make_derivation, needed_points
from parkfleet.protocols.document import Document, DocumentError, Problem
from parkfleet.protocols.payload.series import Scan, Value, has_value
from parkfleet.protocols.profile import Expected, Profile
from parkfleet.protocols.registers import decode

BUILT_IN: Final = Path(__file__).with_name("profiles")


class UnknownProfileError(Exception):
    """No folder has the profile; the message says where was looked and what may have been meant."""


def profile_names(folders: Iterable[Path] = ()) -> list[str]:
    """Names of all profiles that can be found, sorted."""
    return sorted({path.stem for folder in (*folders, BUILT_IN) for path in folder.glob("*.yaml")})


def load_profile(name: str, folders: Iterable[Path] = ()) -> Profile:
    """Reads a profile, its addresses as they go over the wire.

    Raises UnknownProfileError, or DocumentError with the mistakes in its file.
    """
    return read_profile(profile_path(name, folders))


def profile_path(name: str, folders: Iterable[Path] = ()) -> Path:
    """The file of a profile. Raises UnknownProfileError."""
    searched = [*folders, BUILT_IN]
    for folder in searched:
        path = folder / f"{name}.yaml"
        if path.is_file():
            return path
    close = difflib.get_close_matches(name, profile_names(searched), n=1)
    hint = f"did you mean {close[0]!r}?" if close else "`parkfleet agent profiles` lists what there is"
    places = ", ".join(str(folder) for folder in searched[:-1]) or "no folder of yours"
    raise UnknownProfileError(f"no profile {name!r} in {places} or the built-in library: {hint}")


def read_profile(path: Path) -> Profile:
    """Reads one profile file, its addresses as they go over the wire. Raises DocumentError."""
    document = Document.read(path)
    profile = document.convert(Profile)
    if profile.profile != path.stem:
        told = f"the file is called {path.name}: name it {profile.profile}.yaml"
        raise DocumentError([document.problem("profile", told)])
    wrong = list(_contradictions(document, profile))
    if wrong:
        raise DocumentError(wrong)
    return profile.on_wire()


def worked_out(profile: Profile, example: Expected) -> Value:
    """What a worked example's registers say by the profile; None when that is not available.

    Raises KeyError with the id of a point whose registers the example does not give.
    """
    given = example.given | ({example.point: example.registers} if example.registers else {})
    needed = needed_points(profile, [example.point])
    decoded = [decode(point, given[point.id]) for point in needed]
    scan = Scan(
        0,
        0,
        array("q", [slot for slot, _, _ in decoded]),
        bytes(quality for _, quality, _ in decoded),
        tuple(text for point, (_, _, text) in zip(needed, decoded, strict=True) if point.type == "string"),
    )
    derivation = make_derivation(profile, needed, [example.point])
    delivered = derivation.scan(scan)
    text = delivered.texts[0] if delivered.texts else None
    return derivation.columns[0].value(delivered.slots[0], text) if has_value(delivered.quality[0]) else None


def _contradictions(document: Document, profile: Profile) -> Iterator[Problem]:
    """The worked examples that the profile itself does not confirm."""
    for index, example in enumerate(profile.expected):
        try:
            said = worked_out(profile, example)
        except KeyError as missing:
            told = f"needs the registers of {missing.args[0]} too, under given"
            yield document.problem(f"expected[{index}]", told)
            continue
        if said != example.value:
            wanted = "not available" if example.value is None else example.value
            told = f"by this profile the registers say {'not available' if said is None else said}, expected {wanted}"
            yield document.problem(f"expected[{index}].value", told)
