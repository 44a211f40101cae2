"""A recipe: one YAML file that resolves to a whole run.

Sections are frozen and checked when they are made, so a bad value fails before a machine is
booked. Values that change a result are part of the step keys; `Workers`, `Tracking` and
``store`` only say where and on how much hardware the work is done.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from orchestrator.search_space import Sweep
from orchestrator.section import Positive, Section, Share
from workloads.training.checkpoints.timetable import Every

Rate = Annotated[float, Field(gt=0.0)]


class DigitsData(Section):
    """The embedded data: questions about scenes of real handwritten digits."""

    source: Literal["digits-vqa"]
    train_scenes: Positive = 2000
    eval_scenes: Positive = 500
    questions_per_scene: Positive = 4


class LlavaData(Section):
    """A user's data: LLaVA-format files and the folder their image paths start from."""

    source: Literal["llava"]
    train: str
    """Path or URL of a ``.json``, ``.jsonl`` or ``.parquet`` file."""
    evaluation: str
    images: str
    on_bad_image: Literal["stop", "replace"] = "stop"
    """``stop`` reads every image before anything else runs. ``replace`` does so for ``evaluation``
    only: a training replaces samples whose image is missing or damaged by the next ones."""

    def params(self) -> dict[str, Any]:
        """What the shards depend on beside the files; what is as by default changes no key."""
        return self.model_dump(include={"source", "on_bad_image"}, exclude_defaults=True)


class Guards(Section):
    """What a training does when something is wrong; `workloads.training.Guards` says when it is."""

    non_finite: Literal["skip", "rollback", "stop"] = "stop"
    """An input, the loss or the gradient is NaN or infinite."""
    spike: Literal["off", "warn", "skip", "rollback", "stop"] = "warn"
    """The gradient's norm is ``spike_factor`` times the median of the last ``spike_window``."""
    collapse: Literal["off", "warn", "rollback", "stop"] = "warn"
    """A layer's router has said the same of all tokens for ``patience`` steps."""
    degenerate: Literal["off", "warn", "rollback", "stop"] = "warn"
    """Answers to held-out questions are empty or repeat themselves; takes ``validation``."""
    spike_factor: Annotated[float, Field(gt=1.0)] = 20.0
    spike_window: Positive = 50
    min_entropy: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    """Entropy of the mean routing probability, as a share of that at the layer's capacity, below
    which a router says the same of all tokens."""
    patience: Positive = 20
    max_degenerate: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.5
    rollback_rate: Share = 0.5
    """Factor on the learning rates after a rollback."""
    limit: Positive = 5
    """Skipped batches in a row, or rollbacks in all, that end the training."""


class Lora(Section):
    """Adapters that learn in the place of the language model (arXiv 2106.09685)."""

    rank: Positive = 16
    alpha: Annotated[float, Field(gt=0.0)] = 32.0
    """What an adapter adds is scaled by ``alpha / rank``."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0


class Validation(Section):
    """What is measured on samples of the training data that are held out."""

    every: Positive = 50
    """Optimizer steps between two measurements; there is one after the last step too."""
    batches: Positive = 2
    """Global batches of samples that are held out."""
    answers: Annotated[int, Field(ge=0)] = 8
    """How many of them are answered, for the guard ``degenerate``."""
    max_new_tokens: Positive = 32
    best: Literal["keep", "use", "off"] = "keep"
    """The state with the lowest loss: its checkpoint is kept, or its weights are the result."""


class Training(Section):
    """One training: how long, how fast, and which parts learn."""

    steps: Positive
    global_batch: Positive = 32
    micro_batch: Positive | None = None
    """Samples of one forward pass of one worker; by default a worker's whole share."""
    learning_rate: Rate
    router_learning_rate: Rate | None = None
    """By default, as for the next two, ``learning_rate``."""
    projector_learning_rate: Rate | None = None
    vision_learning_rate: Rate | None = None
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_ratio: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.03
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    clip_norm: Annotated[float, Field(gt=0.0)] = 1.0
    precision: Literal["fp32", "bf16"] = "fp32"
    gradient_checkpointing: bool = False
    trainable: tuple[Literal["projector", "vision_tower", "language_model", "router"], ...]
    lora: Lora | None = None
    """Adapters in the place of the language model's weights, into which they are merged."""
    zero_stage: Literal[0, 1, 2, 3] = 2
    offload_optimizer: bool = False
    """Keep optimizer states in the machine's memory; takes ``zero_stage`` 1, 2 or 3."""
    checkpoint_every: Positive | str = 50
    """Optimizer steps between checkpoints, a duration such as ``10min``, or ``auto``: as often as
    pays off. Part of a key only where ``guards`` may roll back, which takes steps."""
    guards: Guards = Guards()
    validation: Validation | None = None
    """What is measured on held-out samples; by default all are trained on."""
    group_by_length: bool = False
    """Whether a batch has samples of one length, with images or without: less padding, and
    batches that are less random."""

    @model_validator(mode="after")
    def _can_be_interrupted(self) -> "Training":
        Every.parse(self.checkpoint_every)
        if self._may_roll_back and not isinstance(self.checkpoint_every, int):
            raise ValueError("checkpoint_every must be steps where a guard may roll back")
        return self

    @model_validator(mode="after")
    def _can_be_trained(self) -> "Training":
        if self.lora is not None and "language_model" not in self.trainable:
            raise ValueError("lora adapts the language_model: add it to trainable, or remove lora")
        if self.offload_optimizer and not self.zero_stage:
            raise ValueError("offload_optimizer needs zero_stage 1, 2 or 3")
        return self

    def params(self) -> dict[str, Any]:
        """What the result depends on; what came later changes no key where it is not used."""
        without = set() if self._may_roll_back else {"checkpoint_every"}
        fields = type(self).model_fields
        without.update(name for name in _LATER if getattr(self, name) == fields[name].default)
        return self.model_dump(mode="json", exclude=without)

    @property
    def _may_roll_back(self) -> bool:
        guards = self.guards
        return "rollback" in (
            guards.non_finite,
            guards.spike,
            guards.collapse,
            guards.degenerate,
        )


_LATER = (
    "group_by_length",
    "guards",
    "lora",
    "offload_optimizer",
    "projector_learning_rate",
    "validation",
    "vision_learning_rate",
)


class ARank(Section):
    """How attention ranks are measured (γ-MoD, arXiv 2410.13859, section 3.2)."""

    samples: Positive = 50
    map: Literal["softmax", "logits"] = "softmax"
    """The causal attention map, as in the release, or queries times keys, as in the paper."""
    block: Literal["all", "image-image", "text-image"] = "all"
    """Which tokens' attention to which is ranked."""
    stop_unchanged: Positive | None = None
    """Stop early once the layers that ``mod.layers`` chooses have stayed the same for so many
    samples; by default all samples are measured."""


class LayerChoice(Section):
    """Which layers become Mixture-of-Depths layers, from their ARank."""

    policy: Literal[
        "fraction", "threshold", "lowest", "knee", "explicit", "release", "random", "all"
    ] = "fraction"
    fraction: Share = 0.9
    threshold: Annotated[float, Field(gt=0.0)] | None = None
    relative_threshold: Share | None = None
    """A threshold as a share of the sequence length."""
    count: Positive | None = None
    layers: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    heuristic: str | None = None
    """A layer pattern of the released codes."""
    always_dense: tuple[Annotated[int, Field(ge=0)], ...] = (0,)
    seed: int = 0

    @model_validator(mode="after")
    def _has_what_its_policy_needs(self) -> "LayerChoice":
        needed = {"lowest": "count", "explicit": "layers"}
        field = needed.get(self.policy)
        if field is not None and getattr(self, field) is None:
            raise ValueError(f"policy {self.policy!r} needs the key {field!r}")
        return self


class ChosenLayers(Section):
    """What every method has whose layers a policy chooses, as a rule by ARank."""

    capacity_ratio: Share
    """Share of the routable tokens that a converted layer computes."""
    capacities: Literal["equal", "arank"] = "equal"
    """One capacity for all, or one in proportion to each layer's ARank, ``capacity_ratio`` on
    average and at most 1."""
    masked: Literal["none", "question", "question+answer", "image-only"] = "question"
    """Which tokens are protected."""
    layers: LayerChoice = LayerChoice()


class GammaMoD(ChosenLayers):
    """The γ-MoD preset: shared router, masked routing, layers chosen by ARank."""

    method: Literal["gamma"]
    shared_router: bool = True
    aux_weight: Annotated[float, Field(ge=0.0)] = 0.01
    warm_start: Annotated[int, Field(ge=0)] = 0
    """Training samples that show the router which tokens matter, before it is fine-tuned; 0 starts
    it at random weights, as the paper does."""


class RandomMoD(ChosenLayers):
    """The baseline of a learned router: layers skip tokens at random and reweight none."""

    method: Literal["random"]


class PMoD(Section):
    """The p-MoD preset: TanhNorm, STRing and progressive ratio decay."""

    method: Literal["p_mod"]
    schedule: Literal["cosine", "linear"] = "cosine"
    mean_retention: Share = 0.5
    max_ratio: Share = 0.85
    """Layers whose share of computed tokens is above stay dense."""
    min_ratio: Share = 0.15
    alpha: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.2
    """A token's weight is ``1 + alpha * tanh(logit)``."""


class Evaluation(Section):
    """Greedy answers to held-out questions, scored by exact match."""

    questions: Positive | None = None
    """How many; by default all."""
    batch_size: Positive = 64
    max_new_tokens: Positive = 8


class Efficiency(Section):
    """The side-by-side measurement of the dense model and its converted twin."""

    batch_size: Positive = 16
    repeats: Positive = 25


class Promotion(Section):
    """When a version becomes the ``champion``; docs/registry.md tells how it is decided.

    Accuracies are compared on the same questions, and a bound holds if it holds for the worse end
    of the bootstrap interval.
    """

    max_accuracy_drop: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.01
    """Share of the questions by which accuracy may be lower than that of the dense twin, and than
    that of the present champion."""
    min_flops_saved: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of the dense twin's decoder FLOPs in a prefill."""
    max_prefill_ratio: Annotated[float, Field(gt=0.0)] | None = None
    """Prefill time over that of the dense twin, side by side; by default times decide nothing."""
    against_champion: bool = True
    """Whether the present champion has to be matched too."""
    min_champion_gain: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.01
    """Share of the champion's FLOPs that must be saved, unless the new version is surely more
    accurate at no higher cost."""
    confidence: Annotated[float, Field(gt=0.5, lt=1.0)] = 0.95
    resamples: Annotated[int, Field(ge=100, le=1_000_000)] = 10_000
    min_questions: Positive = 100
    """With fewer, an interval is not to be trusted."""
    automatic: bool = True
    """Whether a run moves the alias itself; if not, ``gammaray register NAME --promote`` does."""


class Registration(Section):
    """The name in MLflow's model registry."""

    name: str = Field(min_length=1, pattern=r"^[^/:%\"']+$")
    approval: bool = False
    """Whether a person must give ``gammaray approve RUN register`` first; never part of a key."""
    promote: Promotion | None = None
    """When the version becomes the ``champion``; by default it stays the ``candidate``."""

    def params(self) -> dict[str, Any]:
        """What the result depends on; without a rule as it was before there were rules."""
        without = {"approval"} | ({"promote"} if self.promote is None else set())
        return self.model_dump(mode="json", exclude=without)


class Workers(Section):
    """How much hardware the work may use; never part of a key."""

    arank: Positive = 2
    training: Positive | tuple[Positive, Positive] = 2
    """Workers of a training; or the fewest and the most: as many of them are used as the cluster
    has room for and the global batch can be shared by equally."""
    cpus: Annotated[float, Field(gt=0.0)] = 1.0
    """CPUs of one worker."""
    memory_gb: Annotated[float, Field(gt=0.0)] = 4.0
    """Memory of one worker, GiB; what a cluster manifest asks for."""
    gpus: Annotated[float, Field(ge=0.0)] = 0.0
    """GPUs of one worker."""
    max_failures: Annotated[int, Field(ge=0)] = 3
    """Lost workers that a training survives before its step fails."""
    hours_between_failures: Annotated[float, Field(gt=0.0)] = 24.0
    """Expected time between two failures of one worker, for ``checkpoint_every: auto``."""

    @property
    def training_sizes(self) -> range:
        """How many workers a training may have."""
        fewest, most = (self.training,) * 2 if isinstance(self.training, int) else self.training
        return range(fewest, most + 1)

    @model_validator(mode="after")
    def _has_a_range_of_workers(self) -> "Workers":
        if not self.training_sizes:
            raise ValueError(f"training names the fewest workers first, got {self.training}")
        return self


class Tracking(Section):
    """Where runs, metrics and versions are kept; never part of a key."""

    uri: str | None = None
    """MLflow's tracking URI; by default ``mlflow.db`` beside a local store."""
    experiment: str = "gammaray"
    system_metrics: bool = True
    """Whether trainings tell how busy their machines are: CPU, memory, disk, network, GPUs."""


class Recipe(Section):
    """A whole run in one tree."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    seed: Annotated[int, Field(ge=0)] = 0
    model: str = Field(min_length=1)
    """``digits`` for the embedded base model, or a local Hugging Face folder."""
    data: Annotated[DigitsData | LlavaData, Field(discriminator="source")]
    align: Training
    arank: ARank = ARank()
    mod: Annotated[GammaMoD | PMoD | RandomMoD, Field(discriminator="method")]
    finetune: Training
    evaluate: Evaluation = Evaluation()
    efficiency: Efficiency = Efficiency()
    register_as: Registration = Field(alias="register")
    workers: Workers = Workers()
    tracking: Tracking = Tracking()
    sweep: Sweep | None = None
    """What ``gammaray sweep`` searches; a plain run takes no notice of it."""

    @model_validator(mode="after")
    def _shares_its_batches_equally(self) -> "Recipe":
        for name, training in (("align", self.align), ("finetune", self.finetune)):
            fewest = self.workers.training_sizes.start
            if training.global_batch % fewest:
                raise ValueError(
                    f"{name}.global_batch {training.global_batch} cannot be shared equally by "
                    f"{fewest} workers, the fewest of workers.training {self.workers.training}"
                )
            rows = training.global_batch // fewest
            if training.micro_batch is not None and rows % training.micro_batch:
                raise ValueError(
                    f"{name}.micro_batch {training.micro_batch} does not divide the {rows} samples "
                    f"that each of {fewest} workers sees of a global batch"
                )
        return self

    def identity(self) -> dict[str, Any]:
        """What makes two runs the same run: every value but the hardware and the addresses."""
        tree = self.model_dump(mode="json", by_alias=True, exclude=_NOT_IDENTITY)
        if isinstance(self.data, LlavaData) and "on_bad_image" not in self.data.params():
            del tree["data"]["on_bad_image"]
        return tree | {
            "align": self.align.params(),
            "finetune": self.finetune.params(),
            "register": self.register_as.params(),
        }


KINDS = ("digits-vqa", "llava", "gamma", "p_mod", "random")
"""What ``source`` and ``method`` may say; pydantic puts it into the path of an error."""

_NOT_IDENTITY: dict[str, Any] = {
    "workers": True,
    "tracking": True,
    "sweep": True,
}
