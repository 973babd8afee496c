"""Profile text: a profile as its YAML file; or its own file with what was learned filled in.

Of its own file comments and order are kept.
"""

from collections.abc import Mapping
from decimal import Decimal

import msgspec
import yaml

from parkfleet.protocols.document import Document
from parkfleet.protocols.learned import Learned, profile_part, told
from parkfleet.protocols.profile import Profile


def profile_text(profile: Profile) -> str:
    """The YAML file that says this profile: all of it that is not the default."""
    return "".join(
        _listed(key, value)
        if isinstance(value, list) and isinstance(value[0], dict)
        else yaml.safe_dump({key: value}, sort_keys=False, allow_unicode=True, width=120)
        for key, value in _said(profile).items()
    )


def with_learned_facts(text: str, learned: Learned) -> str:
    """The profile's YAML with max_registers, max_bits, min_gap and holes as they were found.

    What a profile has no key for stands above it as comments. Raises DocumentError for a text that is no profile.
    """
    profile = Document("profile", text).convert(Profile)
    part = profile_part(profile, learned)
    comments = [f"# learned: {fact}" for fact, _ in told(learned)]
    changed = _replaced(text, part)
    wanted = {**yaml.safe_load(text), **part}
    if yaml.safe_load(changed) != wanted:  # an odd layout: written anew
        changed = yaml.safe_dump(wanted, sort_keys=False, allow_unicode=True)
    return "".join(f"{line}\n" for line in comments) + changed


def _said(struct: msgspec.Struct) -> dict[str, object]:
    """What of a struct is not the default, as plain data."""
    said: dict[str, object] = {}
    for field in msgspec.structs.fields(struct):
        value = getattr(struct, field.name)
        default = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
        if value != default:
            said[field.encode_name] = _plain(value)
    return said


def _plain(value: object) -> object:
    if isinstance(value, msgspec.Struct):
        return _said(value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, Decimal):
        return int(value) if value == int(value) else float(value)
    return value


def _replaced(text: str, part: Mapping[str, object]) -> str:
    """The text with some of its top keys said anew, before the points."""
    lines, kept, is_kept = text.splitlines(keepends=True), [], True
    for line in lines:
        if line[:1] not in (" ", "\t", "\n", "\r", "-", "#", ""):
            is_kept = line.split(":")[0] not in part
        if is_kept:
            kept.append(line)
    at = next((index for index, line in enumerate(kept) if line.startswith("points:")), len(kept))
    fresh = [f"{key}: {value}\n" if isinstance(value, int) else _listed(key, value) for key, value in part.items()]
    return "".join([*kept[:at], *fresh, *kept[at:]])


def _listed(key: str, items: object) -> str:
    """One item a line, as profiles are written."""
    assert isinstance(items, list)
    rows = (
        yaml.safe_dump(item, sort_keys=False, allow_unicode=True, default_flow_style=True, width=1000) for item in items
    )
    return f"{key}:\n" + "".join(f"  - {row}" for row in rows)
