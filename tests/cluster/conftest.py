"""A Ray head that takes jobs."""

from collections.abc import Iterator

import pytest

from tests.ray_head import RayHead, ray_head_node


@pytest.fixture(scope="session")
def ray_head() -> Iterator[RayHead]:
    """One ``ray start --head`` for all tests that submit jobs."""
    with ray_head_node() as head:
        yield head
