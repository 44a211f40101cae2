import pytest
import torch

from workloads.mod.packing import Packing, PositionTables, pack, unpack
from workloads.mod.routing import Selection, slots_of

ROW_STARTS = torch.tensor([[0], [6]])


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

    packing = Packing.of(chosen, ROW_STARTS)
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
    packing = Packing.of(chosen, ROW_STARTS)
    packed, carried = pack(hidden, packing)
    output = unpack(carried, packed + 1.0, packing)
    skipped = ~chosen.routed_mask(6)
    assert torch.equal(output[skipped], hidden[skipped])
    assert torch.equal(output[~skipped], hidden[~skipped] + 1.0)


def test_without_gradients_the_same_tokens_are_packed_and_unpacked():
    hidden, scale = torch.randn(2, 6, 4), torch.rand(2, 6)
    packing = Packing.of(selection([2, 4], 6), ROW_STARTS)
    recorded = [pack(hidden, packing)]
    recorded.append(unpack(recorded[0][1], recorded[0][0] + 1.0, packing, scale))
    with torch.no_grad():
        packed, carried = pack(hidden, packing)
        output = unpack(carried, packed + 1.0, packing, scale)
    assert torch.equal(packed, recorded[0][0])
    assert torch.equal(output, recorded[1])


@pytest.mark.parametrize("leading", [(1,), (2,), (3, 2)])
@pytest.mark.parametrize("widths", [(4,), (4, 4), (4, 2)])
def test_gathers_position_tables_with_and_without_a_batch(leading, widths):
    tables = tuple(torch.randn(*leading, 6, width) for width in widths)
    columns = torch.tensor([[0, 2, 4], [1, 2, 3]])
    taken = PositionTables(tables).at(Packing.of(Selection(columns), ROW_STARTS))
    for table, gathered in zip(tables, taken, strict=True):
        whole = table.expand(*leading[:-1], 2, 6, table.shape[-1])
        for row in range(2):
            assert torch.equal(gathered[..., row, :, :], whole[..., row, columns[row], :])


def test_a_single_position_table_stays_one_tensor():
    table = torch.randn(1, 6, 4)
    packing = Packing.of(Selection(torch.tensor([[1, 3]])), None)
    assert torch.equal(PositionTables(table).at(packing), table[:, [1, 3]])
