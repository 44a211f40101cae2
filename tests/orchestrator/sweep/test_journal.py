from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.durable import Store, open_store
from orchestrator.sweep.journal import Journal
from tests.orchestrator.sweep.examples import RATIO, figures, finished, trial


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path))


def test_what_was_begun_and_ended_is_there_for_the_next_search(store: Store) -> None:
    journal = Journal(store, "sweep")
    journal.begin(trial(0, {RATIO: 0.5}, predicted={"tflops": 0.7}))
    journal.begin(trial(1, {RATIO: 0.6}))
    done = replace(journal.trials[0], state="finished", figures=figures(0.9, 0.7), seconds=3.0)
    journal.end(done)
    again = Journal(store, "sweep").trials
    assert again[0] == done
    assert again[1].state == "running"


def test_a_trial_ends_once(store: Store) -> None:
    journal = Journal(store, "sweep")
    journal.begin(trial(0, {RATIO: 0.5}))
    journal.end(finished(0, 0.5, 0.9, 0.7))
    journal.end(finished(0, 0.5, 0.1, 0.7))
    assert Journal(store, "sweep").trials[0].figures["accuracy"] == 0.9


def test_a_trial_that_failed_is_tried_again_by_the_next_search(store: Store) -> None:
    journal = Journal(store, "sweep")
    journal.begin(trial(0, {RATIO: 0.5}))
    journal.end(trial(0, {RATIO: 0.5}, state="failed", reason="broken"))
    assert journal.trials[0].state == "failed"
    assert Journal(store, "sweep").trials[0].state == "running"


def test_sweeps_do_not_see_each_others_trials(store: Store) -> None:
    Journal(store, "one").begin(trial(0, {RATIO: 0.5}))
    assert Journal(store, "other").trials == []
