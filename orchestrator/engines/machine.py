"""How busy a machine is while it trains, under the names of MLflow's own monitor.

That monitor writes to MLflow from where the training runs, and ends when MLflow does not answer.
Here the figures travel as all others do: through the step's reporter to the driver's writer.
"""

import os
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from typing import Any, Protocol, Self

import psutil

from orchestrator.durable.events import BY_TIME
from workloads.reporting import Reporter

_EVERY_S = 10.0
_WORTH_TELLING_S = 0.5
"""A shorter rest at the end says nothing of how busy a CPU is."""


class Meter(Protocol):
    """Anything whose state can be read."""

    def read(self) -> Mapping[str, float]:
        """Figures by name."""


class Machine:
    """CPU, memory, disk, network and, with `nvidia-ml-py`, the GPUs of this machine.

    Traffic is counted and CPU time is averaged from the reading before.
    """

    def __init__(self) -> None:
        psutil.cpu_percent()
        self._traffic = psutil.net_io_counters()
        self._nvml = _nvml()

    def read(self) -> dict[str, float]:
        """Percentages from 0 to 100, megabytes and watts."""
        memory, disk, traffic = (
            psutil.virtual_memory(),
            psutil.disk_usage(os.sep),
            psutil.net_io_counters(),
        )
        return {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_megabytes": memory.used / 1e6,
            "system_memory_usage_percentage": 100 * memory.used / memory.total,
            "disk_usage_percentage": disk.percent,
            "disk_usage_megabytes": disk.used / 1e6,
            "disk_available_megabytes": disk.free / 1e6,
            "network_receive_megabytes": (traffic.bytes_recv - self._traffic.bytes_recv) / 1e6,
            "network_transmit_megabytes": (traffic.bytes_sent - self._traffic.bytes_sent) / 1e6,
            **(_gpus(self._nvml) if self._nvml else {}),
        }


class Watch:
    """Tells how busy this machine is, from entering to leaving, in a thread.

    A point belongs to the second at which it was read, counted since 1970: a training that
    continues repeats its optimizer steps, and time it does not.

    Args:
        reporter: Who is told.
        node: Name of the machine among several; empty if there is only one.
        meter: What is read; by default a `Machine`.
        every_s: Seconds between two readings.
    """

    def __init__(
        self,
        reporter: Reporter,
        *,
        node: str = "",
        meter: Meter | None = None,
        every_s: float = _EVERY_S,
    ) -> None:
        self._reporter, self._every_s = reporter, every_s
        self._prefix = f"{BY_TIME}{node}/" if node else BY_TIME
        self._meter = meter
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="machine-watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        try:
            # Made here: psutil remembers for each thread what it counted last.
            meter = self._meter or Machine()
            began = time.monotonic()
            while not self._ended.wait(self._every_s):
                self._tell(meter)
                began = time.monotonic()
            if time.monotonic() - began > _WORTH_TELLING_S:
                self._tell(meter)
        except Exception as error:  # noqa: BLE001 - must never stop a training
            self._reporter.message(f"the machine is not watched any more: {error}")

    def _tell(self, meter: Meter) -> None:
        values = {f"{self._prefix}{name}": value for name, value in meter.read().items()}
        self._reporter.metrics(int(time.time()), values)


def node_name() -> str:
    """What this machine is called among others."""
    return socket.gethostname()


def _nvml() -> Any:  # noqa: ANN401 - a module
    """NVIDIA's management library, ready, if this machine has it."""
    try:
        nvml = import_module("pynvml")
    except ImportError:
        return None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return None
    return nvml


def _gpus(nvml: Any) -> dict[str, float]:  # noqa: ANN401 - a module
    found: dict[str, float] = {}
    for index in range(nvml.nvmlDeviceGetCount()):
        gpu = nvml.nvmlDeviceGetHandleByIndex(index)
        # Not every GPU tells everything.
        with suppress(nvml.NVMLError):
            memory = nvml.nvmlDeviceGetMemoryInfo(gpu)
            found[f"gpu_{index}_memory_usage_megabytes"] = memory.used / 1e6
            found[f"gpu_{index}_memory_usage_percentage"] = 100 * memory.used / memory.total
        with suppress(nvml.NVMLError):
            busy = nvml.nvmlDeviceGetUtilizationRates(gpu).gpu
            found[f"gpu_{index}_utilization_percentage"] = float(busy)
        with suppress(nvml.NVMLError):
            watts = nvml.nvmlDeviceGetPowerUsage(gpu) / 1000
            found[f"gpu_{index}_power_usage_watts"] = watts
            limit = nvml.nvmlDeviceGetEnforcedPowerLimit(gpu) / 1000
            found[f"gpu_{index}_power_usage_percentage"] = 100 * watts / limit
    return found
