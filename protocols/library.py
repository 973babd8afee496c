"""Library: finds a profile by its name, in the user's folders first, then among the built-in ones."""

import difflib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from parkfleet.protocols.document import Document, DocumentError, Problem
from parkfleet.protocols.profile import Profile
from parkfleet.protocols.registers import value_of

BUILT_IN: Final = Path(__file__).with_name("profiles")


class UnknownProfileError(Exception):
    """No folder has the profile; the message says where was looked and what may have been meant."""


def profile_names(folders: Iterable[Path] = ()) -> list[str]:
    """Names of all profiles that can be found, sorted."""
    return sorted({path.stem for folder in (*folders, BUILT_IN) for path in folder.glob("*.yaml")})


def load_profile(name: str, folders: Iterable[Path] = ()) -> Profile:
    """Reads a profile. Raises UnknownProfileError, or DocumentError with the mistakes in its file."""
    searched = [*folders, BUILT_IN]
    for folder in searched:
        path = folder / f"{name}.yaml"
        if path.is_file():
            return read_profile(path)
    close = difflib.get_close_matches(name, profile_names(searched), n=1)
    hint = f"did you mean {close[0]!r}?" if close else "`parkfleet agent profiles` lists what there is"
    places = ", ".join(str(folder) for folder in searched[:-1]) or "no folder of yours"
    raise UnknownProfileError(f"no profile {name!r} in {places} or the built-in library: {hint}")


def read_profile(path: Path) -> Profile:
    """Reads one profile file. Raises DocumentError."""
    document = Document.read(path)
    profile = document.convert(Profile)
    if profile.profile != path.stem:
        told = f"the file is called {path.name}: name it {profile.profile}.yaml"
        raise DocumentError([document.problem("profile", told)])
    wrong = list(_contradictions(document, profile))
    if wrong:
        raise DocumentError(wrong)
    return profile


def _contradictions(document: Document, profile: Profile) -> Iterator[Problem]:
    """The worked examples that the profile itself does not confirm."""
    points = {point.id: point for point in profile.points}
    for index, example in enumerate(profile.expected):
        said = value_of(points[example.point], example.registers)
        if said != example.value:
            wanted = "not available" if example.value is None else example.value
            told = f"by this profile the registers say {'not available' if said is None else said}, expected {wanted}"
            yield document.problem(f"expected[{index}].value", told)
