"""A version for a slot: says in ROOT/said what it does, and does what ROOT/wanted-VERSION asks, line by line.

`crash`, `hang` (deaf to SIGTERM too), `commit`, `give up WHY`, `switch SLOT ATTEMPT SECONDS`, `garbage`, `stay`.
"""

import json
import os
import signal
import socket
import sys
from pathlib import Path

VERSION = "VERSION_OF_SLOT"


def main() -> None:
    """Runs until SIGTERM."""
    root = Path(sys.argv[-1])
    link = socket.socket(fileno=int(os.environ["PARKFLEET_LAUNCHER_FD"]))
    signal.signal(signal.SIGTERM, lambda *_: ended(root))
    say(root, "started")
    wanted = root / f"wanted-{VERSION}"
    for line in wanted.read_text().splitlines() if wanted.exists() else ["stay"]:
        do(root, link, line)
    while True:
        signal.pause()


def do(root: Path, link: socket.socket, line: str) -> None:
    """One line of what is wanted."""
    word, *rest = line.split()
    if word == "crash":
        os._exit(7)
    elif word == "hang":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    elif word == "garbage":
        link.sendall(b"\xff{not json\n[]\n{}\n")
        for _ in range(3):
            reply(root, link)
    elif word == "commit":
        ask(root, link, {"do": "commit", "attempt": rest[0]})
    elif word == "give":
        ask(root, link, {"do": "give up", "why": " ".join(rest[1:])})
    elif word == "switch":
        ask(root, link, {"do": "switch", "slot": rest[0], "attempt": rest[1], "trial_s": float(rest[2])})


def ask(root: Path, link: socket.socket, request: dict[str, object]) -> None:
    """One request, its answer told; only then may we be ended for it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    link.sendall(json.dumps(request).encode() + b"\n")
    reply(root, link)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def reply(root: Path, link: socket.socket) -> None:
    """The launcher's answer, told in short."""
    answer = b""
    while not answer.endswith(b"\n"):
        answer += link.recv(1)
    said = json.loads(answer)
    say(root, "ok" if said["ok"] else f"refused: {said['error']}")


def ended(root: Path) -> None:
    """A polite end."""
    say(root, "ended")
    os._exit(0)


def say(root: Path, what: str) -> None:
    """A line that survives us."""
    with (root / "said").open("a") as file:
        file.write(f"{VERSION} {what}\n")


if __name__ == "__main__":
    main()
