"""Answer questions over HTTP as OpenAI's chat completions do, with a dense or converted model."""

import argparse
import signal
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from orchestrator.commands.arguments import add_tracking, tracking_uri_of
from orchestrator.commands.output import console_for, print_json
from orchestrator.secrets import without_credentials
from orchestrator.tracking import public
from orchestrator.tracking.errors import TrackingAwayError

if TYPE_CHECKING:
    from orchestrator.serving.source import Source


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a Hugging Face folder, dense or converted; digits; models:/NAME@ALIAS or "
        "models:/NAME/VERSION",
    )
    parser.add_argument("--name", help="what clients call it (default: the folder's or its own)")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 for other machines")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument(
        "--api-key-env",
        metavar="VARIABLE",
        help="environment variable that holds the key which clients have to send",
    )
    asked = parser.add_argument_group("requests")
    asked.add_argument("--max-tokens", type=int, default=256, help="where a request sets no limit")
    asked.add_argument("--max-body", type=int, default=32, metavar="MIB")
    asked.add_argument("--max-queue", type=int, default=64, help="requests that may wait")
    asked.add_argument("--max-batch", type=int, default=8, help="requests answered together")
    asked.add_argument(
        "--batch-wait",
        type=float,
        default=0.01,
        metavar="SECONDS",
        help="that the first request of a batch waits for others",
    )
    hardware = parser.add_argument_group("hardware")
    hardware.add_argument("--replicas", type=int, default=1)
    hardware.add_argument("--cpus", type=float, default=1.0, help="of one replica")
    hardware.add_argument("--gpus", type=float, default=0.0, help="of one replica")
    hardware.add_argument("--address", help="Ray cluster to use (default: $RAY_ADDRESS, or here)")
    add_tracking(parser)


def execute(args: argparse.Namespace) -> int:
    """Serve until it is interrupted or terminated.

    Raises:
        ModelError: If there is no such folder, or it is no model's.
        RayUnavailableError: If Ray does not start, or does not answer.
        RegistryError: If there is no such model, alias or version.
        ServingError: If an option is wrong, the port is taken, or the model does not load.
    """
    from orchestrator.serving.options import ServeOptions
    from orchestrator.serving.port import check_port

    options = ServeOptions(
        host=args.host,
        port=args.port,
        replicas=args.replicas,
        cpus=args.cpus,
        gpus=args.gpus,
        max_batch=args.max_batch,
        batch_wait_s=args.batch_wait,
        max_queue=args.max_queue,
        max_tokens=args.max_tokens,
        max_body_mib=args.max_body,
    )
    digest = _key_digest(args)
    source = _source(args)
    address = args.address or args.environment.get("RAY_ADDRESS")
    if address is None:
        check_port(options.host, options.port)
    from orchestrator.serving.app import AppSettings
    from orchestrator.serving.server import serving

    settings = AppSettings(
        model=args.name or source.name,
        created=int(time.time()),
        default_tokens=options.max_tokens,
        max_body_bytes=options.max_body_mib << 20,
        max_open=options.max_open,
        key_digest=digest,
    )
    with suppress(KeyboardInterrupt), serving(source, options, settings, address):
        signal.signal(signal.SIGTERM, _end_politely)  # Ray has set one of its own
        _tell(args, options.url, settings.model)
        threading.Event().wait()
    return 0


def _tell(args: argparse.Namespace, url: str, model: str) -> None:
    if args.json:
        print_json({"url": url, "model": model})
        sys.stdout.flush()
        return
    text = f"{model} answers at {url}/v1; Ctrl-C stops it"
    console_for(args).print(text, highlight=False, markup=False, soft_wrap=True)


def _key_digest(args: argparse.Namespace) -> str | None:
    from orchestrator.serving.app import digest_of
    from orchestrator.serving.errors import ServingError

    if args.api_key_env is None:
        return None
    key = args.environment.get(args.api_key_env)
    if not key:
        raise ServingError(f"--api-key-env: the variable {args.api_key_env} is not set, or empty")
    return digest_of(key)


def _source(args: argparse.Namespace) -> "Source":
    from orchestrator.serving.source import is_registered, local_source, registered_source

    if not is_registered(args.model):
        return local_source(args.model)
    from orchestrator.registry import telling_when_away

    uri = tracking_uri_of(args)
    try:
        with telling_when_away(uri):
            return registered_source(args.model, uri)
    except ConnectionError as error:
        raise TrackingAwayError(public(uri), without_credentials(str(error))) from error


def _end_politely(signum: int, frame: object) -> None:
    raise KeyboardInterrupt
