import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
UNPINNED_EXTRAS = {"flash"}  # compiled against the CUDA toolkit at hand


@pytest.fixture(scope="module")
def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = [line for line in lines if line and not line.startswith("#")]
    assert [line for line in pinned if not re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line)] == []
    return dict(line.split("==") for line in pinned)


@pytest.fixture(scope="module")
def requirements() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = list(project["dependencies"])
    for extra, wanted in project["optional-dependencies"].items():
        lines += [] if extra in UNPINNED_EXTRAS else wanted
    return [Requirement(line) for line in lines]


def test_every_dependency_is_pinned_within_its_range(
    pins: dict[str, str], requirements: list[Requirement]
) -> None:
    missing = [
        str(requirement)
        for requirement in requirements
        if not requirement.specifier.contains(pins.get(canonicalize_name(requirement.name), "0"))
    ]
    assert missing == []


def test_torch_and_torchvision_are_matching_releases(pins: dict[str, str]) -> None:
    # torchvision 0.N belongs to torch 2.(N - 15)
    torch_minor = int(pins["torch"].split(".")[1])
    assert int(pins["torchvision"].split(".")[1]) == torch_minor + 15
