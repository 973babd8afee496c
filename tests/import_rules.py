"""Import rules: which room may import which. Run by `make check`; prints every breach and exits 1.

native <- protocols <- {agent, controller} <- simulators; proto is data that agent, controller and simulators share.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ALLOWED = {
    "native": set[str](),
    "proto": set[str](),
    "protocols": {"native"},
    "agent": {"native", "protocols", "proto"},
    "controller": {"native", "protocols", "proto"},
    "simulators": {"native", "protocols", "proto", "agent", "controller"},
}


def imported(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, module) of every import, also those inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.lineno, node.module
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def breaches() -> Iterator[str]:
    """A sentence for each import that a room may not make."""
    for room, allowed in ALLOWED.items():
        for path in sorted((ROOT / room).rglob("*.py")):
            for line, module in imported(ast.parse(path.read_text("utf-8"))):
                parts = module.split(".")
                if parts[0] == "parkfleet" and len(parts) > 1 and parts[1] in ALLOWED.keys() - allowed - {room}:
                    yield f"{path.relative_to(ROOT)}:{line}: {room} must not import {module}"


if __name__ == "__main__":
    found = sorted(set(breaches()))
    print("\n".join(found) or "import rules: kept")
    sys.exit(bool(found))
