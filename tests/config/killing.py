"""Killing: keeps, tries and settles a configuration in processes of their own, each ended by SIGKILL at one step.

`python -m tests.config.killing FOLDER OUTCOME` makes FOLDER/NUMBER for every step and prints the steps' names. It
imports no gRPC, for it forks.
"""

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from parkfleet.agent import trial
from parkfleet.agent.status import ConfigurationName
from parkfleet.agent.trial_store import TrialStore

OLD, NEW = ConfigurationName(3, "old"), ConfigurationName(4, "new")

DOCUMENT = """\
park: p1
gateway: gw-01
broker: {url: "mqtt://127.0.0.1:1883", username: gw, password_file: "${secret:mqtt}"}
controller: {url: "127.0.0.1:7443", trial: REVISIONs}
lines: [{id: hall, url: "tcp://10.0.0.5"}]
meters: [{id: m01, line: hall, unit: 1, profile: schneider-iem3155}]
"""


def document(name: ConfigurationName) -> bytes:
    """A configuration whose trial takes as many seconds as its revision says: to be told from others."""
    return DOCUMENT.replace("REVISION", str(name.revision)).encode()


def settle(store: TrialStore, name: ConfigurationName, outcome: str) -> None:
    """The whole way of a configuration, as ManagedAgent goes it."""
    ledger = store.read_ledger()
    assert trial.is_wanted(ledger, name)
    store.stage(name, document(name), {"mqtt": f"secret {name.revision}".encode()})
    store.load(name)
    store.write_ledger(ledger := trial.staged(ledger, name))
    store.write_ledger(ledger := trial.tried(ledger, trial.Baseline(True, True, frozenset({"m01"}))))
    ledger = trial.confirmed(ledger) if outcome == "confirmed" else trial.given_up(ledger, name, "no broker")
    store.write_ledger(ledger)
    store.tidy(ledger)


def killed(folder: Path, outcome: str, number: int) -> str:
    """Settles in a process that ends at its step of that number; the step's name, "" when it came to its end."""
    read, write = os.pipe()
    if os.fork() == 0:
        steps = iter(range(number + 1))

        def step(name: str) -> None:
            if next(steps, number) == number:
                os.write(write, name.encode())
                os.kill(os.getpid(), signal.SIGKILL)

        settle(TrialStore(folder / "gateway.yaml", step), NEW, outcome)
        os._exit(0)
    os.close(write)
    os.wait()
    name = os.read(read, 100).decode()
    os.close(read)
    return name


def main(root: Path, outcome: str, prepare: Callable[[Path], None]) -> None:
    """One folder a step."""
    number = 0
    while True:
        folder = root / str(number)
        prepare(folder)
        name = killed(folder, outcome, number)
        if not name:
            shutil.rmtree(folder)
            return
        print(name)
        number += 1


def prepared(folder: Path) -> None:
    """A gateway that runs a confirmed configuration from the controller."""
    folder.mkdir()
    (folder / "gateway.yaml").write_bytes(document(ConfigurationName(2)).replace(b'"${secret:mqtt}"', b"password"))
    settle(TrialStore(folder / "gateway.yaml"), OLD, "confirmed")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], prepared)
