"""Where a model lies; imports nothing heavy, because plans ask before torch is needed."""

from pathlib import Path

from workloads.errors import WorkloadError

EMBEDDED = {"digits": Path(__file__).parent / "digits"}
"""Models that come with the package, by name."""


class ModelError(WorkloadError):
    """A model cannot be found or loaded.

    Args:
        name: The name or path that was asked for.
        reason: What is wrong, what was expected and what to do.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name, self.reason = name, reason

    def __str__(self) -> str:
        return f"model {self.name!r}: {self.reason}"


def resolve_model(name_or_path: str | Path) -> Path:
    """Find the folder of an embedded model by its name, or of a local one by its path.

    A folder wins over nothing: a name that is also a folder in the working directory still means
    the embedded model; write ``./name`` for the folder.

    Raises:
        ModelError: If there is no such folder, or it holds no ``config.json``.
    """
    name = str(name_or_path)
    folder = EMBEDDED.get(name) or Path(name_or_path).expanduser()
    if not folder.is_dir():
        known = ", ".join(sorted(EMBEDDED))
        reason = (
            f"no such folder; expected a local Hugging Face model folder or one of: {known} "
            "(models are not downloaded: fetch it first and give its path)"
        )
        raise ModelError(name, reason)
    if not (folder / "config.json").is_file():
        raise ModelError(name, f"{folder} has no config.json; expected a Hugging Face model folder")
    return folder.resolve()
