"""A digest of weights, to prove that frozen ones did not change."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes, in name order; CPU tensors only."""
    digest = hashlib.sha256()
    for name, weight in sorted(weights.items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}\n".encode())
        digest.update(weight.detach().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
