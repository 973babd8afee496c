"""Process: the agent's own process: what `parkfleet agent run` becomes, with nothing of a command line in its memory.

    python -m parkfleet.agent.process GATEWAY.YAML LOG-LEVEL

It runs for years on a small box: what parses options (typer, and pydantic behind it) would cost 14 MB of its 50.
"""

import asyncio
import gc
import sys
from pathlib import Path

from parkfleet.agent.applying import ManagedAgent, begin_anew, run_managed
from parkfleet.agent.control import AgentRunningError
from parkfleet.agent.control_messages import socket_path
from parkfleet.agent.journal import Journal
from parkfleet.protocols.document import DocumentError
from parkfleet.protocols.logs import configure_logging


def main(config: Path, log_level: str) -> int:
    """Runs the agent; its exit code: 0 stopped as asked, 1 the configuration has mistakes, 3 another one runs."""
    configure_logging(log_level)
    try:
        agent = ManagedAgent(config)
    except DocumentError as error:
        print(error, file=sys.stderr)
        print(f"not started: mend {config} (see `parkfleet agent check`)", file=sys.stderr)
        return 1
    Journal(socket_path(agent.configuration).parent).keep()
    gc.collect()
    gc.freeze()  # what stands now stays: no later collection looks at it
    try:
        asyncio.run(run_managed(agent))
    except AgentRunningError as error:
        print(error, file=sys.stderr)
        return 3
    if agent.restart_wanted:
        begin_anew()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
