import copy

import pytest
import torch
from transformers import LlamaForCausalLM

from workloads.arank import arank_samples, map_ranks

pytestmark = pytest.mark.gpu


def test_ranks_on_a_device_are_those_of_the_cpu(llama: LlamaForCausalLM) -> None:
    generator = torch.Generator().manual_seed(0)
    batch = {
        "input_ids": torch.randint(0, 96, (3, 40), generator=generator),
        "attention_mask": torch.arange(40)
        .expand(3, 40)
        .lt(torch.tensor([[40], [31], [17]]))
        .long(),
    }
    expected = arank_samples(llama, batch)
    on_device = {name: tensor.cuda() for name, tensor in batch.items()}
    assert arank_samples(copy.deepcopy(llama).cuda(), on_device).equal(expected)


def test_large_maps_on_a_device_have_the_ranks_of_the_cpu() -> None:
    torch.manual_seed(0)
    logits = torch.randn(4, 512, 16) @ torch.randn(4, 16, 512)
    hidden = torch.ones(512, 512).triu(1).bool()
    maps = logits.masked_fill(hidden, -torch.inf).softmax(-1)
    assert map_ranks(maps.cuda()).cpu().equal(map_ranks(maps))
