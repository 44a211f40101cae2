"""What can go wrong while attention ranks are measured or layers are chosen."""

from workloads.errors import WorkloadError


class ARankError(WorkloadError):
    """Ranks cannot be measured, or no layers can be chosen from them; the model is unchanged."""

    def __init__(self, reason: str, layer_index: int | None = None) -> None:
        super().__init__(reason, layer_index)
        self.reason, self.layer_index = reason, layer_index

    def __str__(self) -> str:
        where = "" if self.layer_index is None else f"layer {self.layer_index}: "
        return f"ARank: {where}{self.reason}"
