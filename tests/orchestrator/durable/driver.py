"""A driver in a process of its own, for tests that kill it: ``python -m ... STORE LOG``."""

import sys
from pathlib import Path

from orchestrator.durable import InProcessExecutor, Runner, open_store
from orchestrator.ownership import Lease
from tests.orchestrator.durable.fakes import Steps


def main(url: str, log: str) -> None:
    store = open_store(url)
    chain = Steps(store, Path(log)).chain("write", "hang_once", "write")
    lease = Lease(ttl_s=60.0, beat_s=0.05)
    Runner("run", chain, store, start_executor=InProcessExecutor, lease=lease).run()


if __name__ == "__main__":
    main(*sys.argv[1:])
