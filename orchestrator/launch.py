"""From a recipe to a run that is ready to start, continue, or be explained."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.durable import JSON, PlannedStep, Step, Store, open_store, plan, run_identity
from orchestrator.pipeline import build_steps
from orchestrator.recipe import Recipe
from orchestrator.recipe_file import load_recipe
from orchestrator.sources import Fingerprints
from orchestrator.tracking import resolve_tracking_uri


@dataclass(frozen=True, kw_only=True, slots=True)
class Launch:
    """A recipe with everything that follows from it before anything is started."""

    recipe: Recipe
    run_id: str
    store: Store
    steps: tuple[Step, ...]
    tracking_uri: str
    identity: Mapping[str, JSON]
    """The values that make the run what it is."""

    def planned(self, *, strict_code: bool = False) -> list[PlannedStep]:
        """What each step would do now, and why."""
        return plan(self.store, self.steps, strict_code=strict_code)


def store_url(option: str | None, environment: Mapping[str, str]) -> str:
    """The store that was asked for: option, then ``GAMMARAY_STORE``, then the home directory."""
    home = Path(environment.get("HOME", "."))
    return option or environment.get("GAMMARAY_STORE") or str(home / ".gammaray")


def prepare(recipe_name: str, overrides: Sequence[str], url: str) -> Launch:
    """Resolve a recipe against a store, without torch, MLflow or Ray.

    Raises:
        RecipeError: If the recipe or an override is wrong.
        PreflightError: If a model, dataset or tracking address cannot be used.
        StoreError: If the store cannot be written.
    """
    return assemble(load_recipe(recipe_name, overrides), open_store(url))


def assemble(recipe: Recipe, store: Store) -> Launch:
    """The same for a recipe that has been read.

    Raises:
        PreflightError: If a model, dataset or tracking address cannot be used.
    """
    tracking_uri = resolve_tracking_uri(recipe.tracking.uri, store.url)
    fingerprints = Fingerprints(Path.home() / ".cache" / "gammaray" / "fingerprints.json")
    steps = build_steps(recipe, fingerprints, tracking_uri=tracking_uri)
    fingerprints.save()
    identity = recipe.identity()
    return Launch(
        recipe=recipe,
        run_id=run_identity(recipe.name, identity),
        store=store,
        steps=steps,
        tracking_uri=tracking_uri,
        identity=identity,
    )
