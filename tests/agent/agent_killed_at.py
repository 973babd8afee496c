"""An agent that ends by SIGKILL at a named step of applying a configuration: `… GATEWAY.YAML STEP`."""

import asyncio
import os
import signal
import sys
from pathlib import Path

from parkfleet.agent.applying import ManagedAgent, run_managed
from parkfleet.agent.trial_store import TrialStore


def main(path: Path, end: str) -> None:
    """Runs until then."""

    def step(name: str) -> None:
        if name == end:
            os.kill(os.getpid(), signal.SIGKILL)

    asyncio.run(run_managed(ManagedAgent(path, TrialStore(path, step))))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
