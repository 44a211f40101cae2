import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from workloads.generation.text import AnswerText
from workloads.models.processor import train_tokenizer


@pytest.fixture(scope="module")
def letters() -> Tokenizer:
    """Every byte is a token."""
    return train_tokenizer([], vocabulary_size=263).backend_tokenizer


def pieces(tokenizer: Tokenizer, text: str, *stop: str) -> list[str]:
    answer, shown = AnswerText(tokenizer, stop), []
    for token in tokenizer.encode(text, add_special_tokens=False).ids:
        shown.append(answer.add(token))
        if answer.has_stopped:
            break
    return [*shown, answer.rest()]


@pytest.mark.parametrize("text", ["plain", "grün 日本語", "👩‍👩‍👧 at  home\n", " 3"])
def test_pieces_join_to_the_text_and_hold_whole_characters(letters: Tokenizer, text: str) -> None:
    shown = pieces(letters, text)
    assert "".join(shown) == text
    assert not any("\ufffd" in piece for piece in shown)
    assert len(shown) == len(text.encode()) + 1


def test_half_a_character_at_the_end_is_dropped(letters: Tokenizer) -> None:
    answer = AnswerText(letters, ())
    tokens = letters.encode("ok 日", add_special_tokens=False).ids[:-1]
    assert "".join(map(answer.add, tokens)) + answer.rest() == "ok "


def test_words_of_a_tokenizer_with_marks_for_spaces_keep_their_spaces() -> None:
    words = {"▁two": 0, "▁blue": 1, "▁birds": 2}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="▁two"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    answer = AnswerText(tokenizer, ())
    assert [answer.add(token) for token in (0, 1, 2)] == ["two", " blue", " birds"]


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        (("END",), "one EN two "),
        (("END", "two"), "one EN "),
        (("nothing",), "one EN two END three"),
        (("three!",), "one EN two END three"),
    ],
)
def test_a_stop_string_ends_the_text_and_is_never_shown(
    letters: Tokenizer, stop: tuple[str, ...], expected: str
) -> None:
    assert "".join(pieces(letters, "one EN two END three", *stop)) == expected


def test_what_may_begin_a_stop_string_waits(letters: Tokenizer) -> None:
    assert pieces(letters, "a##b", "###")[1:4] == ["", "", "##b"]
