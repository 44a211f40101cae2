import pytest
import torch

from workloads.kinds import TokenKind
from workloads.mod.kinds import check_kinds, default_kinds, with_padding

IDS = torch.tensor([[7, 9, 9, 8]])
Q, A, IMG, PAD = TokenKind.QUESTION, TokenKind.ANSWER, TokenKind.IMAGE, TokenKind.PAD


def test_ids_tell_images_from_text_and_labels_tell_answers():
    labels = torch.tensor([[-100, -100, -100, 8]])
    kinds = default_kinds(IDS, image_token_id=9, labels=labels, past_length=0)
    assert kinds.tolist() == [[Q, IMG, IMG, A]]


def test_tokens_behind_a_cache_are_answers():
    kinds = default_kinds(IDS, image_token_id=None, labels=None, past_length=3)
    assert kinds.tolist() == [[A] * 4]


def test_padding_is_what_the_mask_hides_in_the_last_columns():
    kinds = torch.full((1, 2), int(Q))
    mask = torch.tensor([[1, 1, 0, 1]])
    assert with_padding(kinds, mask).tolist() == [[PAD, Q]]
    assert with_padding(kinds, None) is kinds
    assert with_padding(kinds, torch.ones(1, 1, 2, 2)) is kinds


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        (torch.zeros(1, 3, dtype=torch.long), r"\(batch, seq\) = \(1, 4\).*got \(1, 3\)"),
        (torch.zeros(1, 4), "integers of TokenKind, got torch.float32"),
        (torch.zeros(1, 4, dtype=torch.bool), "integers of TokenKind, got torch.bool"),
        (torch.tensor([[0, 1, 2, 5]]), r"TokenKind values in 0\.\.4, got values in 0\.\.5"),
        (torch.tensor([[0, 1, -1, 4]]), r"in 0\.\.4, got values in -1\.\.4"),
    ],
)
def test_rejects_kinds_that_do_not_fit(kinds, message):
    with pytest.raises(ValueError, match=message):
        check_kinds(kinds, (1, 4))
