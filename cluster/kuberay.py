"""A run as a KubeRay RayJob (``ray.io/v1``): the cluster comes with the run and goes with it."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Any

import yaml

from cluster.entrypoint import Entrypoint, is_remote
from cluster.errors import UsageError
from cluster.plan import Plan
from cluster.pods import RECIPE_FOLDER, PodSize, PodTemplates

RETRIES = 3
"""Every retry is a new Ray cluster; a run continues from its store, so that is safe."""

LINGER_S = 300
"""How long pods stay after the run, for a look at what is only in their logs."""

LONGEST_NAME = 47
"""KubeRay refuses longer names of a RayJob: it derives the names of pods from them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KubeRayOptions:
    """What Kubernetes has to know and a plan does not say."""

    image: str
    workers: int | None = None
    """Worker pods; None for as many as the plan has workers."""
    claim: str | None = None
    """PersistentVolumeClaim, ReadWriteMany, that every pod mounts at the store's path."""
    secret: str | None = None
    """Secret whose keys become environment variables, such as credentials of the store."""
    namespace: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _, separator, tag = self.image.rpartition(":")
        if not separator or "/" in tag or tag == "latest":
            raise UsageError(
                f"--image {self.image}: name a version, such as gammaray:0.1.0; pods that start "
                "later, or again, would otherwise run other code"
            )


@dataclass(frozen=True, slots=True)
class Manifest:
    """Kubernetes objects in the order in which they are applied."""

    objects: tuple[dict[str, Any], ...]

    def to_yaml(self) -> str:
        """The objects as YAML documents."""
        return yaml.dump_all(self.objects, Dumper=_PlainDumper, sort_keys=False)

    def to_json(self) -> str:
        """The objects as one Kubernetes list, which ``kubectl`` applies as well."""
        whole = {"apiVersion": "v1", "kind": "List", "items": list(self.objects)}
        return json.dumps(whole) + "\n"


class _PlainDumper(yaml.SafeDumper):
    """Writes for readers: repeated values in full, texts of several lines as they are."""

    def ignore_aliases(self, data: object) -> bool:
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        style = "|" if "\n" in data else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style)


_PlainDumper.add_representer(str, _PlainDumper.represent_str)


def render(plan: Plan, entrypoint: Entrypoint, options: KubeRayOptions) -> Manifest:
    """Write ``entrypoint`` as a RayJob with the machines that ``plan`` asks for.

    Raises:
        UsageError: If the store is not the same place for every pod, or there are fewer
            worker pods than workers.
    """
    store = _shared_store(plan, entrypoint, options)
    name = _object_name(plan.run_id)
    recipe_map = _recipe_map(name, entrypoint, options)
    pods = PodTemplates(
        image=options.image,
        claim=options.claim,
        claim_path=store,
        secret=options.secret,
        recipe_map=None if recipe_map is None else recipe_map["metadata"]["name"],
    )
    job = {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": _metadata(name, options),
        "spec": {
            "entrypoint": replace(entrypoint, store=store).shell_line(RECIPE_FOLDER),
            "runtimeEnvYAML": yaml.safe_dump({"env_vars": dict(options.environment)}),
            "submissionMode": "K8sJobMode",
            "backoffLimit": RETRIES,
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": LINGER_S,
            "rayClusterSpec": {
                "rayVersion": version("ray"),
                "authOptions": {"mode": "token"},
                "headGroupSpec": pods.head_group(),
                "workerGroupSpecs": [pods.worker_group(*_workers(plan, options))],
            },
        },
    }
    return Manifest((job,) if recipe_map is None else (recipe_map, job))


def _shared_store(plan: Plan, entrypoint: Entrypoint, options: KubeRayOptions) -> str:
    store = entrypoint.store or plan.store
    if is_remote(store):
        if options.claim is not None:
            raise UsageError(f"--pvc {options.claim}: the store {store} is not a path to mount at")
        return store
    if options.claim is None:
        raise UsageError(
            f"the store {store} is a folder inside a pod and vanishes with it: give --store a URL "
            "such as s3://bucket/runs, or mount a shared volume there with --pvc NAME"
        )
    return store.removeprefix("file://")


def _workers(plan: Plan, options: KubeRayOptions) -> tuple[int, PodSize]:
    pods = plan.workers if options.workers is None else options.workers
    if pods < plan.workers:
        raise UsageError(
            f"--workers {pods}: the run has {plan.workers} workers at a time and would wait for "
            "ever; give more pods, or lower the recipe's workers"
        )
    size = PodSize(
        cpus=plan.cpus_per_worker,
        memory_gib=plan.memory_gb_per_worker,
        gpus=math.ceil(plan.gpus_per_worker),
    )
    return pods, size


def _object_name(run_id: str) -> str:
    slug = re.sub(r"[^a-z0-9]+", "-", f"gammaray-{run_id}".lower())
    return slug[:LONGEST_NAME].strip("-")


def _metadata(name: str, options: KubeRayOptions) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name, "labels": {"app.kubernetes.io/name": "gammaray"}}
    if options.namespace is not None:
        metadata["namespace"] = options.namespace
    return metadata


def _recipe_map(
    name: str, entrypoint: Entrypoint, options: KubeRayOptions
) -> dict[str, Any] | None:
    file = entrypoint.recipe_file
    if file is None:
        return None
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(f"{name}-recipe", options),
        "data": {file.name: file.read_text(encoding="utf-8")},
    }
