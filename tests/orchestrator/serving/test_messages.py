from typing import Any

import pytest

from orchestrator.serving.errors import ApiError
from orchestrator.serving.messages import read_messages
from tests.orchestrator.serving.requests import data_url, image_part, png
from workloads.data import Turn


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def test_a_conversation_becomes_turns_with_marks_where_its_images_are() -> None:
    turns, images = read_messages(
        [
            {"role": "system", "content": "be brief"},
            user([{"type": "text", "text": "look: "}, image_part(), image_part(data_url(png(9)))]),
            {"role": "assistant", "content": "a 3"},
            user("sure ?"),
        ]
    )
    assert turns == (
        Turn("system", "be brief"),
        Turn("human", "look: <image><image>"),
        Turn("gpt", "a 3"),
        Turn("human", "sure ?"),
        Turn("gpt", ""),
    )
    assert [image.content for image in images] == [png(), png(9)]
    assert images[1].field == "messages.1.content.2.image_url.url"


@pytest.mark.parametrize(
    ("messages", "field", "message"),
    [
        ([{"role": "tool", "content": "x"}], "messages.0.role", "must be one of system, developer"),
        ([{"content": "x"}], "messages.0.role", "got None"),
        ([user(None)], "messages.0.content", "must be text or a list of parts, got NoneType"),
        ([user([])], "messages.0.content", "must be text or a list of parts"),
        ([user(["x"])], "messages.0.content.0.type", "must be text or image_url, got None"),
        ([user([{"type": "input_audio"}])], "messages.0.content.0.type", "got 'input_audio'"),
        ([user([{"type": "text"}])], "messages.0.content.0.text", "must be text, got NoneType"),
        ([user("see <image>")], "messages.0.content", "must not hold '<image>'"),
        ([user("a"), {"role": "assistant", "content": "b"}], "messages.1.role", "the user's"),
        ([user([{"type": "image_url"}])], "messages.0.content.0.image_url.url", "must be text"),
    ],
)
def test_what_is_wrong_is_named(messages: list[dict[str, Any]], field: str, message: str) -> None:
    with pytest.raises(ApiError) as caught:
        read_messages(messages)
    assert (caught.value.status, caught.value.field) == (400, field)
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://169.254.169.254/latest/meta-data", "is not fetched"),
        ("https://example.org/cat.png", "is not fetched"),
        ("file:///etc/passwd", "is not fetched"),
        ("/etc/passwd", "is not fetched"),
        ("data:image/png,raw", "is not in base64"),
        ("data:image/png;base64", "is not in base64"),
        ("data:image/png;base64,a*b=", "is no valid base64"),
        ("data:image/png;base64,aé", "is no valid base64"),
    ],
)
def test_only_images_that_come_with_the_request_are_taken(url: str, message: str) -> None:
    with pytest.raises(ApiError) as caught:
        read_messages([user([image_part(url)])])
    assert message in caught.value.message
    assert "send the image itself as data:image/png;base64" in caught.value.message
    assert caught.value.field == "messages.0.content.0.image_url.url"
