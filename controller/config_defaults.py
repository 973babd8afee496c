"""Defaults: what the agent takes where no layer says anything, from its own models. Pure."""

from typing import Any, get_args, get_origin

import msgspec

from parkfleet.controller.config_merge import BY_ID, Path
from parkfleet.protocols.config import GatewayConfig
from parkfleet.protocols.quantity import Duration, Size


def model_default(path: Path) -> str | None:
    """The default at a path as people write it, JSON; None where there is none. Raises ValueError for no such key."""
    kind: Any = GatewayConfig
    field: msgspec.structs.FieldInfo | None = None
    for depth, part in enumerate(path):
        if path[:depth] in BY_ID:
            field = None
            continue
        struct = _struct(kind)
        fields = {found.encode_name: found for found in msgspec.structs.fields(struct)} if struct else {}
        if part not in fields:
            known = f": known are {', '.join(sorted(fields))}" if fields else ""
            raise ValueError(f"the agent knows no key {part!r} there{known}")
        field = fields[part]
        kind = field.type
    return None if field is None else _text(field)


def _struct(kind: Any) -> type[msgspec.Struct] | None:
    """The struct in a type: itself, an option of it, or the items of its list."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return kind
    if get_origin(kind) is not None or get_args(kind):
        return next((found for part in get_args(kind) if (found := _struct(part))), None)
    return None


def _text(field: msgspec.structs.FieldInfo) -> str | None:
    value = field.default
    if value is msgspec.NODEFAULT:
        if field.default_factory is msgspec.NODEFAULT:
            return None
        value = field.default_factory()
    if isinstance(value, Duration | Size):
        value = str(value)
    return msgspec.json.encode(value, enc_hook=str).decode()
