"""`gammaray serve` as it is: a process, Ray Serve, a converted model, and HTTP."""

import json
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path

import pytest

from tests.orchestrator.registry.conftest import empty_database, model_folder, uri
from tests.orchestrator.registry.registering import NAME, register_champion
from tests.orchestrator.serving.requests import MODEL, chat
from tests.orchestrator.serving.running import KEY, PATIENCE_S, Server, serving, wait_until

__all__ = ["empty_database", "model_folder", "uri"]

# MLflow 3.17 uses what SQLAlchemy 2.1 deprecates.
pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore:The ``noload`` loader")]

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def server(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for the tests of this file, of which one ends it: it is the last that asks."""
    log = tmp_path_factory.mktemp("log") / "stderr"
    few = ("--max-batch", "4", "--batch-wait", "0.5", "--max-tokens", "5")
    with serving(log, str(model_folder), *few) as server:
        yield server


def test_it_is_healthy_and_lists_its_model(server: Server) -> None:
    assert server.ask("/health") == (200, '{"status":"ok"}')
    assert json.loads(server.ask("/v1/models")[1])["data"][0]["id"] == MODEL


def test_a_question_about_an_image_is_answered_with_the_measured_skip(server: Server) -> None:
    status, text = server.ask(CHAT, chat(max_tokens=3))
    document = json.loads(text)
    assert status == 200
    assert document["usage"]["completion_tokens"] == 3
    assert document["choices"][0]["finish_reason"] == "length"
    assert 0.0 < document["gammaray"]["skip"] < 1.0


def test_a_stream_joins_to_the_plain_answer(server: Server) -> None:
    plain = json.loads(server.ask(CHAT, chat())[1])
    asked = chat(stream=True, stream_options={"include_usage": True})
    *lines, done = server.ask(CHAT, asked)[1].strip().split("\n\n")
    assert done == "data: [DONE]"
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines]
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    text = "".join(delta.get("content", "") for delta in deltas)
    assert text == plain["choices"][0]["message"]["content"]
    assert chunks[-1]["usage"] == plain["usage"]
    assert chunks[-1]["usage"]["completion_tokens"] == 5


def test_questions_at_the_same_time_share_a_batch(server: Server) -> None:
    before = server.metric("gammaray_batch_size_sum")
    questions = [chat("which ?", max_tokens=2), chat("which digit is there ?", max_tokens=5)]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda asked: server.ask(CHAT, asked), questions))
    assert server.metric("gammaray_batch_size_sum") == before + 4
    for asked, (status, text) in zip(questions, together, strict=True):
        assert status == 200
        alone = json.loads(server.ask(CHAT, asked)[1])
        assert json.loads(text)["choices"] == alone["choices"]
        assert json.loads(text)["usage"] == alone["usage"]


def test_a_bad_question_is_refused_and_names_its_field(server: Server) -> None:
    status, text = server.ask(CHAT, chat("x" * 1100))
    assert (status, json.loads(text)["error"]["param"]) == (400, "messages")
    assert "more than the limit of 1023" in text
    status, text = server.ask(CHAT, chat(temperature=5))
    assert (status, json.loads(text)["error"]["param"]) == (400, "temperature")


def test_a_client_that_leaves_ends_its_row_and_no_other(server: Server) -> None:
    leaving = HTTPConnection("127.0.0.1", server.port, timeout=60)
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
    with ThreadPoolExecutor(1) as pool:
        body = json.dumps(chat(stream=True, max_tokens=900))
        leaving.request("POST", CHAT, body, headers)
        staying = pool.submit(server.ask, CHAT, chat("which ?", max_tokens=40))
        leaving.getresponse().read(1)
        leaving.close()
        status, text = staying.result()
    assert (status, json.loads(text)["usage"]["completion_tokens"]) == (200, 40)
    gone = 'gammaray_requests_total{status="499"}'
    wait_until(lambda: server.metric(gone) == 1)
    assert server.metric("gammaray_requests_running") == 0
    assert server.metric("gammaray_requests_waiting") == 0


def test_metrics_tell_tokens_skip_and_the_first_token(server: Server) -> None:
    assert server.metric('gammaray_requests_total{status="200"}') >= 5
    assert server.metric('gammaray_tokens_total{kind="completion"}') >= 20
    assert 0.0 < server.metric("gammaray_skip_sum") / server.metric("gammaray_skip_count") < 1.0
    assert server.metric("gammaray_time_to_first_token_seconds_count") >= 5


def test_the_key_is_in_no_log(server: Server) -> None:
    logs = [path for path in server.ray_folder.rglob("logs/**/*") if path.is_file()]
    assert logs
    assert not [path for path in logs if KEY.encode() in path.read_bytes()]


def test_an_interrupt_ends_it_and_leaves_no_process(server: Server) -> None:
    assert server.processes()
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(PATIENCE_S) == 0
    wait_until(lambda: not server.processes())


def test_a_registered_model_is_served_by_two_replicas_until_it_is_terminated(
    uri: str, model_folder: Path, tmp_path: Path
) -> None:
    register_champion(uri, model_folder)
    options = ("--tracking-uri", uri, "--replicas", "2", "--max-tokens", "3")
    with serving(tmp_path / "log", f"models:/{NAME}@champion", *options) as server:
        names = [" ".join(each.info["cmdline"] or []) for each in server.processes()]
        assert sum("Replica:gammaray:model" in name for name in names) == 2, names
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda _: server.ask(CHAT, chat()), range(4)))
        assert {code for code, _ in answers} == {200}
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(PATIENCE_S) == 0
        wait_until(lambda: not server.processes())
