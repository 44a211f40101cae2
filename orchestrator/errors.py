"""The errors of the orchestrator that a user can put right."""


class RecipeError(Exception):
    """A recipe or a value given on the command line is wrong.

    Args:
        source: The file, or ``"command line"``.
        line: 1-based line in the file; None where there is none.
        key: Dotted path of the key, such as ``"finetune.learning_rate"``.
        reason: What is wrong, what was expected and what to do.
    """

    def __init__(self, source: str, line: int | None, key: str, reason: str) -> None:
        super().__init__(source, line, key, reason)
        self.source, self.line, self.key, self.reason = source, line, key, reason

    def __str__(self) -> str:
        where = self.source if self.line is None else f"{self.source}, line {self.line}"
        return ": ".join(part for part in (where, self.key, self.reason) if part)


class PreflightError(Exception):
    """Something outside the recipe stands in the way of a run; nothing has been started."""

    @property
    def exit_code(self) -> int:
        """2: it has to be put right first."""
        return 2
