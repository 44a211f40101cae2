import pytest

from orchestrator.durable import InProcessExecutor, Runner, list_runs, plan
from orchestrator.ownership import Lease, RunOwnedError, claim
from orchestrator.runs import Keep, find_garbage, remove_garbage, tag
from tests.orchestrator.durable.fakes import FakeClock, Steps


@pytest.fixture
def three(steps: Steps) -> Steps:
    """Three finished runs that share their first step; the last is the newest."""
    for number in (1, 2, 3):
        chain = steps.chain(rate=number)
        Runner(f"r{number}", chain, steps.store, start_executor=InProcessExecutor).run()
    return steps


def actions(steps: Steps, rate: int) -> list[str]:
    return [planned.action for planned in plan(steps.store, steps.chain(rate=rate))]


def test_without_a_limit_nothing_is_garbage(three: Steps) -> None:
    found = remove_garbage(three.store, Keep())
    assert (found.runs, found.manifests, found.folders) == ((), (), ())
    assert found.kept_bytes > 0


def test_a_dry_run_changes_nothing(three: Steps) -> None:
    before = three.store.list("manifests") + three.store.list("runs")
    assert find_garbage(three.store, Keep(last=0)).runs == ("r1", "r2", "r3")
    assert three.store.list("manifests") + three.store.list("runs") == before


def test_only_what_no_kept_run_has_is_removed(three: Steps) -> None:
    found = remove_garbage(three.store, Keep(last=1))
    assert found.runs == ("r1", "r2")
    assert len(found.manifests) == 4, "the first step is shared with the run that stays"
    assert list_runs(three.store) == ["r3"]
    assert actions(three, 3) == ["reuse"] * 3
    assert actions(three, 1) == ["reuse", "run", "wait"]
    assert {path.split("/")[1] for path in three.store.list("artifacts")} == {
        path.split("/")[2] for path in three.store.list("manifests")
    }


def test_a_tag_keeps_a_run(three: Steps) -> None:
    tag(three.store, "r1", "paper")
    assert find_garbage(three.store, Keep(last=1)).runs == ("r2",)
    assert find_garbage(three.store, Keep(last=1, tagged=False)).runs == ("r1", "r2")


def test_a_budget_keeps_the_newest_that_fit(three: Steps) -> None:
    whole = find_garbage(three.store, Keep())
    one = find_garbage(three.store, Keep(last=1)).kept_bytes
    assert find_garbage(three.store, Keep(budget_bytes=whole.kept_bytes)).runs == ()
    assert find_garbage(three.store, Keep(budget_bytes=one)).runs == ("r1", "r2")
    assert find_garbage(three.store, Keep(budget_bytes=0)).runs == ("r1", "r2", "r3")


def test_a_run_that_can_be_resumed_keeps_everything_of_its_own(three: Steps) -> None:
    with pytest.raises(KeyboardInterrupt):
        Runner(
            "stopped",
            three.chain("write", "interrupt", rate=9),
            three.store,
            start_executor=InProcessExecutor,
        ).run()
    three.store.create("artifacts/" + "ab" * 32 + "/stopped-e000001-a001/result/half", b"")
    found = remove_garbage(three.store, Keep(last=0))
    assert found.runs == ("r1", "r2", "r3")
    assert actions(three, 9)[0] == "reuse"
    assert any("stopped-e000001" in path for path in three.store.list("artifacts"))


def test_leftovers_of_finished_runs_go(three: Steps) -> None:
    left = ["artifacts/" + "ab" * 32 + "/r1-e000001-a001/result/half"]
    left += ["checkpoints/" + "ab" * 32 + "/000000/r1-e000001-a001/state", "inflight/x/000001"]
    for path in left:
        three.store.create(path, b"")
    remove_garbage(three.store, Keep())
    assert not any(three.store.exists(path) for path in left)


def test_nothing_is_removed_while_a_run_is_driven(three: Steps) -> None:
    claim(three.store, "live", lease=Lease(), clock=FakeClock(), tell=print)
    with pytest.raises(RunOwnedError, match="live"):
        remove_garbage(three.store, Keep(last=0))
    assert list_runs(three.store) == ["live", "r1", "r2", "r3"]


def test_a_run_that_starts_meanwhile_keeps_the_files(
    three: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find(store: object, keep: Keep) -> object:
        found = find_garbage(three.store, keep)
        claim(three.store, "new", lease=Lease(), clock=FakeClock(), tell=print)
        return found

    monkeypatch.setattr("orchestrator.runs.garbage.find_garbage", find)
    before = three.store.list("artifacts")
    with pytest.raises(RunOwnedError, match="new"):
        remove_garbage(three.store, Keep(last=0))
    assert three.store.list("artifacts") == before
