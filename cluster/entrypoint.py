"""The command that runs on the cluster, and what has to travel there with it."""

import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from cluster.errors import UsageError

_URL = re.compile(r"^[a-z][a-z0-9+.-]*://")
_SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSWORD|_KEY$")


@dataclass(frozen=True, kw_only=True, slots=True)
class Entrypoint:
    """``gammaray run`` as it is typed on the cluster.

    Raises:
        UsageError: If the recipe file is missing, an override is not ``key=value``, or the
            store is a path that would mean another place on another machine.
    """

    recipe: str
    """A built-in recipe's name, or the path of a YAML file on this machine."""

    overrides: tuple[str, ...] = ()
    """``key=value``, as the command line takes them."""

    store: str | None = None
    """Where the run keeps its artifacts, as the cluster's machines see it."""

    command: str = "gammaray run"
    """What takes the recipe on the cluster."""

    def __post_init__(self) -> None:
        if self.recipe_file is not None and not self.recipe_file.is_file():
            raise UsageError(f"{self.recipe}: no such recipe file")
        for override in self.overrides:
            if not re.match(r"[^=\s]+=", override):
                raise UsageError(f"{override!r}: expected key=value, such as finetune.steps=500")
        if self.store is not None and not _URL.match(self.store) and self.store[:1] != "/":
            raise UsageError(
                f"--store {self.store}: a relative path is another folder on the cluster; "
                "give an absolute path that its machines share, or a URL such as s3://bucket/runs"
            )

    @property
    def recipe_file(self) -> Path | None:
        """The recipe on this machine; None for a built-in one, which the cluster has as well."""
        looks_like_a_file = "/" in self.recipe or self.recipe.endswith((".yaml", ".yml"))
        return Path(self.recipe) if looks_like_a_file else None

    def shell_line(self, recipe_folder: PurePosixPath | None = None) -> str:
        """The command for a POSIX shell.

        Args:
            recipe_folder: Folder of the recipe file on the cluster; by default the one that
                the command starts in.
        """
        file = self.recipe_file
        recipe = (
            self.recipe if file is None else str((recipe_folder or PurePosixPath()) / file.name)
        )
        words = [*shlex.split(self.command), recipe, *self.overrides]
        if self.store is not None:
            words += ["--store", self.store]
        return shlex.join(words)


def is_remote(store: str) -> bool:
    """Whether every machine understands ``store`` alike: a URL, but not ``file://``."""
    return bool(_URL.match(store)) and not store.startswith("file://")


def environment_variables(assignments: Iterable[str]) -> dict[str, str]:
    """The environment of a run's processes: the defaults, then ``NAME=VALUE`` in order.

    Raises:
        UsageError: If one is not ``NAME=VALUE``, or names a secret: the job's environment
            can be read by everyone who sees the dashboard or the manifest.
    """
    # Workers share a node: without a limit each of them would start a thread per core.
    variables = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    for assignment in assignments:
        name, separator, value = assignment.partition("=")
        if not separator or not name.isidentifier():
            raise UsageError(f"--env {assignment}: expected NAME=VALUE")
        if _SECRET_NAME.search(name):
            raise UsageError(
                f"--env {name}: the value would be readable in the dashboard and the manifest; "
                "set it on the cluster's machines, or use --secret with --kuberay"
            )
        variables[name] = value
    return variables
