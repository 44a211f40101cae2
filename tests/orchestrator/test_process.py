import os
import signal
import subprocess
import sys

from orchestrator.process import _process_start, is_dead, process_identity


def test_only_a_process_of_this_host_can_be_known_dead() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    owner = {
        **process_identity(),
        "pid": child.pid,
        "process_start": _process_start(child.pid),
    }
    assert not is_dead(owner)
    child.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert is_dead(owner), "a zombie drives nothing"
    child.wait()
    assert is_dead(owner)
    assert is_dead({**owner, "pid": os.getpid()}), "the number was given to another process"
    assert not is_dead({**owner, "host": "other"})
    assert not is_dead({**owner, "boot": "other"})
    assert not is_dead(process_identity())
