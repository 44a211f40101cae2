import torch

from workloads.arank.workspace import Workspace


def test_memory_is_used_again_where_it_is_large_enough() -> None:
    space = Workspace()
    large = space.tensor("map", (4, 4), torch.float32)
    small = space.tensor("map", (2, 3), torch.float32)
    assert small.shape == (2, 3)
    assert small.data_ptr() == large.data_ptr()
    assert space.tensor("map", (5, 5), torch.float32).numel() == 25


def test_another_type_or_device_has_memory_of_its_own() -> None:
    space = Workspace()
    space.tensor("map", (4, 4), torch.float32)
    assert space.tensor("map", (2, 2), torch.float64).dtype == torch.float64
    assert space.tensor("map", (2, 2), torch.float32, torch.device("meta")).is_meta
