"""From a recipe with a section ``sweep`` to the durable run that searches it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from orchestrator.durable import JSON, External, Resources, Retry, Step, run_identity
from orchestrator.errors import PreflightError
from orchestrator.launch import Launch
from orchestrator.pipeline import needed_for
from orchestrator.search_space import Sweep

MEASURED = ("evaluate-dense", "evaluate-mod", "efficiency")
"""The steps whose figures are compared; a trial runs them and what they depend on."""


def sweep_of(launch: Launch) -> Sweep:
    """The section ``sweep`` of a recipe.

    Raises:
        PreflightError: If it has none.
    """
    if launch.recipe.sweep is None:
        raise PreflightError(
            f"recipe {launch.recipe.name!r} has no section `sweep`: name what is to be searched, "
            "for instance sweep: {space: {mod.capacity_ratio: {uniform: [0.3, 0.9]}}}"
        )
    return launch.recipe.sweep


def sweep_launch(launch: Launch, start: Mapping[str, JSON]) -> Launch:
    """The run that makes the data, looks at the prompts, and searches.

    The same recipe is the same sweep; more trials, or what is done with the winner, continue it.

    Args:
        launch: Of the recipe.
        start: The recipe and the overrides as they were given.

    Raises:
        PreflightError: If the recipe has no section ``sweep``.
    """
    sweep, recipe = sweep_of(launch), launch.recipe
    identity = {**recipe.identity(), "sweep": sweep.identity()}
    (data,) = needed_for(launch.steps, ["data"])
    search = Step(
        name="search",
        function="orchestrator.sweep.search:search",
        params={**identity, "trials": sweep.trials},
        inputs={"prompts": "prompts"},
        settings={
            "recipe": recipe.model_dump(mode="json", by_alias=True),
            "start": dict(start),
        },
        resources=_room_for_a_trial(launch),
        retry=Retry(errors=("TrialLostError",)),
    )
    return replace(
        launch,
        run_id=run_identity(f"{recipe.name}-sweep", identity),
        steps=(data, _prompts(launch), search),
        identity=identity,
    )


def _prompts(launch: Launch) -> Step:
    return Step(
        name="prompts",
        function="orchestrator.sweep.prompts:prompts",
        inputs={"data": "data", "model": _base_model(launch)},
    )


def _base_model(launch: Launch) -> External:
    align = next(step for step in launch.steps if step.name == "align")
    model = align.inputs["model"]
    assert isinstance(model, External)
    return model


def trials_at_once(sweep: Sweep, steps: Sequence[Step], cluster: Mapping[str, float]) -> int:
    """How many trials a cluster with these resources has room for: each may run its widest step."""
    widest = widest_step(steps)
    rooms = [
        cluster.get(name, 0.0) // needed
        for name, needed in (("CPU", widest.all_cpus), ("GPU", widest.all_gpus))
        if needed
    ]
    return max(1, min(int(min(rooms, default=1)), sweep.max_concurrent or sweep.trials))


def _room_for_a_trial(launch: Launch) -> Resources:
    """What the widest step of a trial takes, so that a cluster that is too small is named."""
    widest = widest_step(launch.steps)
    return Resources(cpus=0, worker_cpus=widest.all_cpus, worker_gpus=widest.all_gpus)


def widest_step(steps: Sequence[Step]) -> Resources:
    """What the step takes that takes most."""
    needs = [step.resources for step in steps]
    return max(needs, key=lambda each: (each.all_gpus, each.all_cpus))
