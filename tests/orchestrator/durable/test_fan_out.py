from pathlib import Path

import pytest

from orchestrator.durable import Each, InProcessExecutor, Runner, Step, plan, read_status
from orchestrator.durable.errors import StepError
from tests.orchestrator.durable.fakes import Steps


def declared(steps: Steps, items: object, **fields: object) -> list[Step]:
    return [
        steps.step("list", "split", params={"items": items}),
        steps.step("double", "double", inputs={"item": Each("list")}, **fields),
        steps.step("sum", "add_up", inputs={"part": "double"}),
    ]


def total(steps: Steps, items: object, scratch: Path) -> str:
    result = Runner(
        "run", declared(steps, items), steps.store, start_executor=InProcessExecutor
    ).run()
    return (result.artifact("sum", scratch).path / "sum").read_text()


def test_a_step_runs_once_per_item_and_the_next_takes_all(steps: Steps, tmp_path: Path) -> None:
    assert total(steps, [1, 2, 3], tmp_path) == "12"
    assert steps.ran() == ["list", "double.00000", "double.00001", "double.00002", "sum"]
    states = {name: str(s.state) for name, s in read_status(steps.store, "run").steps.items()}
    assert states["double"] == "expanded"
    assert states["double.00002"] == "succeeded"


def test_an_item_that_was_done_is_not_done_again(steps: Steps, tmp_path: Path) -> None:
    total(steps, [1, 2, 3], tmp_path)
    assert total(steps, [7, 3, 1], tmp_path) == "22"
    assert steps.ran()[5:] == ["list", "double.00000", "sum"]


def test_equal_items_share_one_result(steps: Steps, tmp_path: Path) -> None:
    assert total(steps, [4, 4], tmp_path) == "16"
    assert len({path.split("/")[2] for path in steps.store.list("manifests/double")}) == 1


def test_nothing_to_do_is_done_at_once(steps: Steps, tmp_path: Path) -> None:
    assert total(steps, [], tmp_path) == "0"


def test_a_plan_shows_the_items_once_they_are_known(steps: Steps, tmp_path: Path) -> None:
    chain = declared(steps, [1, 2])
    assert [(p.name, p.action) for p in plan(steps.store, chain)] == [
        ("list", "run"),
        ("double", "wait"),
        ("sum", "wait"),
    ]
    total(steps, [1, 2], tmp_path)
    assert {p.name: p.action for p in plan(steps.store, chain)} == dict.fromkeys(
        ["list", "sum", "double.00000", "double.00001"], "reuse"
    )


@pytest.mark.parametrize(("items", "reason"), [({"a": 1}, "must be a JSON list, got dict")])
def test_what_is_no_list_is_refused(steps: Steps, items: object, reason: str) -> None:
    with pytest.raises(StepError, match=reason):
        steps.run(declared(steps, items))


def test_a_step_without_items_is_named(steps: Steps) -> None:
    chain = [steps.step("a"), steps.step("b", "double", inputs={"item": Each("a")})]
    with pytest.raises(StepError, match=r"'a'.*write a JSON list to items\.json"):
        steps.run(chain)


def test_a_fan_out_cannot_be_fanned_out_over(steps: Steps) -> None:
    chain = declared(steps, [1])
    chain.append(steps.step("again", "double", inputs={"item": Each("double")}))
    with pytest.raises(StepError, match="which fans out itself"):
        steps.run(chain)
