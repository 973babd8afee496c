"""Files: a layer read from a file or from an editor, a secret from a file; for the command line."""

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import typer


def read_bytes(path: Path) -> bytes:
    """A file's contents, or of `-` what comes in. Ends the command with a sentence when it cannot be read."""
    try:
        return sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    except OSError as error:
        raise typer.BadParameter(f"cannot read {path}: {error.strerror}", param_hint="--file") from None


def read_text(path: Path) -> str:
    """The same, as UTF-8."""
    try:
        return read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise typer.BadParameter(f"{path} is not UTF-8 text: {error.reason}", param_hint="--file") from None


def edited(layer: str, text: str) -> Path | None:
    """A layer's text as an editor left it, in a file of its own; None when it was left as it was.

    The file stays: after a mistake the author goes on with it. Ends the command when the editor fails.
    """
    command = shlex.split(os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi")
    descriptor, name = tempfile.mkstemp(prefix=f"{layer.replace('/', '-')}-", suffix=".yaml")
    path = Path(name)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    try:
        done = subprocess.run([*command, str(path)], check=False)
    except OSError as error:
        path.unlink()
        raise typer.BadParameter(f"cannot start {command[0]}: {error.strerror}. Set EDITOR, or use --file") from None
    if done.returncode:
        typer.echo(f"{command[0]} ended with {done.returncode}: nothing was changed; your text is in {path}", err=True)
        raise typer.Exit(2)
    if path.read_text("utf-8") == text:
        path.unlink()
        return None
    return path
