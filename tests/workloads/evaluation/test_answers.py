from collections.abc import Mapping
from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaForCausalLM

from workloads.data import PromptBatch
from workloads.evaluation import answer_questions


class Words:
    """A tokenizer that knows its ids by their numbers."""

    pad_token_id, eos_token_id = 0, 2

    def batch_decode(self, tokens: torch.Tensor, *, skip_special_tokens: bool) -> list[str]:
        assert skip_special_tokens
        return [" ".join(str(int(token)) for token in row if token not in (0, 2)) for row in tokens]


class Listener:
    def __init__(self) -> None:
        self.heard: list[tuple[int, int, str, str]] = []

    def progress(self, done: int, total: int, unit: str = "steps", note: str = "") -> None:
        self.heard.append((done, total, unit, note))

    def metrics(self, step: int, values: Mapping[str, float]) -> None: ...

    def message(self, text: str) -> None: ...


PROCESSOR = SimpleNamespace(tokenizer=Words())


def prompts(rows: list[list[int]], answers: list[str], first: int = 0) -> PromptBatch:
    seq = max(len(row) for row in rows)
    ids = torch.tensor([[0] * (seq - len(row)) + row for row in rows])
    mask = ids.ne(0).long()
    return PromptBatch(
        inputs={"input_ids": ids, "attention_mask": mask, "token_kinds": mask * 3},
        answers=tuple(answers),
        ids=tuple(f"q{first + index}" for index in range(len(rows))),
        tags=tuple({"kind": "count"} if index else {} for index in range(len(rows))),
    )


def greedy(model: LlamaForCausalLM, ids: list[int], new: int) -> str:
    for _ in range(new):
        ids = [*ids, int(model(torch.tensor([ids])).logits[0, -1].argmax())]
    return " ".join(map(str, ids[-new:]))


def test_answers_are_the_greedy_ones_in_the_order_asked(llama: LlamaForCausalLM) -> None:
    llama.generation_config.eos_token_id = None
    rows = [[5, 9, 30], [7, 11, 13, 40, 9], [6, 21]]
    expected = [greedy(llama, row, 3) for row in rows]
    listener = Listener()
    predictions = answer_questions(
        llama,
        PROCESSOR,  # type: ignore[arg-type]
        [prompts(rows[:2], [expected[0], "wrong"]), prompts(rows[2:], [expected[2]], first=2)],
        max_new_tokens=3,
        reporter=listener,
        total=3,
    )
    assert [item.answer for item in predictions] == expected
    assert [item.id for item in predictions] == ["q0", "q1", "q2"]
    assert [item.is_correct for item in predictions] == [True, False, True]
    assert [item.tag for item in predictions] == ["all", "count", "all"]
    assert listener.heard == [
        (2, 3, "questions", "50.0% correct"),
        (3, 3, "questions", "66.7% correct"),
    ]


@pytest.mark.filterwarnings("error")
def test_a_models_own_sampling_settings_do_not_matter(llama: LlamaForCausalLM) -> None:
    batch = prompts([[5, 9, 30]], ["?"])
    asked = {"max_new_tokens": 4}
    plain = answer_questions(llama, PROCESSOR, [batch], **asked)  # type: ignore[arg-type]
    llama.generation_config.do_sample = True
    llama.generation_config.temperature = 0.7
    llama.generation_config.num_beams = 2
    assert answer_questions(llama, PROCESSOR, [batch], **asked) == plain  # type: ignore[arg-type]
