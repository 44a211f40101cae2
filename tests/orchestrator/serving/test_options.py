import socket

import pytest

from orchestrator.serving.errors import ServingError
from orchestrator.serving.options import ServeOptions
from orchestrator.serving.port import check_port


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"port": 0}, "--port: expected from 1 to 65535, got 0"),
        ({"replicas": 0}, "--replicas: expected at least 1, got 0"),
        ({"cpus": 0.0}, "--cpus: expected more than 0, got 0"),
        ({"gpus": -1.0}, "--gpus: expected at least 0, got -1"),
        ({"max_batch": 0}, "--max-batch: expected at least 1, got 0"),
        ({"batch_wait_s": -0.5}, "--batch-wait: expected at least 0 seconds, got -0.5"),
        ({"max_queue": -1}, "--max-queue: expected at least 0, got -1"),
        ({"max_tokens": 0}, "--max-tokens: expected at least 1, got 0"),
        ({"max_body_mib": 0}, "--max-body: expected at least 1 MiB, got 0"),
    ],
)
def test_an_option_out_of_its_range_is_named(values: dict[str, float], message: str) -> None:
    with pytest.raises(ServingError, match=message):
        ServeOptions(**values)  # type: ignore[arg-type]


def test_all_replicas_and_the_queue_count_as_open() -> None:
    assert ServeOptions(replicas=2, max_batch=4, max_queue=10).max_open == 18


def test_a_taken_port_is_said_to_be_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(ServingError, match=rf"cannot listen on 127\.0\.0\.1:{port}.*--port"):
            check_port("127.0.0.1", port)
