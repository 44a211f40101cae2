"""The errors a caller of ``workloads`` may catch.

Every class hands its fields to ``super().__init__`` so that it survives pickling on its
way through Ray, and builds its sentence in ``__str__``.
"""


class WorkloadError(Exception):
    """Something a user can put right: the message says what, and how."""


class DataError(WorkloadError):
    """A record, image or dataset cannot be used.

    Args:
        source: File the fault is in.
        location: Where in the file, such as ``"record 12 ('scene-7')"`` or ``"line 3"``.
        reason: What is wrong, what was expected and what to do.
    """

    def __init__(self, source: str, location: str, reason: str) -> None:
        super().__init__(source, location, reason)
        self.source, self.location, self.reason = source, location, reason

    def __str__(self) -> str:
        return ": ".join(part for part in (self.source, self.location, self.reason) if part)


class ConversionError(WorkloadError):
    """A model cannot be converted, saved or loaded as asked; it is unchanged."""

    def __init__(self, reason: str, layer_index: int | None = None) -> None:
        super().__init__(reason, layer_index)
        self.reason, self.layer_index = reason, layer_index

    def __str__(self) -> str:
        where = "model" if self.layer_index is None else f"layer {self.layer_index}"
        return f"cannot convert {where}: {self.reason}"
