import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "cluster" / "images" / "Dockerfile"


@pytest.fixture(scope="module")
def instructions() -> list[tuple[str, str]]:
    text = DOCKERFILE.read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines)]


def arguments_of(instructions: list[tuple[str, str]], word: str) -> list[str]:
    return [rest for name, rest in instructions if name == word]


def test_every_base_is_pinned_to_a_patch_release(instructions: list[tuple[str, str]]) -> None:
    defaults = dict(rest.split("=", 1) for rest in arguments_of(instructions, "ARG"))
    bases = [rest.split()[0] for rest in arguments_of(instructions, "FROM")]
    assert len(bases) >= 2
    for base in bases:
        image = re.sub(r"\$\{(\w+)\}", lambda name: defaults[name[1]], base)
        assert re.search(r":\d+\.\d+\.\d+", image), image


def test_the_base_is_a_python_that_the_package_supports(
    instructions: list[tuple[str, str]],
) -> None:
    (image,) = arguments_of(instructions, "ARG")
    assert "python:3.11." in image  # the release that constraints.txt was made with


def test_packages_are_the_pinned_ones(instructions: list[tuple[str, str]]) -> None:
    installs = [
        rest for rest in arguments_of(instructions, "RUN") if re.search(r"pip install", rest)
    ]
    assert installs
    for install in installs:
        assert "-c constraints.txt" in install or "--no-deps" in install


def test_the_container_is_not_root_and_starts_gammaray(
    instructions: list[tuple[str, str]],
) -> None:
    assert arguments_of(instructions, "USER") == ["1000"]
    assert arguments_of(instructions, "ENTRYPOINT") == ['["gammaray"]']


def test_what_is_copied_is_in_the_repository(instructions: list[tuple[str, str]]) -> None:
    copies = [rest for rest in arguments_of(instructions, "COPY") if not rest.startswith("--from")]
    for copy in copies:
        *sources, _ = copy.split()
        assert [source for source in sources if not (ROOT / source).exists()] == []
