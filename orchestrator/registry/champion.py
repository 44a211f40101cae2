"""Who holds the alias ``champion``, who held it before, and how it moves.

MLflow's aliases have no compare-and-set: whoever sets one last wins. But a parameter of a run can
be written only once, so the moves are numbered and written down as parameters of one run per
registered model, its ledger. Of two that were decided at the same time one finds its number taken,
and has to compare with the winner. The alias only follows: who writes a move sets the alias to
where the ledger says and reads both again, so the last one to set it leaves it right. A move whose
writer died in between is finished by the next one who reads it.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from orchestrator.registry.errors import RegistryError

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHAMPION = "champion"
_LEDGER_TAG = "gammaray.ledger"
"""On the experiment: the id of the run."""
_LEDGER_OF_TAG = "gammaray.ledger_of"
"""On the run: the registered model."""
_MOVE = "champion"
_SEATED = "seated"
_SETTLING = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Move:
    """One move of the alias, as it was written down."""

    number: int
    """From 1."""
    version: str
    """The champion from here on."""
    over: str | None
    """The champion that it was decided against."""
    why: Literal["promoted", "rolled back"]
    at: str
    """When, in UTC."""
    is_seated: bool = False
    """Whether the alias has followed; later somebody else may have moved it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Throne:
    """The alias and all its moves."""

    champion: str | None
    """The version that has the alias now; None if none has, or it was deleted."""
    moves: tuple[Move, ...]
    """By number."""

    @property
    def last(self) -> Move | None:
        """The move that names the champion."""
        return self.moves[-1] if self.moves else None

    @property
    def vacant(self) -> str | None:
        """The version that should have the alias, while no version has it."""
        return self.last.version if self.last and self.champion is None else None

    def before(self, version: str | None) -> Iterator[str]:
        """The champions that ``version`` came after, the newest first."""
        seen = {version}
        while version is not None:
            promoted = [m for m in self.moves if m.version == version and m.why == "promoted"]
            version = promoted[-1].over if promoted else None
            if version is None or version in seen:
                return
            seen.add(version)
            yield version


class Ledger:
    """The moves of one registered model.

    Args:
        client: Of MLflow.
        name: Name in the registry.
    """

    def __init__(self, client: "MlflowClient", name: str) -> None:
        self._client, self._name = client, name

    def read(self) -> Throne:
        """Alias and moves; one that was left half done is finished first.

        Raises:
            RegistryError: If others keep moving the alias.
            MlflowException: If MLflow is away or refuses.
        """
        throne = self._look()
        if throne.last is None or throne.last.is_seated:
            return throne
        return self._settle()

    def move(
        self,
        version: str,
        *,
        over: str | None,
        why: Literal["promoted", "rolled back"],
        experiment_id: str,
    ) -> bool:
        """Make ``version`` the champion, if ``over`` still is.

        Args:
            version: The new champion.
            over: The champion that was read when it was decided.
            why: What is written down.
            experiment_id: Where the ledger is put if there is none.

        Returns:
            False if another move was first; then the alias is where that one says.

        Raises:
            RegistryError: If others keep moving the alias.
            MlflowException: If MLflow is away or refuses.
        """
        throne = self.read()
        if throne.champion != over:
            return False
        number = throne.last.number + 1 if throne.last else 1
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        move = Move(number=number, version=version, over=over, why=why, at=at)
        if not self._write_once(self._open(experiment_id), f"{_MOVE}.{number:06d}", _text(move)):
            return False
        self._settle()
        return True

    def _look(self) -> Throne:
        run_id = self._find()
        params = self._client.get_run(run_id).data.params if run_id else {}
        champion = self._client.get_registered_model(self._name).aliases.get(CHAMPION)
        return Throne(
            champion=None if champion is None else str(champion), moves=tuple(_moves(params))
        )

    def _settle(self) -> Throne:
        """Set the alias to where the ledger says, until it is read there."""
        for _ in range(_SETTLING):
            throne = self._look()
            last, run_id = throne.last, self._find()
            assert last is not None, "a move was written before"
            assert run_id is not None
            if throne.champion == last.version or not self._set(last.version):
                self._write_once(run_id, f"{_SEATED}.{last.number:06d}", "yes")
                return throne
        raise RegistryError(self._name, f"the alias {CHAMPION} is moved by others; try again")

    def _set(self, version: str) -> bool:
        """Set the alias; False if the version was deleted meanwhile."""
        from mlflow.exceptions import MlflowException

        try:
            self._client.set_registered_model_alias(self._name, CHAMPION, version)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return False
        return True

    def _write_once(self, run_id: str, key: str, value: str) -> bool:
        """Write a parameter; False if it has another value already."""
        from mlflow.exceptions import MlflowException

        try:
            self._client.log_param(run_id, key, value)
        except MlflowException:
            found = self._client.get_run(run_id).data.params.get(key)
            if found is None:
                raise
            return bool(found == value)
        return True

    def _find(self) -> str | None:
        found = self._client.get_experiment_by_name(self._experiment)
        return None if found is None else str(found.tags[_LEDGER_TAG])

    def _open(self, experiment_id: str) -> str:
        """The ledger's run. An experiment's name is unique, so that there is only one."""
        from mlflow.exceptions import MlflowException

        if known := self._find():
            return known
        run_id = self._unused(experiment_id) or self._create(experiment_id)
        try:
            self._client.create_experiment(self._experiment, tags={_LEDGER_TAG: run_id})
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        found = self._find()
        assert found is not None
        if found != run_id:
            self._client.delete_run(run_id)
        return found

    def _create(self, experiment_id: str) -> str:
        tags = {_LEDGER_OF_TAG: self._name}
        run = self._client.create_run(experiment_id, tags=tags, run_name=self._experiment)
        self._client.set_terminated(run.info.run_id)
        return str(run.info.run_id)

    def _unused(self, experiment_id: str) -> str | None:
        """A ledger's run whose maker died before the experiment named it."""
        found = self._client.search_runs(
            [experiment_id], f"tags.`{_LEDGER_OF_TAG}` = '{self._name}'", max_results=1
        )
        return str(found[0].info.run_id) if found else None

    @property
    def _experiment(self) -> str:
        return f"champions of {self._name}"


def _moves(params: Mapping[str, str]) -> Iterator[Move]:
    for key in sorted(key for key in params if key.startswith(f"{_MOVE}.")):
        values: dict[str, Any] = json.loads(params[key])
        move = Move(**values)
        yield replace(move, is_seated=f"{_SEATED}.{move.number:06d}" in params)


def _text(move: Move) -> str:
    fields = asdict(move)
    del fields["is_seated"]
    return json.dumps(fields)
