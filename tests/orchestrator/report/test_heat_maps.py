from orchestrator.report.heat_maps import rank_maps

PROFILE = {
    "per_head": [[10.0, 12.0], [8.0, 8.0]],
    "per_task": {"count": [11.0, 8.0], "place": [10.0, 8.5]},
}
CORRELATIONS = {"count": {"place": 0.9}, "place": {"count": 0.9}}


def test_there_is_a_map_by_head_by_task_and_of_tasks() -> None:
    titles = [found.title for found in rank_maps({**PROFILE, "task_correlations": CORRELATIONS})]
    assert titles == [
        "Mean rank by head",
        "Mean rank by task",
        "Correlation of the layer orders of two tasks",
    ]


def test_a_profile_of_an_earlier_version_has_the_maps_that_it_can() -> None:
    titles = [found.title for found in rank_maps(PROFILE)]
    assert titles == ["Mean rank by head", "Mean rank by task"]


def test_a_profile_of_one_task_compares_none() -> None:
    one = {"per_head": PROFILE["per_head"], "per_task": {}, "task_correlations": {}}
    assert [found.title for found in rank_maps(one)] == ["Mean rank by head"]
