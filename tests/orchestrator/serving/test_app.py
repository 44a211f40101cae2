"""The routes in front of a model that says what it is told to."""

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from orchestrator.serving.app import AppSettings, build_app, digest_of
from orchestrator.serving.exchange import Ask, Ended, Event, Piece, Started
from tests.orchestrator.serving.requests import MODEL, chat
from workloads.errors import DataError

CHAT = "/v1/chat/completions"
SAID = (Started(2), Piece("a "), Piece("3 ü"), Ended("stop", 11, 4, 0.25))


class Script:
    """A model that plays events, and remembers what it was asked."""

    def __init__(self, *events: Event | Exception) -> None:
        self.events = events or SAID
        self.asked: list[Ask] = []
        self.is_loaded = True

    async def answer(self, ask: Ask) -> AsyncIterator[Event]:
        self.asked.append(ask)
        for event in self.events:
            if isinstance(event, Exception):
                raise event
            yield event

    async def is_ready(self) -> bool:
        return self.is_loaded


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def client(script: Script) -> Iterator[TestClient]:
    with opened(script) as client:
        yield client


def opened(script: Script, **settings: Any) -> TestClient:
    return TestClient(build_app(script, AppSettings(model=MODEL, created=7, **settings)))


def events_of(text: str) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def error_of(response: Any) -> dict[str, Any]:
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def metric(client: TestClient, name: str) -> float:
    lines = client.get("/metrics").text.splitlines()
    return float(next(line.rpartition(" ")[2] for line in lines if line.startswith(name + " ")))


def test_an_answer_has_the_shape_of_openais(client: TestClient, script: Script) -> None:
    response = client.post(CHAT, json=chat())
    assert response.status_code == 200
    document = response.json()
    assert document["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "a 3 ü", "refusal": None},
            "finish_reason": "stop",
            "logprobs": None,
        }
    ]
    assert document["usage"] == {"prompt_tokens": 11, "completion_tokens": 4, "total_tokens": 15}
    assert document["gammaray"] == {"skip": 0.25}
    assert (document["object"], document["model"]) == ("chat.completion", MODEL)
    assert document["id"].startswith("chatcmpl-")
    assert script.asked[0].turns[0].text == "<image>which digit is there ?"


def test_a_stream_tells_pieces_and_ends_with_done(client: TestClient) -> None:
    response = client.post(CHAT, json=chat(stream=True))
    assert response.headers["content-type"].startswith("text/event-stream")
    chunks = events_of(response.text)
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(delta.get("content", "") for delta in deltas) == "a 3 ü"
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert reasons == [None, None, None, "stop"]
    assert chunks[-1]["gammaray"] == {"skip": 0.25}


def test_a_stream_tells_its_usage_if_it_is_asked(client: TestClient) -> None:
    asked = chat(stream=True, stream_options={"include_usage": True})
    last = events_of(client.post(CHAT, json=asked).text)[-1]
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == 15


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"max_new_tokens": 256, "temperature": 0.0, "top_p": 1.0, "stop": (), "seed": None}),
        ({"max_tokens": 9, "temperature": 0.5}, {"max_new_tokens": 9, "temperature": 0.5}),
        ({"max_completion_tokens": 5, "top_p": 0.5, "seed": 3}, {"max_new_tokens": 5, "seed": 3}),
        ({"stop": "END"}, {"stop": ("END",)}),
        ({"stop": ["a", "b"], "max_tokens": None}, {"stop": ("a", "b"), "max_new_tokens": 256}),
        ({"n": 1, "user": "me", "tools": [], "logprobs": False, "presence_penalty": 0.0}, {}),
        ({"response_format": {"type": "text"}, "tool_choice": "none"}, {}),
    ],
)
def test_parameters_reach_the_model(
    client: TestClient, script: Script, options: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert client.post(CHAT, json=chat(**options)).status_code == 200
    assert expected.items() <= script.asked[0].sampling.items()


@pytest.mark.parametrize(
    ("options", "field", "message"),
    [
        ({"n": 2}, "n", "less than or equal to 1, got 2"),
        ({"temperature": 3}, "temperature", "less than or equal to 2, got 3"),
        ({"top_p": 0}, "top_p", "greater than 0"),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"max_tokens": "5"}, "max_tokens", "got '5'"),
        ({"stop": [""]}, "stop.0", "at least 1 character"),
        ({"stop": list("abcde")}, "stop", "at most 4"),
        ({"stream_options": {"usage": True}}, "stream_options.usage", "is not supported"),
        ({"logprobs": True}, "logprobs", "got True"),
        ({"tools": [{"type": "function"}]}, "tools", "at most 0"),
        ({"response_format": {"type": "json_object"}}, "response_format.type", "'text'"),
        ({"reasoning_effort": "low"}, "reasoning_effort", "is not supported"),
        ({"messages": []}, "messages", "at least 1 item"),
        ({"messages": "hello"}, "messages", "got 'hello'"),
        ({"messages": [{"role": "user", "content": "<image>"}]}, "messages.0.content", "marks"),
    ],
)
def test_a_wrong_field_is_named(
    client: TestClient, script: Script, options: dict[str, Any], field: str, message: str
) -> None:
    response = client.post(CHAT, json=chat(**options))
    error = error_of(response)
    assert (response.status_code, error["param"]) == (400, field)
    assert error["type"] == "invalid_request_error"
    assert message in error["message"]
    assert script.asked == []


def test_a_body_that_is_no_json_is_refused(client: TestClient) -> None:
    response = client.post(CHAT, content=b"{'model': 1}")
    assert response.status_code == 400
    assert "is not JSON" in error_of(response)["message"]


def test_a_missing_field_is_named(client: TestClient) -> None:
    response = client.post(CHAT, json={"messages": [{"role": "user", "content": "hi"}]})
    assert error_of(response)["message"] == "model is missing"


def test_an_unknown_model_is_not_found(client: TestClient) -> None:
    response = client.post(CHAT, json=chat(model="gpt-9"))
    assert response.status_code == 404
    assert error_of(response)["code"] == "model_not_found"


def test_a_request_that_is_too_large_is_refused(script: Script) -> None:
    client = opened(script, max_body_bytes=1000)
    assert client.post(CHAT, json=chat("x" * 2000)).status_code == 413
    chunked = client.post(CHAT, content=iter([b"x" * 600, b"x" * 600]))
    assert (chunked.status_code, error_of(chunked)["code"]) == (413, "too_large")


def test_a_key_is_wanted_where_one_is_set(script: Script) -> None:
    client = opened(script, key_digest=digest_of("s3cret"))
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "s3cret"}):
        response = client.post(CHAT, json=chat(), headers=headers)
        assert (response.status_code, error_of(response)["code"]) == (401, "invalid_api_key")
        assert client.get("/v1/models", headers=headers).status_code == 401
    right = {"Authorization": "Bearer s3cret"}
    assert client.post(CHAT, json=chat(), headers=right).status_code == 200
    assert client.get("/health").status_code == client.get("/metrics").status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_what_the_model_cannot_read_is_the_clients_error(stream: bool) -> None:
    field = "messages.0.content.0.image_url.url"
    client = opened(Script(DataError(field, "", "the image cannot be read: it is empty")))
    response = client.post(CHAT, json=chat(stream=stream))
    assert (response.status_code, error_of(response)["param"]) == (400, field)
    assert "cannot be read" in error_of(response)["message"]


def test_a_failed_model_is_the_servers_error() -> None:
    client = opened(Script(Started(1), ValueError("NaN in layer 3")))
    response = client.post(CHAT, json=chat())
    assert (response.status_code, error_of(response)["type"]) == (500, "server_error")
    assert "NaN" not in response.text


def test_a_stream_that_breaks_says_so_and_is_not_done() -> None:
    client = opened(Script(Started(1), Piece("a"), ValueError("NaN in layer 3")))
    response = client.post(CHAT, json=chat(stream=True))
    assert response.status_code == 200
    last = response.text.strip().split("\n\n")[-1].removeprefix("data: ")
    assert json.loads(last)["error"]["type"] == "server_error"


def test_more_requests_than_may_be_open_are_sent_away(script: Script) -> None:
    response = opened(script, max_open=0).post(CHAT, json=chat())
    assert (response.status_code, error_of(response)["code"]) == (429, "queue_full")
    assert response.headers["retry-after"] == "1"


def test_health_is_200_only_while_a_model_is_loaded(client: TestClient, script: Script) -> None:
    assert client.get("/health").status_code == 200
    script.is_loaded = False
    assert client.get("/health").status_code == 503


def test_the_model_is_listed(client: TestClient) -> None:
    assert client.get("/v1/models").json() == {
        "object": "list",
        "data": [{"id": MODEL, "object": "model", "created": 7, "owned_by": "gammaray"}],
    }


def test_an_unknown_path_is_answered_in_the_same_shape(client: TestClient) -> None:
    assert error_of(client.get("/v2"))["message"] == "GET /v2: Not Found"
    assert client.get(CHAT).status_code == 405


def test_metrics_count_what_was_answered(client: TestClient, script: Script) -> None:
    client.post(CHAT, json=chat())
    client.post(CHAT, json=chat(stream=True))
    client.post(CHAT, json=chat(n=2))
    script.events = (DataError("messages.0", "", "bad"),)
    client.post(CHAT, json=chat())
    assert metric(client, 'gammaray_requests_total{status="200"}') == 2
    assert metric(client, 'gammaray_requests_total{status="400"}') == 2
    assert metric(client, 'gammaray_tokens_total{kind="prompt"}') == 22
    assert metric(client, 'gammaray_tokens_total{kind="completion"}') == 8
    assert metric(client, "gammaray_time_to_first_token_seconds_count") == 2
    assert metric(client, "gammaray_batch_size_sum") == 4
    assert metric(client, "gammaray_skip_sum") == 0.5
    assert metric(client, "gammaray_requests_waiting") == 0
    assert metric(client, "gammaray_requests_running") == 0
