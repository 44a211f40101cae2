from dataclasses import dataclass, field
from dataclasses import replace as changed

import pytest
import torch

from tests.workloads.generation.conftest import Twins, asked
from workloads.data import PromptBatch
from workloads.errors import DataError
from workloads.evaluation import answer_questions
from workloads.generation import Completion, Generator, Sampling
from workloads.mod import RoutingRecord

SAMPLES = [
    asked("which digit is there ?"),
    asked("which ?", grey=10),
    asked("is there a digit ?", grey=None),
]
TWELVE = Sampling(max_new_tokens=12)


@dataclass
class Heard:
    most: int = 1000
    pieces: list[str] = field(default_factory=list)
    completions: list[Completion] = field(default_factory=list)
    seen: int = 0

    def wants_more(self) -> bool:
        self.seen += 1
        return self.seen < self.most

    def text(self, piece: str) -> None:
        assert not self.completions, "text after the end"
        self.pieces.append(piece)

    def finished(self, completion: Completion) -> None:
        self.completions.append(completion)


@pytest.fixture(params=["dense", "mod"])
def generator(request: pytest.FixtureRequest) -> Generator:
    found: Generator = request.getfixturevalue(request.param)
    return found


def answers(generator: Generator, *samplings: Sampling, first: int = 0) -> list[Completion]:
    samples = SAMPLES[first : first + len(samplings)]
    return generator.generate(generator.encode(samples), samplings)


def test_a_batch_says_what_its_rows_say_alone(generator: Generator) -> None:
    samplings = [
        TWELVE,
        changed(TWELVE, max_new_tokens=5),
        changed(TWELVE, temperature=0.8, top_p=0.9, seed=3),
    ]
    together = answers(generator, *samplings)
    alone = [answers(generator, each, first=row)[0] for row, each in enumerate(samplings)]
    assert [item.text for item in together] == [item.text for item in alone]
    assert [item.skip for item in together] == pytest.approx([item.skip for item in alone])
    assert changed(together[1], skip=None) == changed(alone[1], skip=None)


def test_answers_are_those_of_the_evaluation(generator: Generator, twins: Twins) -> None:
    batch = generator.encode(SAMPLES)
    prompts = PromptBatch(batch, answers=("",) * 3, ids=("0", "1", "2"), tags=({},) * 3)
    evaluated = answer_questions(generator._model, twins[2], [prompts], max_new_tokens=12)
    heard = [item.text.strip().rstrip("\ufffd") for item in answers(generator, *[TWELVE] * 3)]
    assert heard == [item.answer.rstrip("\ufffd") for item in evaluated]


def test_pieces_join_to_the_whole_text(generator: Generator) -> None:
    heard = [Heard() for _ in SAMPLES]
    completions = generator.generate(generator.encode(SAMPLES), [TWELVE] * 3, heard)
    assert ["".join(each.pieces) for each in heard] == [item.text for item in completions]
    assert [each.completions for each in heard] == [[item] for item in completions]
    assert max(len(each.pieces) for each in heard) > 3


def test_each_row_has_its_own_limit(generator: Generator) -> None:
    limits = [2, 7, 4]
    found = answers(generator, *[Sampling(max_new_tokens=limit) for limit in limits])
    assert [item.completion_tokens for item in found] == limits
    assert {item.reason for item in found} == {"length"}


def test_a_stop_string_ends_its_row_alone(generator: Generator) -> None:
    whole = answers(generator, TWELVE, TWELVE)
    middle = next(text for text in whole[0].text[3:] if text not in whole[0].text[:3])
    stopped, other = answers(generator, changed(TWELVE, stop=(middle,)), TWELVE)
    assert stopped.text == whole[0].text[: whole[0].text.index(middle)]
    assert (stopped.reason, other.text) == ("stop", whole[1].text)
    assert stopped.completion_tokens < whole[0].completion_tokens


def test_the_end_token_stops_a_row(
    generator: Generator, twins: Twins, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = generator._model
    batch = generator.encode(SAMPLES[:1])
    tokens = model.generate(  # type: ignore[operator]
        **{k: v for k, v in batch.items() if k != "token_kinds" or model is twins[1]},
        max_new_tokens=4,
        do_sample=False,
    )[0, batch["input_ids"].shape[1] :].tolist()
    monkeypatch.setattr(model.generation_config, "eos_token_id", tokens[2])
    (found,) = answers(generator, TWELVE)
    assert (found.reason, found.completion_tokens) == ("stop", tokens.index(tokens[2]) + 1)


def test_a_row_nobody_waits_for_ends_and_the_others_go_on(generator: Generator) -> None:
    expected = answers(generator, *[TWELVE] * 3)
    heard = [Heard(), Heard(most=3), Heard()]
    found = generator.generate(generator.encode(SAMPLES), [TWELVE] * 3, heard)
    assert (found[1].reason, found[1].completion_tokens) == ("cancelled", 3)
    assert [found[0].text, found[2].text] == [expected[0].text, expected[2].text]


def test_the_context_ends_an_answer(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generator, "context_tokens", 30)
    long, short = answers(generator, TWELVE, TWELVE)
    assert (long.prompt_tokens + long.completion_tokens, long.reason) == (30, "length")
    assert short.prompt_tokens + short.completion_tokens == 30


def test_a_prompt_longer_than_the_context_is_refused(generator: Generator) -> None:
    with pytest.raises(DataError, match="more than the limit of 1023"):
        generator.encode([asked("x" * 1100)])


def test_skip_is_measured_for_each_row_of_a_converted_model(mod: Generator) -> None:
    found = answers(mod, *[Sampling(max_new_tokens=2)] * 3)
    shares = [item.skip for item in found]
    assert 0.0 < min(shares[:2]) < max(shares[:2]) < 1.0  # type: ignore[type-var]
    for row in range(2):
        batch = mod.encode(SAMPLES[row : row + 1])
        record = RoutingRecord()
        with torch.no_grad():
            mod._model(**batch, routing_record=record)
        assert shares[row] == pytest.approx(record.skip_all())


def test_a_dense_model_has_no_skip(dense: Generator) -> None:
    assert answers(dense, TWELVE)[0].skip is None
