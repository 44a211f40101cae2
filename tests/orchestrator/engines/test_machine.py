import sys
import threading
from collections.abc import Mapping
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

from orchestrator.engines.machine import Machine, Watch
from workloads.reporting import SilentReporter

PATIENCE_S = 60.0


class Told(SilentReporter):
    """A reporter that keeps what it hears."""

    def __init__(self) -> None:
        self.points: SimpleQueue[tuple[int, Mapping[str, float]]] = SimpleQueue()
        self.messages: SimpleQueue[str] = SimpleQueue()

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self.points.put((step, values))

    def message(self, text: str) -> None:
        self.messages.put(text)


class Constant:
    """A machine that is always as busy."""

    def read(self) -> dict[str, float]:
        return {"cpu_utilization_percentage": 7.0}


class Broken:
    """A machine whose counters cannot be read."""

    def read(self) -> dict[str, float]:
        raise OSError("no /proc")


class NoSuchFigureError(Exception):
    """What the fake of NVML raises."""


def refuse(_: object) -> int:
    raise NoSuchFigureError


def test_figures_are_called_as_mlflows_own_monitor_calls_them() -> None:
    monitors: list[Any] = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    names: set[str] = set()
    for monitor in monitors:
        monitor.collect_metrics()
        names |= monitor.aggregate_metrics().keys()
    found = Machine().read()
    assert {name for name in found if not name.startswith("gpu_")} == names
    assert 0 < found["system_memory_usage_percentage"] <= 100


def test_a_watch_tells_the_second_and_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.engines.machine.time.time", lambda: 1234.5)
    told = Told()
    with Watch(told, node="spot-3", meter=Constant(), every_s=0.01):
        point = told.points.get(timeout=PATIENCE_S)
    assert point == (1234, {"system/spot-3/cpu_utilization_percentage": 7.0})


def test_a_single_machine_needs_no_name() -> None:
    told = Told()
    with Watch(told, meter=Constant(), every_s=0.01):
        _, values = told.points.get(timeout=PATIENCE_S)
    assert list(values) == ["system/cpu_utilization_percentage"]


def test_cpu_time_is_counted_from_the_start_of_the_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []

    def counting() -> float:
        threads.append(threading.get_ident())
        return 50.0

    monkeypatch.setattr("psutil.cpu_percent", counting)
    told = Told()
    with Watch(told, every_s=0.01):
        told.points.get(timeout=PATIENCE_S)
    assert len(threads) >= 2
    assert len(set(threads)) == 1, "psutil counts for each thread from its own first call"


def test_a_machine_that_cannot_be_read_stops_nothing() -> None:
    told = Told()
    with Watch(told, meter=Broken(), every_s=0.01):
        said = told.messages.get(timeout=PATIENCE_S)
    assert said == "the machine is not watched any more: no /proc"
    assert told.points.empty()


def test_a_watch_that_has_ended_tells_nothing_more() -> None:
    told = Told()
    with Watch(told, meter=Constant(), every_s=3600.0):
        pass
    assert told.points.empty()


def test_gpus_tell_what_they_can(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = SimpleNamespace(
        NVMLError=NoSuchFigureError,
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetMemoryInfo=lambda _: SimpleNamespace(used=2e9, total=8e9),
        nvmlDeviceGetUtilizationRates=lambda _: SimpleNamespace(gpu=93),
        nvmlDeviceGetPowerUsage=refuse,
    )
    monkeypatch.setitem(sys.modules, "pynvml", fake)  # type: ignore[arg-type]
    found = {name: value for name, value in Machine().read().items() if name.startswith("gpu_1_")}
    assert found == {
        "gpu_1_memory_usage_megabytes": 2000.0,
        "gpu_1_memory_usage_percentage": 25.0,
        "gpu_1_utilization_percentage": 93.0,
    }
