"""Send a run to a Ray cluster over its job API, or write it as a KubeRay manifest."""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster.entrypoint import Entrypoint, environment_variables
from cluster.errors import ClusterError, ExitCode, UsageError
from cluster.jobs import JobCluster, JobOutcome
from cluster.kuberay import KubeRayOptions, render
from cluster.plan import read_plan


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``gammaray submit``."""
    parser.add_argument("recipe", metavar="RECIPE", help="a built-in recipe, or a YAML file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="values to override")
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--address", metavar="URL", help="Ray's dashboard: http://HEAD:8265")
    target.add_argument(
        "--kuberay", action="store_true", help="write a RayJob manifest instead of submitting"
    )
    parser.add_argument(
        "--store", metavar="URL", help="where artifacts are kept, as the cluster sees it"
    )
    parser.add_argument(
        "--env", action="append", default=[], metavar="NAME=VALUE", help="for the run's processes"
    )
    parser.add_argument(
        "--entrypoint",
        default="gammaray run",
        metavar="COMMAND",
        help="what takes the recipe on the cluster (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON")
    _configure_job(parser.add_argument_group("with --address"))
    _configure_manifest(parser.add_argument_group("with --kuberay"))


def execute(args: argparse.Namespace) -> int:
    """Submit, or render; returns the exit code of ``gammaray``."""
    try:
        entrypoint = Entrypoint(
            recipe=args.recipe,
            overrides=tuple(args.overrides),
            store=args.store,
            command=args.entrypoint,
        )
        return _render(args, entrypoint) if args.kuberay else _submit(args, entrypoint)
    except ClusterError as error:
        _say(str(error))
        return error.exit_code


def _configure_job(group: "argparse._ArgumentGroup") -> None:
    group.add_argument("--submission-id", metavar="ID", help="the job's name on the cluster")
    group.add_argument("--no-wait", action="store_true", help="do not follow the job's output")


def _configure_manifest(group: "argparse._ArgumentGroup") -> None:
    group.add_argument("--image", help="container image that holds gammaray")
    group.add_argument("--workers", type=int, metavar="N", help="worker pods (default: the plan's)")
    group.add_argument("--pvc", metavar="NAME", help="volume claim to mount at the store's path")
    group.add_argument("--secret", metavar="NAME", help="secret whose keys become environment")
    group.add_argument("--namespace", metavar="NAME")
    group.add_argument("--output", type=Path, metavar="FILE", help="instead of standard output")


def _submit(args: argparse.Namespace, entrypoint: Entrypoint) -> int:
    cluster = JobCluster.connect(args.address, args.environment)
    with _recipe_folder(entrypoint) as folder:
        runtime_env: dict[str, Any] = {"env_vars": environment_variables(args.env)}
        if folder is not None:
            runtime_env["working_dir"] = str(folder)
        submission_id = cluster.submit(
            entrypoint.shell_line(),
            runtime_env=runtime_env,
            submission_id=args.submission_id,
            metadata={"gammaray_recipe": args.recipe},
        )
    _say(f"submitted {submission_id} to {cluster.address}")
    outcome = _wait(args, cluster, submission_id)
    _report(args, cluster, outcome)
    return outcome.exit_code


def _wait(args: argparse.Namespace, cluster: JobCluster, submission_id: str) -> JobOutcome:
    if args.no_wait:
        return cluster.outcome(submission_id)
    output = sys.stderr if args.json else sys.stdout

    def write(text: str) -> None:
        output.write(text)
        output.flush()

    try:
        return cluster.follow(submission_id, write)
    except KeyboardInterrupt:
        _say(
            f"the job goes on; stop it with: "
            f"ray job stop --address {cluster.address} {submission_id}"
        )
        raise


def _report(args: argparse.Namespace, cluster: JobCluster, outcome: JobOutcome) -> None:
    if not args.json:
        _say(outcome.sentence())
        return
    summary = {
        "submission_id": outcome.submission_id,
        "address": cluster.address,
        "status": outcome.status,
        "driver_exit_code": outcome.driver_exit_code,
        "exit_code": int(outcome.exit_code),
        "message": outcome.sentence(),
    }
    sys.stdout.write(json.dumps(summary) + "\n")


@contextmanager
def _recipe_folder(entrypoint: Entrypoint) -> Iterator[Path | None]:
    """A folder that holds nothing but the recipe file: all that has to travel."""
    file = entrypoint.recipe_file
    if file is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="gammaray-") as name:
        (Path(name) / file.name).write_bytes(file.read_bytes())
        yield Path(name)


def _render(args: argparse.Namespace, entrypoint: Entrypoint) -> int:
    if args.image is None:
        raise UsageError("--kuberay needs --image: the container image that holds gammaray")
    options = KubeRayOptions(
        image=args.image,
        workers=args.workers,
        claim=args.pvc,
        secret=args.secret,
        namespace=args.namespace,
        environment=environment_variables(args.env),
    )
    manifest = render(read_plan(args.recipe, args.overrides), entrypoint, options)
    text = manifest.to_json() if args.json else manifest.to_yaml()
    if args.output is None:
        sys.stdout.write(text)
    else:
        args.output.write_text(text)
        _say(f"wrote {args.output}; start it with: kubectl apply -f {args.output}")
    return ExitCode.DONE


def _say(text: str) -> None:
    sys.stderr.write(f"gammaray: {text}\n")
