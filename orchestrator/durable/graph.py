"""Which step waits for which; it grows when a step fans out over what another one returned."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from graphlib import CycleError, TopologicalSorter

from orchestrator.artifacts.artifact import read_file
from orchestrator.artifacts.key import JSON
from orchestrator.artifacts.manifest import Manifest
from orchestrator.durable.errors import StepError
from orchestrator.durable.step import Each, External, Step
from orchestrator.store import Store

ITEMS = "items.json"
"""Result file with the JSON list over which the next step fans out."""


class Graph:
    """The steps of a run, inputs first and otherwise as given.

    Raises:
        StepError: For two steps of one name, an input that no step makes, or a cycle.
    """

    def __init__(self, steps: Sequence[Step]) -> None:
        self.steps = {step.name: step for step in order_steps(steps)}
        self._open = {name: set(producers(step)) for name, step in self.steps.items()}
        self._consumers: dict[str, list[str]] = defaultdict(list)
        for name, sources in self._open.items():
            for source in sources:
                self._consumers[source].append(name)

    def free(self) -> list[str]:
        """Steps that wait for no other."""
        return [name for name, sources in self._open.items() if not sources]

    def consumers(self, name: str) -> Sequence[str]:
        """The steps that take what this one makes."""
        return self._consumers.get(name, ())

    def finish(self, name: str) -> list[str]:
        """Note a result; returns the steps that waited for nothing else."""
        found = self._consumers.get(name, ())
        for consumer in found:
            self._open[consumer].discard(name)
        return [consumer for consumer in found if not self._open[consumer]]

    def grow(self, name: str, items: Sequence[JSON]) -> list[str]:
        """Put one step per item in the place of a fan-out.

        Returns:
            Those steps in order, and behind them others that wait for nothing any more.
        """
        made = _children(self.steps.pop(name), items)
        del self._open[name]
        for child in made:
            if child.name in self.steps:
                raise StepError(child.name, f"the fan-out {name} needs this name: rename the step")
            self.steps[child.name], self._open[child.name] = child, set()
        names = [child.name for child in made]
        consumers = self._consumers.pop(name, [])
        for consumer in consumers:
            step = self.steps[consumer]
            self.steps[consumer] = replace(step, inputs=_gathered(step, name, names))
            self._open[consumer] = self._open[consumer] - {name} | set(names)
        self._consumers.update({child: list(consumers) for child in names})
        return names + [consumer for consumer in consumers if not self._open[consumer]]


def order_steps(steps: Sequence[Step]) -> list[Step]:
    """Order steps so that inputs come first, and otherwise as they were given."""
    by_name = {step.name: step for step in steps}
    place = {step.name: number for number, step in enumerate(steps)}
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for step in steps:
        if by_name[step.name] is not step:
            raise StepError(step.name, "two steps have this name: rename one")
        for source in producers(step):
            _check_source(step, source, by_name)
        sorter.add(step.name, *producers(step))
    try:
        sorter.prepare()
    except CycleError as error:
        circle = error.args[1]
        reason = f"steps wait for each other in a circle: {', '.join(circle)}"
        raise StepError(circle[0], reason) from None
    ordered: list[Step] = []
    while sorter.is_active():
        level = sorted(sorter.get_ready(), key=place.__getitem__)
        ordered += [by_name[name] for name in level]
        sorter.done(*level)
    return ordered


def producers(step: Step) -> list[str]:
    """Names of the steps whose results ``step`` takes, or fans out over."""
    found = step.inputs.values()
    names = [source.step if isinstance(source, Each) else source for source in found]
    return [name for name in names if not isinstance(name, External)]


def items_of(store: Store, manifest: Manifest) -> list[JSON]:
    """Read the list that a step returned for a fan-out.

    Raises:
        StepError: If it wrote no ``items.json``, or no list in it.
    """
    name = manifest.key.name
    try:
        items = json.loads(read_file(store, manifest, ITEMS))
    except (FileNotFoundError, ValueError) as error:
        raise StepError(name, f"a fan-out follows it: write a JSON list to {ITEMS}") from error
    if not isinstance(items, list):
        raise StepError(name, f"{ITEMS} must be a JSON list, got {type(items).__name__}")
    return items


def _check_source(step: Step, source: str, by_name: dict[str, Step]) -> None:
    if source not in by_name:
        raise StepError(step.name, f"input {source!r} is no step of {sorted(by_name)}")
    if source != step.fans_out_over:
        return
    if by_name[source].fans_out_over:
        raise StepError(step.name, f"cannot fan out over {source!r}, which fans out itself")
    if not by_name[source].checkpoint:
        raise StepError(step.name, f"cannot fan out over {source!r}, whose result is not kept")


def _children(step: Step, items: Sequence[JSON]) -> list[Step]:
    (param,) = (name for name, source in step.inputs.items() if isinstance(source, Each))
    rest = {name: source for name, source in step.inputs.items() if name != param}
    return [
        replace(
            step,
            name=f"{step.name}.{number:05d}",
            template=step.name,
            params={**step.params, param: item},
            inputs=rest,
        )
        for number, item in enumerate(items)
    ]


def _gathered(step: Step, name: str, children: Sequence[str]) -> dict[str, str | External | Each]:
    """Inputs of a step that takes all results of a fan-out: one per child, numbered."""
    inputs: dict[str, str | External | Each] = {}
    for taken, source in step.inputs.items():
        if source == name:
            inputs |= {f"{taken}.{n:05d}": child for n, child in enumerate(children)}
        else:
            inputs[taken] = source
    return inputs
