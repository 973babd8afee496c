"""Launcher: starts the agent of the slot in force, and goes back to the other when a new version does not prove itself.

It is a file by itself, standard library alone, copied out of the package to ROOT/launcher.py and never replaced in the
same step as the agent. ROOT holds:

    slots.json       the ledger: which slot runs, which one is confirmed, whether a trial is under way
    slots/a, slots/b each a version: site/ (what was unpacked), manifest.json (written last: with it the slot is whole)

Invariants: the ledger is on the disk before what it says is done; a version on trial is started at most MAX_STARTS
times, each counted before it, so that power cuts count too; what is not committed within its trial is gone back from.

    python3 launcher.py ROOT -- run --config /etc/parkfleet/gateway.yaml

The agent speaks to it over a socket that it inherits (PARKFLEET_LAUNCHER_FD): a JSON object a line each way, see
Launcher.answer.
"""

import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

SLOTS: Final = ("a", "b")
#: A new version may end so often within its trial (a power cut, a restart by hand), and no more. Starts.
MAX_STARTS: Final = 3
#: From SIGTERM to SIGKILL; the agent needs at most 5 s for what is open. Seconds.
STOP_S: Final = 15.0
#: An agent that ends by itself is started again after a pause that doubles from the first to the last. Seconds.
AGAIN_S: Final = (0.5, 30.0)
#: One that ran for so long was well: the pause begins anew. Seconds.
WELL_S: Final = 60.0
#: The longest trial, in seconds, and the longest line on the socket, in bytes.
MAX_TRIAL_S: Final = 86_400.0
MAX_LINE: Final = 64 * 1024
FD: Final = "PARKFLEET_LAUNCHER_FD"

#: Named before each deed: where a test ends the process.
Step = Callable[[str], None]


class LauncherError(Exception):
    """What was asked cannot be done; the message says why."""


@dataclass(frozen=True)
class Ledger:
    """What the launcher knows. The slot that runs is on trial when it is not the confirmed one."""

    active: str = "a"
    confirmed: str = "a"
    attempt: str = ""  # whose trial it is, in the words of whoever switched
    trial_s: float = 0.0
    starts: int = 0  # of the version on trial
    failed_attempt: str = ""  # the last that was gone back from
    failure: str = ""  # why

    @property
    def on_trial(self) -> bool:
        """Whether a version must still prove itself."""
        return self.active != self.confirmed


def switched(ledger: Ledger, slot: str, attempt: str, trial_s: float) -> Ledger:
    """Another slot is to run, on trial. Raises LauncherError."""
    if ledger.on_trial:
        raise LauncherError(f"slot {ledger.active} is on trial: it must be committed or given up first")
    if slot not in SLOTS or slot == ledger.confirmed:
        raise LauncherError(f"slot {slot!r} is not the idle one")
    if not 0 < trial_s <= MAX_TRIAL_S:
        raise LauncherError(f"a trial takes more than 0 s and at most {MAX_TRIAL_S:g} s, not {trial_s:g} s")
    return replace(ledger, active=slot, attempt=attempt, trial_s=trial_s, starts=0)


def started(ledger: Ledger) -> Ledger:
    """The agent is about to be started: what the ledger is to say before."""
    if not ledger.on_trial:
        return ledger
    if ledger.starts >= MAX_STARTS:
        return gone_back(ledger, f"it ended {ledger.starts} times within its trial")
    return replace(ledger, starts=ledger.starts + 1)


def committed(ledger: Ledger, attempt: str) -> Ledger:
    """The version on trial has proved itself; said twice it changes nothing. Raises LauncherError."""
    if attempt != ledger.attempt:
        raise LauncherError(f"attempt {attempt!r} is not the one under way")
    return replace(ledger, confirmed=ledger.active, starts=0)


def gone_back(ledger: Ledger, why: str) -> Ledger:
    """The version on trial is given up; the confirmed one runs."""
    if not ledger.on_trial:
        return ledger
    return replace(ledger, active=ledger.confirmed, starts=0, failed_attempt=ledger.attempt, failure=why)


class Store:
    """The ledger's file, and the slots. step is told before each deed."""

    def __init__(self, root: Path, step: Step = lambda _: None) -> None:
        self.root = root
        self._step = step

    def slot(self, name: str) -> Path:
        """A slot's folder."""
        return self.root / "slots" / name

    def is_whole(self, name: str) -> bool:
        """Whether a slot has a version in it, all of it."""
        return (self.slot(name) / "manifest.json").is_file()

    def read(self) -> Ledger:
        """The ledger; the one of a new box when there is none. A damaged one is kept aside. Raises LauncherError."""
        path = self.root / "slots.json"
        try:
            ledger = Ledger(**json.loads(path.read_bytes()))
            if ledger.active in SLOTS and ledger.confirmed in SLOTS:
                return ledger
        except FileNotFoundError:
            return self._first()
        except (ValueError, TypeError):
            pass
        _say(f"{path} is damaged: kept as slots.json.damaged")
        path.replace(path.with_suffix(".json.damaged"))
        return self._first()

    def write(self, ledger: Ledger, step: str) -> None:
        """Writes the ledger; on the disk when it returns."""
        self._step(f"{step}: before the ledger")
        path = self.root / "slots.json"
        temporary = path.with_suffix(".json.new")
        with temporary.open("wb") as file:
            file.write(json.dumps(asdict(ledger)).encode())
            file.flush()
            os.fsync(file.fileno())
        self._step(f"{step}: before the rename")
        temporary.replace(path)
        folder = os.open(self.root, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        self._step(f"{step}: after the ledger")

    def _first(self) -> Ledger:
        for name in SLOTS:
            if self.is_whole(name):
                return Ledger(active=name, confirmed=name)
        raise LauncherError(f"neither slot under {self.root / 'slots'} has a version in it: install one first")


class Launcher:
    """One agent at a time, for as long as the box runs."""

    def __init__(self, store: Store, arguments: list[str]) -> None:
        self._store = store
        self._arguments = arguments
        self._ledger = store.read()
        self._stopping = False
        self._wanted_end = False  # the agent that runs is to make room for another
        self._trial_end = float("inf")  # monotonic seconds
        self._wake, self._woken = socket.socketpair()

    def run(self) -> int:
        """Runs until SIGTERM or SIGINT; the exit code of the last agent."""
        for end in (self._wake, self._woken):
            end.setblocking(False)
        signal.set_wakeup_fd(self._woken.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        code, pause = 0, AGAIN_S[0]
        while not self._stopping:
            began = time.monotonic()
            code = self._one_agent()
            if self._wanted_end or time.monotonic() - began > WELL_S:
                pause = AGAIN_S[0]
            if not self._wanted_end and not self._stopping:
                _say(f"the agent ended with {code}; started again in {pause:g} s")
                self._sleep(pause)
                pause = min(2 * pause, AGAIN_S[1])
        return code

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """What the agent asks, by `do`:

        - `state`: the ledger
        - `switch`, with `slot`, `attempt`, `trial_s`: ends the agent and starts the other slot's, on trial
        - `commit`, with `attempt`: the version on trial has proved itself
        - `give up`, with `why`: it has not
        """
        match request.get("do"):
            case "state":
                pass
            case "switch":
                slot = str(request.get("slot"))
                ledger = switched(self._ledger, slot, str(request.get("attempt", "")), _number(request.get("trial_s")))
                if not self._store.is_whole(slot):
                    raise LauncherError(f"slot {slot} has no whole version in it")
                self._put(ledger, "switch")
                self._wanted_end = True
            case "commit":
                self._put(committed(self._ledger, str(request.get("attempt", ""))), "commit")
                self._trial_end = float("inf")
            case "give up":
                self._wanted_end = self._ledger.on_trial
                self._put(gone_back(self._ledger, str(request.get("why", ""))), "give up")
            case other:
                raise LauncherError(f"{other!r} is not known")
        return asdict(self._ledger)

    def _put(self, ledger: Ledger, step: str) -> None:
        self._store.write(ledger, step)
        self._ledger = ledger

    def _one_agent(self) -> int:
        """Starts the agent in force and stays with it to its end; its exit code."""
        before = self._ledger
        ledger = started(before)
        if ledger != before:
            self._put(ledger, "start")
        if before.on_trial and not ledger.on_trial:
            _say(f"slot {before.active} is given up: {ledger.failure}")
        self._wanted_end = False
        self._trial_end = time.monotonic() + ledger.trial_s if ledger.on_trial else float("inf")
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                process = self._spawn(ledger.active, theirs)
            ours.setblocking(False)
            return self._stay(process, ours)

    def _spawn(self, slot: str, theirs: socket.socket) -> "subprocess.Popen[bytes]":
        site = self._store.slot(slot) / "site"
        environment = {**os.environ, "PYTHONPATH": str(site), "PYTHONNOUSERSITE": "1", FD: str(theirs.fileno())}
        command = [sys.executable, "-P", "-m", "parkfleet", "agent", *self._arguments]
        _say(f"starting the agent of slot {slot}" + (", on trial" if self._ledger.on_trial else ""))
        return subprocess.Popen(command, env=environment, pass_fds=(theirs.fileno(),))

    def _stay(self, process: "subprocess.Popen[bytes]", link: socket.socket) -> int:
        """Answers the agent, watches its trial, ends it when that is due."""
        kill_at = float("inf")
        received = b""
        with selectors.DefaultSelector() as ready:
            ready.register(self._wake, selectors.EVENT_READ)
            ready.register(link, selectors.EVENT_READ)
            while process.poll() is None:
                now = time.monotonic()
                if now >= self._trial_end:
                    self._trial_end = float("inf")
                    self._put(gone_back(self._ledger, "it was not committed within its trial"), "trial over")
                    self._wanted_end = True
                if (self._stopping or self._wanted_end) and kill_at == float("inf"):
                    process.terminate()
                    kill_at = now + STOP_S
                if now >= kill_at:
                    process.kill()
                due = min(self._trial_end, kill_at)
                for key, _ in ready.select(None if due == float("inf") else max(0.0, due - now)):
                    if key.fileobj is self._wake:
                        _drain(self._wake)
                    elif (rest := self._serve(link, received)) is None:
                        ready.unregister(link)  # it closed its end, or does not keep to lines
                    else:
                        received = rest
        return process.returncode

    def _serve(self, link: socket.socket, received: bytes) -> bytes | None:
        """Takes what has come, answers whole lines; what is left of it, None when the link is over."""
        try:
            chunk = link.recv(MAX_LINE)
        except BlockingIOError:
            return received
        except OSError:
            chunk = b""
        received += chunk
        *lines, rest = received.split(b"\n")
        for line in lines:
            with contextlib.suppress(OSError):
                link.sendall(self._reply(line) + b"\n")
        return rest if chunk and len(rest) <= MAX_LINE else None

    def _reply(self, line: bytes) -> bytes:
        try:
            request = json.loads(line)
            if not isinstance(request, dict):
                raise LauncherError("expected an object")
            return json.dumps({"ok": True, "ledger": self.answer(request)}).encode()
        except (ValueError, LauncherError, OSError) as error:
            return json.dumps({"ok": False, "error": str(error)}).encode()

    def _sleep(self, seconds: float) -> None:
        """A pause that SIGTERM ends."""
        until = time.monotonic() + seconds
        with selectors.DefaultSelector() as ready:
            ready.register(self._wake, selectors.EVENT_READ)
            while not self._stopping and (left := until - time.monotonic()) > 0:
                if ready.select(left):
                    _drain(self._wake)

    def _stop(self, *_: object) -> None:
        self._stopping = True


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise LauncherError("trial_s must be a number")
    return float(value)


def _drain(end: socket.socket) -> None:
    with contextlib.suppress(BlockingIOError):
        while end.recv(4096):
            pass


def _say(text: str) -> None:
    print(f"launcher: {text}", file=sys.stderr, flush=True)


def main(arguments: list[str]) -> int:
    """ROOT -- AGENT'S ARGUMENTS. Exit codes: the agent's; 2 wrong usage; 3 no version to start."""
    if len(arguments) < 3 or arguments[1] != "--":
        print("usage: launcher.py ROOT -- run --config GATEWAY.YAML", file=sys.stderr)
        return 2
    try:
        return Launcher(Store(Path(arguments[0])), arguments[2:]).run()
    except LauncherError as error:
        _say(str(error))
        return 3


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
