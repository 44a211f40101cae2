import pytest
import torch

from workloads.mod.packing import Packing, pack, unpack
from workloads.mod.routing import Selection, slots_of


def selection(counts, seq_len, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randperm(seq_len, generator=generator) for _ in counts]
    packed = max(counts)
    columns = torch.stack(
        [
            torch.cat([row[:n].sort().values, row[n:packed]])
            for row, n in zip(rows, counts, strict=True)
        ]
    )
    return Selection(columns, *slots_of(counts, torch.device("cpu")))


def routed(hidden, scale, chosen, layer, with_scale):
    """The same by autograd alone, over masks."""
    kept = chosen.routed_mask(hidden.shape[1]).unsqueeze(-1)
    carried = hidden * scale.unsqueeze(-1) if with_scale else hidden
    return torch.where(kept, layer(hidden), carried)


@pytest.mark.parametrize("with_scale", [False, True])
@pytest.mark.parametrize("counts", [[3, 3], [4, 2], [1, 5]])
def test_packing_computes_what_masking_computes_and_its_gradients(counts, with_scale):
    torch.manual_seed(0)
    hidden = torch.randn(2, 6, 4, dtype=torch.float64, requires_grad=True)
    scale = torch.rand(2, 6, dtype=torch.float64, requires_grad=True)
    layer = torch.nn.Linear(4, 4).double()
    chosen = selection(counts, 6)
    direction = torch.randn(2, 6, 4, dtype=torch.float64)

    packing = Packing.of(chosen, 6)
    packed, carried = pack(hidden, packing)
    output = unpack(carried, layer(packed), packing, scale if with_scale else None)
    expected = routed(hidden, scale, chosen, layer, with_scale)

    torch.testing.assert_close(output, expected)
    inputs = [hidden, layer.weight] + ([scale] if with_scale else [])
    actual = torch.autograd.grad((output * direction).sum(), inputs)
    for gradient, wanted in zip(
        actual, torch.autograd.grad((expected * direction).sum(), inputs), strict=True
    ):
        torch.testing.assert_close(gradient, wanted)


def test_tokens_that_are_not_computed_come_back_bit_for_bit():
    hidden = torch.randn(2, 6, 4)
    chosen = selection([2, 4], 6)
    packing = Packing.of(chosen, 6)
    packed, carried = pack(hidden, packing)
    output = unpack(carried, packed + 1.0, packing)
    skipped = ~chosen.routed_mask(6)
    assert torch.equal(output[skipped], hidden[skipped])
    assert torch.equal(output[~skipped], hidden[~skipped] + 1.0)
