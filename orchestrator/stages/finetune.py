"""Stage ``finetune``: the converted model, or its dense twin, learns the task."""

from orchestrator.durable import StepContext
from orchestrator.training import run_training, training_config


def finetune(context: StepContext) -> None:
    """Write ``model/`` with the trained weights, and ``history.json``.

    Takes a dense and a converted model alike; with the same params both see the same batches.
    A model that routes by threshold at inference gets its thresholds from the first training
    samples, so that it skips what it skipped in training.

    Params: ``training`` (fields of `TrainingConfig`) and ``seed``. Inputs and settings: see
    `run_training`.

    Raises:
        TrainingError: See `run_training`.
    """
    run_training(context, training_config(context))
