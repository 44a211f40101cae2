import io
import subprocess
import sys
from typing import Any

import pytest
from rich.console import Console

from orchestrator.report import print_summary, summarize
from orchestrator.report.summary import Row, shown, shown_change

Documents = dict[str, Any]


def test_both_twins_stand_side_by_side(documents: Documents) -> None:
    summary = summarize(documents)
    accuracy = summary.row("accuracy")
    assert (accuracy.dense, accuracy.mod) == (0.92, 0.905)
    assert accuracy.change == pytest.approx(-0.015)
    assert summary.row("skip_all_measured").mod == 0.34
    assert summary.row("tflops_counted").change == 0.5
    assert summary.row("kv_bytes_closed").change == 0.5
    assert (summary.layers, summary.mod_layers) == (3, (1, 2))


def test_time_ratios_are_those_of_pairs_not_of_absolute_times(documents: Documents) -> None:
    row = summarize(documents).row("prefill_s")
    assert row.change == pytest.approx(0.8)
    assert (row.dense, row.mod) == pytest.approx((0.1, 0.08))


def test_what_was_not_measured_has_no_row(documents: Documents) -> None:
    summary = summarize({"dense": documents["dense"], "mod": documents["dense"]})
    assert [row.key for row in summary.rows] == ["accuracy"]
    assert summary.row("prefill_s").change is None
    assert summary.mod_layers == ()


def test_a_tracker_gets_every_value_by_name(documents: Documents) -> None:
    figures = summarize(documents).figures
    assert figures["accuracy/mod"] == 0.905
    assert figures["tflops_counted/change"] == 0.5
    assert figures["skip_layer_2/image"] == 0.5


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.341, "share", "34.1 %"),
        (8.13e-5, "tflops", "81.3 MFLOPs"),
        (21.0, "tflops", "21.0 TFLOPs"),
        (353_000.0, "bytes", "353 kB"),
        (0.0251, "seconds", "25.1 ms"),
        (0.0, "bytes", "0 B"),
        (None, "share", ""),
    ],
)
def test_values_are_shown_with_a_fitting_unit(value: float | None, unit: Any, text: str) -> None:
    assert shown(value, unit).replace("\N{NO-BREAK SPACE}", " ") == text


def test_shares_change_by_points_and_costs_by_a_factor() -> None:
    share = Row(key="a", label="a", unit="share", dense=0.9, mod=0.88)
    cost = Row(key="b", label="b", unit="bytes", dense=200.0, mod=150.0)
    assert shown_change(share) == "\N{MINUS SIGN}2.0 points"
    assert shown_change(cost).endswith("0.75")
    assert shown_change(Row(key="c", label="c", unit="bytes", mod=1.0)) == ""


def test_the_table_on_a_terminal_has_the_skip_of_every_layer(documents: Documents) -> None:
    console = Console(file=io.StringIO(), width=120)
    print_summary(summarize(documents), console)
    text = console.file.getvalue().replace("\N{NO-BREAK SPACE}", " ")  # type: ignore[attr-defined]
    assert all(piece in text for piece in ("92.0 %", "90.5 %", "40.0 %", "models:/digits-mod/3"))


def test_what_the_promotion_rule_said_is_one_line(documents: Documents) -> None:
    assert summarize(documents).promotion == ""
    decision = {"verdict": "refused", "reason": "dense twin: saves 1 % of the FLOPs"}
    summary = summarize({**documents, "decision": decision})
    console = Console(file=io.StringIO(), width=120)
    print_summary(summary, console)
    told = console.file.getvalue()  # type: ignore[attr-defined]
    assert "refused: dense twin: saves 1 % of the FLOPs\n" in told
    assert summary.to_json()["decision"] == decision


def test_a_summary_costs_no_heavy_import() -> None:
    code = (
        "import sys, orchestrator.report;"
        "print([m for m in ('torch', 'mlflow', 'ray') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
