"""The chain of a run, readable top to bottom: which step depends on what.

Stages are named by import path and imported only where they run, so that deciding that
everything is reused costs neither torch nor Ray.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from orchestrator.durable import Approval, External, Resources, Retry, Step
from orchestrator.errors import PreflightError
from orchestrator.recipe import ChosenLayers, DigitsData, GammaMoD, Recipe, Training
from orchestrator.sources import Fingerprints, absolute
from workloads.models import resolve_model


def build_steps(
    recipe: Recipe, fingerprints: Fingerprints, *, tracking_uri: str
) -> tuple[Step, ...]:
    """Turn a recipe into durable steps, in an order in which they can run.

    Raises:
        PreflightError: If the model or data that the recipe names is not there.
    """
    base = _base_model(recipe, fingerprints)
    workers = recipe.workers.model_dump()
    mlflow = {"tracking_uri": tracking_uri, "experiment": recipe.tracking.experiment}
    evaluate = recipe.evaluate.model_dump()
    return (
        _data(recipe, fingerprints),
        _training("align", "orchestrator.stages.align:align", recipe, recipe.align, base),
        Step(
            name="arank",
            function="orchestrator.stages.arank:arank",
            params=_measurement(recipe),
            inputs={"model": "align", "data": "data"},
            settings={**workers, "workers": recipe.workers.arank},
            resources=_coordinator(recipe, recipe.workers.arank),
        ),
        Step(
            name="convert",
            function="orchestrator.stages.convert:convert",
            params={"seed": recipe.seed, "mod": recipe.mod.model_dump(mode="json")},
            inputs={"model": "align"} | _shown_to_conversion(recipe),
            resources=_one_worker(recipe),
        ),
        *(
            _training(name, "orchestrator.stages.finetune:finetune", recipe, recipe.finetune, model)
            for name, model in (("finetune-dense", "align"), ("finetune-mod", "convert"))
        ),
        *(
            Step(
                name=f"evaluate-{twin}",
                function="orchestrator.stages.evaluate:evaluate",
                params=evaluate,
                inputs={"model": f"finetune-{twin}", "data": "data"},
                resources=_one_worker(recipe),
            )
            for twin in ("dense", "mod")
        ),
        Step(
            name="efficiency",
            function="orchestrator.stages.efficiency:efficiency",
            params=recipe.efficiency.model_dump(),
            inputs={"dense": "finetune-dense", "mod": "finetune-mod", "data": "data"},
            resources=_one_worker(recipe),
        ),
        Step(
            name="register",
            function="orchestrator.stages.register:register",
            params=recipe.register_as.params(),
            gate=Approval("a look at the evaluation") if recipe.register_as.approval else None,
            inputs={
                "model": "finetune-mod",
                "evaluation": "evaluate-mod",
                "dense_evaluation": "evaluate-dense",
                "efficiency": "efficiency",
            },
            settings=mlflow,
            validate="orchestrator.stages.register:is_registered",
        ),
        Step(
            name="report",
            function="orchestrator.stages.report:report",
            params={"recipe": recipe.identity()},
            inputs={name: name for name in _REPORTED},
        ),
    )


_REPORTED = (
    "data",
    "align",
    "arank",
    "convert",
    "finetune-dense",
    "finetune-mod",
    "evaluate-dense",
    "evaluate-mod",
    "efficiency",
    "register",
)


def _base_model(recipe: Recipe, fingerprints: Fingerprints) -> External:
    path = resolve_model(recipe.model)
    return External(digest=fingerprints.folder(path), path=str(path))


def _data(recipe: Recipe, fingerprints: Fingerprints) -> Step:
    function = "orchestrator.stages.data:data"
    if isinstance(recipe.data, DigitsData):
        return Step(
            name="data",
            function=function,
            params={"seed": recipe.seed, **recipe.data.model_dump()},
            inputs={},
        )
    images = recipe.data.images
    files = {"train": recipe.data.train, "eval": recipe.data.evaluation}
    addresses = {split: absolute(file) for split, file in files.items()}
    return Step(
        name="data",
        function=function,
        params=recipe.data.params(),
        inputs={
            split: External(digest=fingerprints.dataset(file, images), path=addresses[split])
            for split, file in files.items()
        },
        settings={"files": addresses, "images": absolute(images)},
        # Many records are read by Ray Data's workers, and only few by the step itself.
        resources=Resources(cpus=0, worker_cpus=recipe.workers.cpus),
    )


def _training(
    name: str, function: str, recipe: Recipe, training: Training, model: str | External
) -> Step:
    settings = {
        "checkpoint_every": training.checkpoint_every,
        "system_metrics": recipe.tracking.system_metrics,
        **recipe.workers.model_dump(),
    }
    return Step(
        name=name,
        function=function,
        params={
            "seed": recipe.seed,
            "training": training.params(),
        },
        inputs={"model": model, "data": "data"},
        settings={**settings, "workers": recipe.workers.training},
        resources=_coordinator(recipe, recipe.workers.training_sizes.start),
        # It ends so when the time of its run is up, and goes on in the next.
        retry=Retry(errors=("TrainingStoppedError",)),
    )


def _measurement(recipe: Recipe) -> dict[str, Any]:
    """What ARank depends on: the layer policy only if it decides when to stop.

    Defaults are left out, so that a measurement made before there were options is still found.
    """
    section = recipe.arank
    params: dict[str, Any] = {"seed": recipe.seed, "samples": section.samples}
    options = section.model_dump(include={"map", "block"}, exclude_defaults=True)
    if options:
        params["options"] = options
    if section.stop_unchanged is not None and isinstance(recipe.mod, ChosenLayers):
        policy = recipe.mod.layers.model_dump(mode="json")
        params["stop"] = {"unchanged": section.stop_unchanged, "policy": policy}
    return params


def _shown_to_conversion(recipe: Recipe) -> dict[str, str]:
    """γ-MoD converts what ARank shows redundant; p-MoD's schedule needs no measurement."""
    shown = {"arank": "arank"} if isinstance(recipe.mod, ChosenLayers) else {}
    if isinstance(recipe.mod, GammaMoD) and recipe.mod.warm_start:
        shown["data"] = "data"
    return shown


def _one_worker(recipe: Recipe) -> Resources:
    return Resources(cpus=recipe.workers.cpus, gpus=recipe.workers.gpus)


def _coordinator(recipe: Recipe, workers: int) -> Resources:
    """For a step that starts its own Ray workers and needs nothing itself."""
    return Resources(
        cpus=0,
        worker_cpus=workers * recipe.workers.cpus,
        worker_gpus=workers * recipe.workers.gpus,
    )


def needed_for(steps: Sequence[Step], names: Iterable[str]) -> tuple[Step, ...]:
    """The steps called ``names`` and those that they depend on, in the order given.

    Raises:
        PreflightError: If there is no such step.
    """
    by_name = {step.name: step for step in steps}
    needed: set[str] = set()
    frontier = list(names)
    while frontier:
        name = frontier.pop()
        if name not in by_name:
            raise PreflightError(f"no step {name!r}; the steps are {', '.join(by_name)}")
        needed.add(name)
        inputs = by_name[name].inputs.values()
        frontier.extend(source for source in inputs if isinstance(source, str))
    return tuple(step for step in steps if step.name in needed)
