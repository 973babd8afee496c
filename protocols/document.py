"""Document: a YAML file read into a model, with every mistake at once, each at its line and column.

msgspec stops at the first error, so a struct is checked key by key and a list item by item; the marks of
PyYAML's nodes give the places.
"""

import contextlib
import difflib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeVar, get_args, get_origin

import msgspec
import yaml

from parkfleet.protocols.quantity import Duration, Size

T = TypeVar("T")
S = TypeVar("S", bound=msgspec.Struct)

#: A configuration of 20,000 meters is about 2 MB; a larger file is not one of ours.
MAX_BYTES: Final = 8 * 1024 * 1024
#: Nodes visited, aliases counted each time: bounds the "billion laughs" of YAML anchors.
MAX_NODES: Final = 1_000_000

#: YAML 1.1 counts 200:5 in sixties, which makes 12005 of a transformer's ratio: no number of ours has a colon.
_NUMBERS: Final = frozenset({"tag:yaml.org,2002:int", "tag:yaml.org,2002:float"})


class Problem(NamedTuple):
    """One mistake in a file, as the person who wrote it needs to hear it."""

    file: str
    line: int  # from 1; 0 when the whole file is meant
    column: int  # from 1
    where: str  # the path inside the document, such as meters[3].profile
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return f"{place}: {self.where}: {self.message}" if self.where else f"{place}: {self.message}"


class DocumentError(Exception):
    """A file that cannot be used, with all its problems."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


class Document:
    """A YAML file as parsed: plain data and the place of each part."""

    def __init__(self, name: str, text: str) -> None:
        """Raises DocumentError when the text is not YAML, too long or nested without end."""
        self.name = name
        self.sha256 = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        if len(text) > MAX_BYTES:
            raise DocumentError([Problem(name, 0, 0, "", f"longer than {MAX_BYTES} characters")])
        self._marks: dict[str, yaml.Mark] = {}
        self.problems: list[Problem] = []
        try:
            node = yaml.compose(text, Loader=yaml.SafeLoader)
            self._loader = yaml.SafeLoader("")
            self._budget = MAX_NODES
            self.data: object = None if node is None else self._plain(node, "")
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark
            line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
            raise DocumentError([Problem(name, line, column, "", f"not YAML: {error.problem}")]) from None
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise DocumentError([Problem(name, 0, 0, "", f"not YAML: {str(error) or 'nested too deep'}")]) from None

    @classmethod
    def read(cls, path: Path) -> "Document":
        """Reads a file. Raises DocumentError when it cannot be read as UTF-8 YAML."""
        try:
            return cls(str(path), path.read_text("utf-8"))
        except OSError as error:
            raise DocumentError([Problem(str(path), 0, 0, "", f"cannot read it: {error.strerror}")]) from None
        except UnicodeDecodeError as error:
            raise DocumentError([Problem(str(path), 0, 0, "", f"is not UTF-8 text: {error.reason}")]) from None

    def problem(self, where: str, message: str) -> Problem:
        """A problem at a path of this document, or at the nearest part that exists."""
        path = where
        while path and path not in self._marks:
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        mark = self._marks.get(path)
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        return Problem(self.name, line, column, where, message)

    def convert(self, model: type[S]) -> S:
        """The document as a model. Raises DocumentError with all that is wrong."""
        problems = self.check(model)
        if problems:
            raise DocumentError(problems)
        return convert(self.data, model)

    def check(self, model: type[msgspec.Struct]) -> list[Problem]:
        """All that keeps the document from being the model."""
        return self.problems + list(self._check(self.data, model, ""))

    def items(self, section: str, model: type[T]) -> list[tuple[int, T]]:
        """(index, item) of those items of a list at the top that are valid by themselves."""
        data = self.data.get(section) if isinstance(self.data, dict) else None
        valid = []
        for index, item in enumerate(data if isinstance(data, list) else []):
            with contextlib.suppress(msgspec.ValidationError):
                valid.append((index, convert(item, model)))
        return valid

    def _plain(self, node: yaml.Node, path: str) -> object:
        self._budget -= 1
        if self._budget < 0:
            raise ValueError(f"more than {MAX_NODES} values: are its anchors used without end?")
        self._marks[path] = node.start_mark
        if isinstance(node, yaml.SequenceNode):
            return [self._plain(child, f"{path}[{index}]") for index, child in enumerate(node.value)]
        if not isinstance(node, yaml.MappingNode):
            if ":" in node.value and node.tag in _NUMBERS:
                return str(node.value)
            return self._loader.construct_object(node)
        plain: dict[object, object] = {}
        for key_node, value_node in node.value:
            key = self._loader.construct_object(key_node)
            child = f"{path}.{key}" if path else str(key)
            if not isinstance(key, str | int):
                raise ValueError(f"line {key_node.start_mark.line + 1}: a key must be a word, got {key!r}")
            value = self._plain(value_node, child)
            self._marks[child] = key_node.start_mark
            if key in plain:
                self.problems.append(self.problem(child, "stands here a second time: remove one of the two"))
            plain[key] = value
        return plain

    def _check(self, data: object, kind: Any, path: str) -> Iterator[Problem]:
        """Every problem of data against a type, depth first."""
        kind = _unwrap(kind)
        if _is_struct(kind) and isinstance(data, dict):
            yield from self._check_struct(data, kind, path)
        elif get_origin(kind) is list and isinstance(data, list):
            inner = get_args(kind)[0]
            problems = [found for i, item in enumerate(data) for found in self._check(item, inner, f"{path}[{i}]")]
            yield from problems or self._check_leaf(data, kind, path)
        else:
            yield from self._check_leaf(data, kind, path)

    def _check_struct(self, data: dict[str, object], kind: type[msgspec.Struct], path: str) -> Iterator[Problem]:
        fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
        problems: list[Problem] = []
        for key, value in data.items():
            child = f"{path}.{key}" if path else str(key)
            if key in fields:
                problems += self._check(value, fields[key].type, child)
            else:
                misplaced = getattr(kind, "MISPLACED", {}).get(key)
                problems.append(self.problem(child, misplaced or f"unknown key{_suggest(str(key), fields)}"))
        missing = [name for name, field in fields.items() if field.required and name not in data]
        problems += [self.problem(path, f"{name} is missing: add `{name}: …`") for name in missing]
        yield from problems or self._check_leaf(data, kind, path)

    def _check_leaf(self, data: object, kind: Any, path: str) -> Iterator[Problem]:
        try:
            convert(data, kind)
        except msgspec.ValidationError as error:
            yield self.problem(path, _in_words(str(error), data, kind))


def convert(data: object, model: type[T]) -> T:
    """Plain data as a model. Raises msgspec.ValidationError."""
    return msgspec.convert(data, model, dec_hook=_decode_quantity)


def json_schema(model: type[msgspec.Struct]) -> dict[str, Any]:
    """The model's JSON Schema (2020-12), for editors."""
    schema = msgspec.json.schema(model, schema_hook=_quantity_schema)
    for struct in _structs(model, set()):
        properties = schema["$defs"][struct.__name__]["properties"]
        for field in msgspec.structs.fields(struct):
            if field.default_factory is not msgspec.NODEFAULT and isinstance(field.default_factory(), Duration | Size):
                properties[field.encode_name]["default"] = str(field.default_factory())
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _structs(kind: Any, seen: set[Any]) -> Iterator[type[msgspec.Struct]]:
    """The struct and all structs its fields lead to."""
    if _is_struct(kind) and kind not in seen:
        seen.add(kind)
        yield kind
        for field in msgspec.structs.fields(kind):
            yield from _structs(field.type, seen)
    for part in get_args(kind):
        yield from _structs(part, seen)


def _decode_quantity(kind: type, data: object) -> object:
    if kind is Duration or kind is Size:
        return kind.parse(data)
    raise NotImplementedError(kind)


def _quantity_schema(kind: type) -> dict[str, Any]:
    pattern = r"^\d+(\.\d+)?(ms|s|m|h|d)$" if kind is Duration else r"^\d+(\.\d+)?([kMG]B|[KMG]iB|B)$"
    return {"anyOf": [{"type": "string", "pattern": pattern}, {"type": "number", "minimum": 0}]}


def _unwrap(kind: Any) -> Any:
    """The type inside Annotated[…] and … | None, where it is a struct or a list."""
    if get_origin(kind) is Annotated:
        inner = _unwrap(get_args(kind)[0])
        return inner if get_origin(inner) is list or _is_struct(inner) else kind
    for option in get_args(kind):
        if get_origin(kind) is not list and _is_struct(option):
            return option
    return kind


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _suggest(word: str, known: Any) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f": did you mean {close[0]!r}?" if close else f": known are {', '.join(sorted(known))}"


def _in_words(error: str, data: object, kind: Any) -> str:
    """msgspec's sentence without its own path, and with the value that was found."""
    if get_origin(kind) is Literal:
        close = difflib.get_close_matches(str(data), list(map(str, get_args(kind))), n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        return f"{hint}Expected one of {', '.join(map(str, get_args(kind)))}, got {data!r}"
    message = error.split(" - at `")[0]
    if "matching regex" in message:  # the only texts with a pattern are ratios and ids
        message = (
            "expected a number such as 40, or two such as 200/5"
            if r"\d+" in message
            else "expected an id: 1 to 64 letters, digits, '.', '_' or '-', the first a letter or digit"
        )
    short = repr(data)
    if isinstance(data, str | int | float) and len(short) < 80 and short not in message:
        message += f" (found {short})"
    return message.replace("Expected", "expected")
