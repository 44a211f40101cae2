import gzip
import json
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from cluster.entrypoint import Entrypoint
from cluster.errors import UsageError
from cluster.kuberay import KubeRayOptions, Manifest, render
from cluster.plan import Plan

SCHEMA_FILE = Path(__file__).parents[1] / "golden" / "kuberay" / "rayjob-v1.schema.json.gz"
PLAN = Plan(
    run_id="Digits_7f3a",
    recipe="digits",
    store="/somewhere/local",
    workers=2,
    cpus_per_worker=4,
    gpus_per_worker=0,
    memory_gb_per_worker=16,
)
DIGITS = Entrypoint(recipe="digits", store="s3://bucket/runs")
OPTIONS = KubeRayOptions(image="registry.example:5000/gammaray:0.1.0")


def strict(schema: Any) -> Any:
    """Refuse unknown fields, which the API server would drop in silence."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    stricter = {key: strict(part) for key, part in schema.items()}
    is_open = "additionalProperties" in schema or "x-kubernetes-preserve-unknown-fields" in schema
    if isinstance(schema.get("properties"), dict) and "type" in schema and not is_open:
        stricter["additionalProperties"] = False
    return stricter


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    schema = json.loads(gzip.decompress(SCHEMA_FILE.read_bytes()))
    return jsonschema.Draft202012Validator(strict(schema))


def job_of(manifest: Manifest) -> dict[str, Any]:
    return next(item for item in manifest.objects if item["kind"] == "RayJob")


def pod_specs(job: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = job["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    file = tmp_path / "mine.yaml"
    file.write_text("name: mine  # ünïcode\n", encoding="utf-8")
    return file


@pytest.mark.parametrize("gpus", [0, 0.5, 8])
@pytest.mark.parametrize(
    ("store", "options"),
    [
        ("s3://bucket/runs", OPTIONS),
        ("s3://bucket/runs", replace(OPTIONS, secret="keys", namespace="ml", workers=5)),
        ("/mnt/runs", replace(OPTIONS, claim="shared")),
    ],
)
@pytest.mark.parametrize("has_file", [False, True])
def test_manifests_are_what_kuberay_accepts(
    gpus: float,
    store: str,
    options: KubeRayOptions,
    has_file: bool,
    recipe: Path,
    validator: jsonschema.Draft202012Validator,
) -> None:
    entrypoint = Entrypoint(recipe=str(recipe) if has_file else "digits", store=store)
    manifest = render(replace(PLAN, gpus_per_worker=gpus), entrypoint, options)
    *_, job = yaml.safe_load_all(manifest.to_yaml())
    validator.validate(job)
    assert job == job_of(manifest)


def test_a_misspelt_field_would_not_pass(validator: jsonschema.Draft202012Validator) -> None:
    job = job_of(render(PLAN, DIGITS, OPTIONS))
    job["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParam"] = {}
    with pytest.raises(jsonschema.ValidationError, match="rayStartParam"):
        validator.validate(job)


def test_a_run_asks_for_what_its_plan_says() -> None:
    job = job_of(render(replace(PLAN, gpus_per_worker=2), DIGITS, OPTIONS))
    (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert group["replicas"] == group["minReplicas"] == group["maxReplicas"] == 2
    (container,) = group["template"]["spec"]["containers"]
    amounts = {"cpu": "4", "memory": "16384Mi", "nvidia.com/gpu": "2"}
    assert container["resources"] == {"requests": amounts, "limits": amounts}
    assert group["template"]["spec"]["tolerations"][0]["key"] == "nvidia.com/gpu"


def test_no_step_is_placed_on_the_head() -> None:
    head = job_of(render(PLAN, DIGITS, OPTIONS))["spec"]["rayClusterSpec"]["headGroupSpec"]
    assert head["rayStartParams"]["num-cpus"] == "0"


def test_a_cluster_ends_with_its_run_and_is_tried_again_from_the_store() -> None:
    spec = job_of(render(PLAN, DIGITS, OPTIONS))["spec"]
    assert spec["entrypoint"] == "gammaray run digits --store s3://bucket/runs"
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["backoffLimit"] > 0


def test_the_cluster_runs_this_ray_behind_a_token() -> None:
    cluster = job_of(render(PLAN, DIGITS, OPTIONS))["spec"]["rayClusterSpec"]
    assert cluster["rayVersion"] == version("ray")
    assert cluster["authOptions"] == {"mode": "token"}


def test_containers_are_not_root() -> None:
    for spec in pod_specs(job_of(render(PLAN, DIGITS, OPTIONS))):
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["containers"][0]["securityContext"]["allowPrivilegeEscalation"] is False


def test_a_recipe_file_travels_as_a_config_map_to_the_head(recipe: Path) -> None:
    manifest = render(PLAN, Entrypoint(recipe=str(recipe), store="s3://b/r"), OPTIONS)
    config_map, job = manifest.objects
    assert config_map["data"] == {"mine.yaml": "name: mine  # ünïcode\n"}
    assert job["spec"]["entrypoint"].startswith("gammaray run /etc/gammaray/mine.yaml ")
    head, worker = pod_specs(job)
    (volume,) = [volume for volume in head["volumes"] if "configMap" in volume]
    assert volume["configMap"]["name"] == config_map["metadata"]["name"]
    assert not [volume for volume in worker["volumes"] if "configMap" in volume]


def test_a_volume_claim_is_mounted_in_every_pod_at_the_store() -> None:
    entrypoint = Entrypoint(recipe="digits", store="file:///mnt/runs")
    job = job_of(render(PLAN, entrypoint, replace(OPTIONS, claim="shared")))
    assert job["spec"]["entrypoint"].endswith("--store /mnt/runs")
    for spec in pod_specs(job):
        assert {"name": "store", "mountPath": "/mnt/runs"} in spec["containers"][0]["volumeMounts"]
        claim = {"name": "store", "persistentVolumeClaim": {"claimName": "shared"}}
        assert claim in spec["volumes"]


def test_credentials_come_from_a_secret() -> None:
    job = job_of(render(PLAN, DIGITS, replace(OPTIONS, secret="keys")))
    for spec in pod_specs(job):
        assert spec["containers"][0]["envFrom"] == [{"secretRef": {"name": "keys"}}]


@pytest.mark.parametrize("store", [None, "/mnt/runs", "file:///mnt/runs"])
def test_refuses_a_store_inside_a_pod(store: str | None) -> None:
    with pytest.raises(UsageError, match=r"vanishes with it.*--pvc"):
        render(PLAN, Entrypoint(recipe="digits", store=store), OPTIONS)


def test_refuses_a_volume_claim_that_nothing_would_use() -> None:
    with pytest.raises(UsageError, match="not a path to mount at"):
        render(PLAN, DIGITS, replace(OPTIONS, claim="shared"))


def test_refuses_fewer_pods_than_workers() -> None:
    with pytest.raises(UsageError, match=r"--workers 1: the run has 2 workers"):
        render(PLAN, DIGITS, replace(OPTIONS, workers=1))


@pytest.mark.parametrize("image", ["gammaray", "gammaray:latest", "host:5000/gammaray"])
def test_refuses_an_image_without_a_version(image: str) -> None:
    with pytest.raises(UsageError, match="name a version"):
        KubeRayOptions(image=image)


def test_accepts_an_image_by_digest() -> None:
    assert KubeRayOptions(image=f"host:5000/gammaray@sha256:{'0' * 64}")


@pytest.mark.parametrize("run_id", ["x" * 80, "Digits Run #7", "-a-"])
def test_names_are_those_of_kubernetes(run_id: str) -> None:
    name = job_of(render(replace(PLAN, run_id=run_id), DIGITS, OPTIONS))["metadata"]["name"]
    assert len(name) <= 47
    assert all(part.isalnum() for part in name.split("-")), name
    assert name == name.lower()


def test_json_is_one_list_of_the_same_objects(recipe: Path) -> None:
    manifest = render(PLAN, Entrypoint(recipe=str(recipe), store="s3://b/r"), OPTIONS)
    assert json.loads(manifest.to_json())["items"] == list(manifest.objects)
