"""Journal: the agent's own log, the newest of it, in a ring of files beside the buffer: for `fleet logs`.

A JSON object a line: ts (ms UTC), level, text. Four files of half a megabyte: some 15,000 lines, days of a healthy
gateway. Not synced: the last lines before a power cut may be missing.
"""

import json
import logging
from collections import deque
from collections.abc import Iterator
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Final

NAME: Final = "journal.jsonl"
FILE_BYTES: Final = 512 * 1024
FILES: Final = 4
#: Characters of one entry; a traceback is longer, its end says most.
MAX_TEXT: Final = 4000


class Journal:
    """The journal in one folder."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME

    def keep(self) -> None:
        """Has the process's log written here too, from now on. A disk that refuses costs the journal, nothing else."""
        handler = RotatingFileHandler(
            self._path, maxBytes=FILE_BYTES, backupCount=FILES - 1, encoding="utf-8", delay=True
        )
        handler.setFormatter(_AsJson())
        handler.handleError = lambda record: None  # type: ignore[method-assign]
        logging.getLogger().addHandler(handler)

    def since(self, since_ms: int, lines: int = 0) -> list[bytes]:
        """Entries from a time on, oldest first, each with its line's end; lines: the newest so many, 0: all."""
        found: deque[bytes] = deque(maxlen=lines or None)
        for line in self._lines():
            if _ts(line) >= since_ms:
                found.append(line)
        return list(found)

    def _lines(self) -> Iterator[bytes]:
        for number in range(FILES - 1, -1, -1):
            path = self._path if not number else self._path.with_name(f"{NAME}.{number}")
            try:
                with path.open("rb") as file:
                    yield from (line for line in file if line.endswith(b"\n"))
            except OSError:  # not there (yet), or just rotated away
                continue


class _AsJson(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        entry = {"ts": int(record.created * 1000), "level": record.levelname.lower(), "text": text[-MAX_TEXT:]}
        return json.dumps(entry, ensure_ascii=False)


def _ts(line: bytes) -> int:
    """An entry's time; -1 of a line that is none (a power cut tore it)."""
    try:
        ts = json.loads(line)["ts"]
    except (ValueError, KeyError, TypeError):
        return -1
    return ts if isinstance(ts, int) else -1
