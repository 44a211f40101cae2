from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.artifacts import ArtifactChangedError
from orchestrator.durable import External, Step, Store, open_store, plan
from orchestrator.durable.errors import StepError
from orchestrator.durable.graph import order_steps
from tests.orchestrator.durable.fakes import HERE, Steps


def lines(store: Store, steps: list[Step], **options: object) -> list[str]:
    planned = plan(store, steps, **options)  # type: ignore[arg-type]
    return [f"{each.name} {each.action}: {'; '.join(each.reasons)}" for each in planned]


def step(name: str, *inputs: str) -> Step:
    return Step(name=name, function=f"{HERE}:write", inputs={source: source for source in inputs})


def test_inputs_come_first_and_else_the_given_order_stays() -> None:
    steps = [step("d", "b", "c"), step("b", "a"), step("a"), step("c", "a"), step("e")]
    assert [each.name for each in order_steps(steps)] == ["a", "e", "b", "c", "d"]


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        ([step("a", "c"), step("b", "a"), step("c", "b")], "wait for each other.*: a, b, c"),
        ([step("a", "a")], "wait for each other"),
        ([step("a", "x")], r"input 'x' is no step of \['a'\]"),
        ([step("a"), step("a")], "two steps have this name"),
    ],
)
def test_steps_that_cannot_be_ordered_are_refused(steps: list[Step], reason: str) -> None:
    with pytest.raises(StepError, match=reason):
        order_steps(steps)


def test_nothing_is_reused_in_an_empty_store(steps: Steps) -> None:
    assert lines(steps.store, steps.chain()) == [
        "a run: a: no result yet",
        "b wait: b: waits for a",
        "c wait: c: waits for b",
    ]


def test_everything_is_reused_afterwards(steps: Steps) -> None:
    steps.run(steps.chain(rate=0.1))
    assert lines(steps.store, steps.chain(rate=0.1)) == ["a reuse: ", "b reuse: ", "c reuse: "]


def test_a_changed_parameter_is_named_and_what_follows_waits(steps: Steps) -> None:
    steps.run(steps.chain(rate=0.1))
    assert lines(steps.store, steps.chain(rate=0.2)) == [
        "a reuse: ",
        "b run: b: rate 0.1 -> 0.2",
        "c wait: c: waits for b",
    ]


def test_the_nearest_earlier_result_is_compared(steps: Steps) -> None:
    steps.run(steps.chain(rate=0.1, seed=1))
    steps.run(steps.chain(rate=0.2, seed=2))
    assert lines(steps.store, steps.chain(rate=0.3, seed=2))[1] == "b run: b: rate 0.2 -> 0.3"


def test_a_waiting_step_tells_its_own_changes_too(steps: Steps) -> None:
    steps.run(steps.chain())
    a, b, c = steps.chain()
    changed = [replace(a, version=2), b, replace(c, params={"seed": 2})]
    assert lines(steps.store, changed)[1:] == [
        "b wait: b: waits for a",
        "c wait: c: seed absent -> 2; c: waits for b",
    ]


def test_data_from_outside_counts_by_digest_and_not_by_path(steps: Steps, tmp_path: Path) -> None:
    def reading(digest: str, path: str) -> list[Step]:
        return [steps.step("a", "nothing", inputs={"json": External(digest=digest, path=path)})]

    steps.run(reading("11" * 32, str(tmp_path)))
    assert lines(steps.store, reading("11" * 32, "/moved")) == ["a reuse: "]
    assert lines(steps.store, reading("22" * 32, str(tmp_path))) == [
        "a run: a: input json 111111111111 -> 222222222222"
    ]


def test_settings_and_resources_change_nothing(steps: Steps) -> None:
    steps.run(steps.chain())
    changed = [replace(each, settings={"workers": 8}) for each in steps.chain()]
    assert lines(steps.store, changed) == ["a reuse: ", "b reuse: ", "c reuse: "]


def test_changed_code_is_told_and_counts_only_when_strict(
    steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps.run(steps.chain("write"), strict_code=True)
    steps.run(steps.chain("write"))
    monkeypatch.setattr("orchestrator.durable.planning.source_digest", lambda function: "ef" * 32)
    (line,) = lines(steps.store, steps.chain("write"))
    assert line.startswith("a reuse: a: code ")
    assert "not part of the key" in line
    (line,) = lines(steps.store, steps.chain("write"), strict_code=True)
    assert line.startswith("a run: a: code ")
    assert line.endswith("efefefefefef")


def test_a_step_can_be_asked_for_again(steps: Steps) -> None:
    steps.run(steps.chain())
    assert lines(steps.store, steps.chain(), redo={"b"})[1:] == [
        "b run: b: asked to be redone",
        "c wait: c: waits for b",
    ]


def test_a_step_whose_effect_is_gone_runs_again(steps: Steps, tmp_path: Path) -> None:
    effect = tmp_path / "effect"
    registered = steps.step("r", validate=f"{HERE}:has_effect", settings={"effect": str(effect)})
    effect.touch()
    steps.run([registered])
    assert lines(steps.store, [registered]) == ["r reuse: "]
    effect.unlink()
    assert lines(steps.store, [registered]) == [f"r run: r: its effect is gone ({HERE}:has_effect)"]


def test_a_damaged_artifact_is_not_reused(steps: Steps) -> None:
    steps.run(steps.chain("write"))
    (text,) = [path for path in steps.store.list("artifacts") if path.endswith("/result/text")]
    steps.store.delete(text)
    with pytest.raises(ArtifactChangedError, match="it is missing"):
        lines(steps.store, steps.chain("write"))
    assert lines(steps.store, steps.chain("write"), redo={"a"}) == ["a run: a: asked to be redone"]


def test_planning_writes_nothing(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "empty"))
    lines(store, [step("a")])
    assert not (tmp_path / "empty" / "runs").exists()
