"""Decides on a version, writes the decision on it, and moves the alias ``champion``."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.recipe import Promotion
from orchestrator.registry.card import with_decision
from orchestrator.registry.champion import CHAMPION, Ledger, Throne
from orchestrator.registry.decision import Decision, Rival, Verdict, decide
from orchestrator.registry.errors import RegistryError
from orchestrator.registry.evidence import EVIDENCE_TAG, FOLDER, Evidence
from orchestrator.registry.files import fetch, logged_model_of
from orchestrator.secrets import without_credentials
from orchestrator.tracking.records import is_passing

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

VERDICT_TAG = "gammaray.decision"
_REASON_TAG = "gammaray.decision.reason"
_DIGEST_TAG = "gammaray.decision.digest"
_TIME_TAG = "gammaray.decision.at"
_DOCUMENT_TAG = "gammaray.decision.document"

_RACES = 10


@dataclass(frozen=True)
class Rollback:
    """What a rollback changed."""

    name: str
    version: str
    """The champion from now on."""
    instead_of: str


class Promoter:
    """Promotes and rolls back versions of one registered model.

    Args:
        client: Of MLflow.
        tracking_uri: Where it keeps its records.
        name: Name in the registry.
    """

    def __init__(self, client: "MlflowClient", tracking_uri: str, name: str) -> None:
        self._client, self._uri, self._name = client, tracking_uri, name
        self._ledger = Ledger(client, name)

    def consider(
        self, version: str, rule: Promotion, *, may_move: bool, is_by_hand: bool = False
    ) -> Decision:
        """Decide on a version, record it there, and make it the champion if it shall be.

        The decision is recorded first, so that no champion is without its reason. Who loses a race
        compares with the winner.

        Args:
            version: The candidate.
            rule: What has to hold.
            may_move: Whether the alias is moved if the rule holds.
            is_by_hand: Whether a person asks. A run leaves a version alone that a person has
                rolled back.

        Raises:
            RegistryError: If there is no such version, or it has no predictions.
            MlflowException: If MLflow is away or refuses.
        """
        found = self._version(version)
        evidence = self._evidence(found)
        if found.tags.get(VERDICT_TAG) == Verdict.ROLLED_BACK and not is_by_hand:
            return _left_alone(self._name, found, evidence, rule)
        for _ in range(_RACES):
            throne = self._ledger.read()
            is_champion = throne.champion == version
            known = _recorded(found)
            if is_champion and known and _holds(known, evidence, rule):
                return known
            decision = decide(
                self._name,
                version,
                evidence,
                champion=None if is_champion else self._rival(throne),
                rule=rule,
                may_move=may_move or is_champion,
            )
            if is_champion and decision.verdict is Verdict.REFUSED:
                has_another = any(throne.before(version))
                stays = _stays(self._name, can_roll_back=has_another)
                decision = replace(decision, reason=f"{decision.reason}; {stays}")
            self._record(found, decision)
            if is_champion or decision.verdict is not Verdict.PROMOTED:
                return decision
            if self._ledger.move(
                version,
                over=throne.champion,
                why="promoted",
                experiment_id=self._experiment_of(found),
            ):
                return decision
        raise RegistryError(self._name, f"the {CHAMPION} changes all the time; try again later")

    def roll_back(self) -> Rollback:
        """Give the alias back to the champion before, and note it on the version that had it.

        Raises:
            RegistryError: If there is none, or the alias was moved at the same time.
            MlflowException: If MLflow is away or refuses.
        """
        throne = self._ledger.read()
        current = throne.champion or throne.vacant
        found = self._client.search_model_versions(f"name = '{self._name}'")
        there = {str(item.version): item for item in found}
        version = next((item for item in throne.before(current) if item in there), None)
        if current is None:
            raise RegistryError(self._name, f"has no {CHAMPION}, so there is nothing to roll back")
        if version is None:
            raise RegistryError(
                self._name, f"no {CHAMPION} before version {current} is known, or it was deleted"
            )
        if throne.champion is not None:
            self._mark_rolled_back(current, version)
        if not self._ledger.move(
            version,
            over=throne.champion,
            why="rolled back",
            experiment_id=self._experiment_of(there[version]),
        ):
            raise RegistryError(
                self._name,
                f"the {CHAMPION} was moved at the same time; see gammaray register {self._name}",
            )
        return Rollback(self._name, version, current)

    def rule_of(self, version: str) -> Promotion | None:
        """The rule that a version was last decided on by; None if it never was."""
        known = _recorded(self._version(version))
        return known.rule if known else None

    def _experiment_of(self, found: "ModelVersion") -> str:
        return str(self._client.get_logged_model(logged_model_of(found)).experiment_id)

    def _version(self, version: str) -> "ModelVersion":
        from mlflow.exceptions import MlflowException

        try:
            return self._client.get_model_version(self._name, version)
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            raise RegistryError(self._name, f"there is no version {version}") from error

    def _rival(self, throne: Throne) -> Rival | None:
        version = throne.champion or throne.vacant
        if version is None:
            return None
        try:
            found = self._version(version)
        except RegistryError:
            return Rival(
                version=version,
                problem="it was deleted; give the alias to an earlier one by gammaray register "
                f"{self._name} --rollback, or decide without it by against_champion=false",
            )
        if throne.champion is None:  # a person has taken the alias away from it
            return None
        try:
            return Rival(version=version, evidence=self._evidence(found))
        except RegistryError as error:
            return Rival(version=version, problem=error.reason)

    def _evidence(self, found: "ModelVersion") -> Evidence:
        """What a version's decision rests on.

        Raises:
            RegistryError: If it has none, or it is not what was written.
        """
        version = str(found.version)
        expected = found.tags.get(EVIDENCE_TAG)
        if not expected:
            raise RegistryError(
                self._name,
                f"version {version} has no predictions to compare (it was registered by an earlier "
                "gammaray, or by something else); register it again by the run that made it",
            )
        with tempfile.TemporaryDirectory(prefix="gammaray-") as scratch:
            try:
                file = f"{FOLDER}/{expected}.json"
                path = fetch(self._client, self._uri, found, file, Path(scratch))
                evidence = Evidence.from_json(path.read_text(encoding="utf-8"))
            except Exception as error:
                if is_passing(error):
                    raise
                raise RegistryError(
                    self._name, f"the predictions of version {version} cannot be read: {error}"
                ) from error
        if evidence.digest != expected:
            raise RegistryError(
                self._name, f"the predictions of version {version} are not those it was made with"
            )
        return evidence

    def _record(self, found: "ModelVersion", decision: Decision) -> None:
        tags = {
            _DOCUMENT_TAG: json.dumps(decision.to_json()),
            _REASON_TAG: decision.reason,
            _DIGEST_TAG: decision.digest,
            _TIME_TAG: decision.decided_at,
            VERDICT_TAG: str(decision.verdict),
        }
        self._write(found, tags, with_decision(str(found.description or ""), decision))

    def _mark_rolled_back(self, version: str, successor: str) -> None:
        found = self._version(version)
        reason = f"gave the alias {CHAMPION} back to version {successor}"
        known = _recorded(found)
        description = str(found.description or "")
        if known is not None:
            undone = replace(known, verdict=Verdict.ROLLED_BACK, reason=reason)
            description = with_decision(description, undone)
        tags = {_REASON_TAG: reason, _TIME_TAG: _now(), VERDICT_TAG: str(Verdict.ROLLED_BACK)}
        self._write(found, tags, description)

    def _write(self, found: "ModelVersion", tags: dict[str, str], description: str) -> None:
        version = str(found.version)
        for key, value in tags.items():
            self._client.set_model_version_tag(self._name, version, key, value)
        self._client.update_model_version(self._name, version, description)


@contextmanager
def telling_when_away(tracking_uri: str) -> Iterator[None]:
    """Turn what may pass with time into a ``ConnectionError`` that names no credentials."""
    try:
        yield
    except Exception as error:
        if is_passing(error):
            told = without_credentials(f"MLflow at {tracking_uri} is away: {error}")
            raise ConnectionError(told) from error
        raise


def _recorded(found: "ModelVersion") -> Decision | None:
    """The decision that a version carries, unless it was rolled back since."""
    text = found.tags.get(_DOCUMENT_TAG)
    return Decision.from_json(json.loads(text)) if text else None


def _stays(name: str, *, can_roll_back: bool) -> str:
    still = f"it is still the {CHAMPION}"
    if not can_roll_back:
        return f"{still}, and none was before it"
    return f"{still}; `gammaray register {name} --rollback` gives the alias to the one before"


def _holds(decision: Decision, evidence: Evidence, rule: Promotion) -> bool:
    """Whether a recorded decision is about the same and made the version the champion."""
    is_about = decision.evidence == evidence.digest and decision.rule == rule
    return is_about and decision.verdict is Verdict.PROMOTED


def _left_alone(name: str, found: "ModelVersion", evidence: Evidence, rule: Promotion) -> Decision:
    version = str(found.version)
    return Decision(
        name=name,
        version=version,
        verdict=Verdict.REFUSED,
        reason="it was the champion before and a person rolled it back; promote it again by "
        f"gammaray register {name} --promote {version}",
        rule=rule,
        evidence=evidence.digest,
        champion=None,
        comparisons=(),
        decided_at=_now(),
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
