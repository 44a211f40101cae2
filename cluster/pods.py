"""The pods of a RayJob's cluster: one head, and worker pods of the size a plan asks for."""

import math
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

RECIPE_FOLDER = PurePosixPath("/etc/gammaray")
USER_ID = 1000
"""The user of ``cluster/images/Dockerfile``."""

HEAD_CPUS = 2.0
HEAD_MEMORY_GIB = 8.0
"""For the driver, Ray's control store and the dashboard; no step runs on the head."""

OBJECT_STORE_SHARE = 0.3
"""Ray keeps its object store in /dev/shm and takes this share of the memory by default."""

GRACE_PERIOD_S = 60
"""For a training to notice that its node is reclaimed; clouds give 30 to 120 seconds."""

_HEAD_PORTS = {"gcs-server": 6379, "dashboard": 8265, "client": 10001}
_MEMORY_VOLUME = {"name": "shared-memory", "mountPath": "/dev/shm"}


@dataclass(frozen=True, kw_only=True, slots=True)
class PodSize:
    """What one pod asks for, and is held to: Ray cannot work with less than it was promised."""

    cpus: float
    memory_gib: float
    gpus: int = 0

    def resources(self) -> dict[str, Any]:
        """The container's ``resources``."""
        amounts = {"cpu": f"{self.cpus:g}", "memory": _mebibytes(self.memory_gib)}
        if self.gpus:
            amounts["nvidia.com/gpu"] = str(self.gpus)
        return {"requests": dict(amounts), "limits": amounts}


@dataclass(frozen=True, kw_only=True, slots=True)
class PodTemplates:
    """Head and worker groups that share an image, a store and credentials."""

    image: str
    claim: str | None
    """PersistentVolumeClaim that every pod mounts at ``claim_path``."""
    claim_path: str | None
    secret: str | None
    """Secret whose keys become environment variables."""
    recipe_map: str | None
    """ConfigMap that holds the recipe file; None for a built-in recipe."""

    def head_group(self) -> dict[str, Any]:
        """The head: where the driver runs and nothing else, so its loss is rare."""
        size = PodSize(cpus=HEAD_CPUS, memory_gib=HEAD_MEMORY_GIB)
        container = self._container("ray-head", size)
        container["ports"] = [
            {"name": name, "containerPort": port} for name, port in _HEAD_PORTS.items()
        ]
        template = self._template(container, size)
        if self.recipe_map is not None:
            container["volumeMounts"].append(
                {"name": "recipe", "mountPath": str(RECIPE_FOLDER), "readOnly": True}
            )
            template["spec"]["volumes"].append(
                {"name": "recipe", "configMap": {"name": self.recipe_map}}
            )
        return {
            "rayStartParams": {"num-cpus": "0", "dashboard-host": "0.0.0.0"},
            "template": template,
        }

    def worker_group(self, replicas: int, size: PodSize) -> dict[str, Any]:
        """``replicas`` pods of one ``size``."""
        template = self._template(self._container("ray-worker", size), size)
        template["spec"]["terminationGracePeriodSeconds"] = GRACE_PERIOD_S
        if size.gpus:
            template["spec"]["tolerations"] = [
                {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
            ]
        return {
            "groupName": "workers",
            "replicas": replicas,
            "minReplicas": replicas,
            "maxReplicas": replicas,
            "rayStartParams": {},
            "template": template,
        }

    def _container(self, name: str, size: PodSize) -> dict[str, Any]:
        container: dict[str, Any] = {
            "name": name,
            "image": self.image,
            "resources": size.resources(),
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            },
            "volumeMounts": [dict(_MEMORY_VOLUME)],
        }
        if self.secret is not None:
            container["envFrom"] = [{"secretRef": {"name": self.secret}}]
        if self.claim is not None:
            container["volumeMounts"].append({"name": "store", "mountPath": self.claim_path})
        return container

    def _template(self, container: dict[str, Any], size: PodSize) -> dict[str, Any]:
        memory = _mebibytes(size.memory_gib * OBJECT_STORE_SHARE)
        volumes: list[dict[str, Any]] = [
            {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": memory}}
        ]
        if self.claim is not None:
            volumes.append({"name": "store", "persistentVolumeClaim": {"claimName": self.claim}})
        return {
            "metadata": {"labels": {"app.kubernetes.io/name": "gammaray"}},
            "spec": {
                "securityContext": {
                    "runAsNonRoot": True,
                    "runAsUser": USER_ID,
                    "fsGroup": USER_ID,
                },
                "containers": [container],
                "volumes": volumes,
            },
        }


def _mebibytes(gib: float) -> str:
    return f"{math.ceil(gib * 1024)}Mi"
