import re
from pathlib import Path

from tests.workloads.mod.families import COMMON, OTHERS, TEXT_ONLY

PAGE = Path(__file__).parents[3] / "docs" / "models.md"


def test_the_page_lists_the_families_that_are_checked():
    checked, _, _ = PAGE.read_text().partition("| other family |")
    assert set(re.findall(r"^\| `(\w+)` \|", checked, re.MULTILINE)) == {
        *COMMON,
        *OTHERS,
        *TEXT_ONLY,
    }
