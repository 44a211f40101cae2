"""Stage ``align``: only the projector learns, so that images mean something to the decoder."""

from orchestrator.durable import StepContext
from orchestrator.training import run_training, training_config
from workloads.training import TrainingError


def align(context: StepContext) -> None:
    """Write ``model/`` with a trained projector, and ``history.json``.

    All other weights are proven unchanged: ``history.json`` holds their digest, which is the same
    before and after, or the step fails.

    Params: ``training`` (fields of `TrainingConfig`) and ``seed``. Inputs and settings: see
    `run_training`.

    Raises:
        TrainingError: If something else than the projector is to learn, a frozen weight
            changed, or see `run_training`.
    """
    config = training_config(context)
    if config.trainable != ("projector",):
        raise TrainingError(
            f"alignment trains the projector only, got trainable {list(config.trainable)}: "
            "write [projector], and train other parts in finetune"
        )
    run_training(context, config)
