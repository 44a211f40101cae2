"""Numerical rank of large matrices without their singular values.

The squared singular values of ``A`` are the eigenvalues of its Gram matrix ``G``. How many of
them exceed ``t`` is read off the signs of the pivots of ``G - t I = L D L^T`` (Sylvester's law of
inertia), which costs a fraction of a bidiagonalization. In float64 the smallest eigenvalue that
matters, ``(n * eps32)^2`` of the largest, is still millions of times above rounding.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from workloads.arank.workspace import Workspace

EPS32 = torch.finfo(torch.float32).eps
EPS64 = torch.finfo(torch.float64).eps

ROUNDING_OF_SMALL = 8.0
"""Error allowed for LAPACK's float32 singular values near the tolerance, in units of
``eps32 * |A|_F / sqrt(n)``: rounding errors that do not conspire, seen from one direction of
``n``. The worst of 38,000 values near the tolerance was 3.3 (random, graded and softmax
matrices of 200 to 1,088 rows)."""

ROUNDING_OF_LARGEST = 4.0
"""The same for the largest singular value, relative to it, in units of ``eps32 * sqrt(n)``;
1.4 was the worst."""

_PROBES = 8
_SAFETY = 25.0
_PROBE_ROUNDS = 5
_BLOCK = 96
_LANCZOS_STEPS = 64
_CONVERGED = 1e-4
_CERTIFIED = 1e-5


def certified_rank(
    matrix: Tensor,
    relative_tolerance: float,
    *,
    is_lower: bool = False,
    space: Workspace | None = None,
) -> int | None:
    """What `torch.linalg.matrix_rank` gives in float32, if rounding cannot change its integer.

    The rank is certain if no exact singular value lies so near the tolerance that the rounding
    of LAPACK's float32 singular values may move it across. The values above the middle of that
    band are counted in float64, and probes show that the band is empty; if they cannot, the
    values above both of its ends are counted too.

    Args:
        matrix: Float32 ``(rows, columns)`` on the CPU, finite.
        relative_tolerance: Singular values up to this times the largest count as zero.
        is_lower: Whether there are only zeros above the diagonal, which saves two thirds of the
            Gram matrix; at least as many rows as columns.
        space: Where the Gram matrix and its factor go; one of its own by default.

    Returns:
        The rank; None if a singular value lies inside the band.
    """
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    gram = _Gram(tall, is_lower, space or Workspace())
    energy = float(gram.matrix.diagonal().sum())
    if energy == 0.0:
        return 0
    bracket = _largest_eigenvalue(gram)
    if bracket is None:
        return None
    longest = max(matrix.shape)
    small = ROUNDING_OF_SMALL * math.sqrt(energy / longest / bracket[0]) / relative_tolerance
    width = EPS32 * (small + ROUNDING_OF_LARGEST * math.sqrt(longest))
    slack = len(gram.matrix) * EPS64 * bracket[1]
    low = bracket[0] * (relative_tolerance * (1 - width)) ** 2 - slack
    high = bracket[1] * (relative_tolerance * (1 + width)) ** 2 + slack
    if width >= 1 or low <= 0:
        return None
    middle = gram.shifted((low + high) / 2)
    is_empty = middle.is_empty_within((high - low) / 2)
    if is_empty is None:
        is_empty = all(gram.shifted(end).positive == middle.positive for end in (low, high))
    return middle.positive if is_empty else None


class _Gram:
    """``G = tall.T @ tall`` in float64, and room for one factorization of it."""

    def __init__(self, tall: Tensor, is_lower: bool, space: Workspace) -> None:
        columns = tall.shape[1]
        self.matrix = space.tensor("gram", (columns, columns), torch.float64)
        # In LAPACK's order, or there would be a copy.
        self._factor = space.tensor("factor", (columns, columns), torch.float64).mT
        for start in range(0, columns, _BLOCK):
            end = min(start + _BLOCK, columns)
            below = tall[start:] if is_lower else tall
            beside = below[:, :end].double()  # a quarter of ``tall`` at most if that is lower
            torch.mm(beside[:, start:].T, beside, out=self.matrix[start:end, :end])
            self.matrix[:start, start:end] = self.matrix[start:end, :start].T

    def shifted(self, shift: float) -> "_Shifted":
        """``G - shift I``, factored in the place of the one before."""
        diagonal = self.matrix.diagonal().clone()
        self.matrix.diagonal().sub_(shift)
        codes = (torch.empty(0, dtype=torch.int32) for _ in range(2))
        factor, pivots, _ = torch.linalg.ldl_factor_ex(self.matrix, out=(self._factor, *codes))
        self.matrix.diagonal().copy_(diagonal)
        return _Shifted(factor, pivots)


class _Shifted:
    """``G - shift I = L D L^T``; valid until the next one of the same Gram matrix."""

    def __init__(self, factor: Tensor, pivots: Tensor) -> None:
        self._factor, self._pivots = factor, pivots
        # Two equal negative pivots mark a block of 2 x 2, which is always indefinite.
        alone = pivots > 0
        positive = (factor.diagonal() > 0) & alone
        self.positive = int(positive.sum()) + int((~alone).sum()) // 2
        """How many eigenvalues of ``G`` exceed the shift."""

    def is_empty_within(self, distance: float) -> bool | None:
        """Whether no eigenvalue of ``G`` lies within ``distance`` of the shift; None if unknown.

        The nearest one is ``1 / |B|``, with the inverse ``B``. Of normal vectors ``w``,
        ``|B^p| <= s sqrt(2 / pi) max |B^p w|`` for a safety ``s``, except with probability
        ``s ** -number`` (Halko, Martinsson and Tropp 2011, lemma 4.1): one in 10^11 here.
        """
        size = len(self._factor)
        generator = torch.Generator(self._factor.device).manual_seed(size)
        probes = torch.randn(
            size, _PROBES, dtype=self._factor.dtype, generator=generator, device=generator.device
        )
        lengths = probes.norm(dim=0)
        for _ in range(_PROBE_ROUNDS):
            # Scaled, so that powers neither overflow nor vanish.
            probes = distance * torch.linalg.ldl_solve(self._factor, self._pivots, probes)
            before, lengths = lengths, probes.norm(dim=0)
            if float((lengths / before).max()) > 1:
                return False
            if _SAFETY * math.sqrt(2 / math.pi) * float(lengths.max()) < 1:
                return True
        return None


def _largest_eigenvalue(gram: _Gram) -> tuple[float, float] | None:
    """Bounds of the largest eigenvalue, or None if it was not isolated.

    The lower bound is a Rayleigh quotient. The upper one is Kato and Temple's, where the
    Frobenius norm shows the other eigenvalues to be smaller, and otherwise a count of none.
    """
    matrix = gram.matrix
    vector = _lanczos(matrix.mv, torch.ones(len(matrix), dtype=matrix.dtype))
    image = matrix @ vector
    low = float(vector @ image)
    residual = float((image - low * vector).square().sum())
    others = math.sqrt(max(0.0, float(matrix.norm()) ** 2 - low**2))
    if others < low:
        high = low + residual / (low - others)
        if high <= low * (1 + _CERTIFIED):
            return low, high
    high = low * (1 + _CERTIFIED)
    return (low, high) if gram.shifted(high).positive == 0 else None


def _lanczos(product: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """A unit vector near the leading eigenvector of a symmetric positive operator.

    Maps have no negative entries, so their leading vector is never orthogonal to ``start`` if
    that is positive (Perron and Frobenius).
    """
    basis = [start / start.norm()]
    diagonal: list[Tensor] = []
    off_diagonal: list[Tensor] = []
    while True:
        image = product(basis[-1])
        diagonal.append(basis[-1] @ image)
        known = torch.stack(basis)
        for _ in range(2):  # once leaves what rounding has mixed in
            image = image - known.T @ (known @ image)
        off_diagonal.append(image.norm())
        steps = len(diagonal)
        if steps % 4 == 0 or off_diagonal[-1] <= EPS64 * diagonal[0]:
            beside = torch.stack(off_diagonal[:-1]) if steps > 1 else start[:0]
            tridiagonal = torch.stack(diagonal).diag() + beside.diag(-1)
            values, vectors = torch.linalg.eigh(tridiagonal)
            has_converged = off_diagonal[-1] * vectors[-1, -1].abs() <= _CONVERGED * values[-1]
            if has_converged or steps >= _LANCZOS_STEPS:
                leading: Tensor = known.T @ vectors[:, -1]
                leading /= leading.norm()
                return leading
        basis.append(image / off_diagonal[-1])
