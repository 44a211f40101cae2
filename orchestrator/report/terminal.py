"""A summary on a terminal."""

from rich.console import Console
from rich.table import Table

from orchestrator.report.summary import Summary, shown, shown_change


def print_summary(summary: Summary, console: Console) -> None:
    """Print the twins side by side, then the skipped share by layer and token kind."""
    table = Table("", "dense", "MoD", "change", title="Dense twin and Mixture-of-Depths model")
    for column in table.columns[1:]:
        column.justify = "right"
    for row in summary.rows:
        values = (shown(row.dense, row.unit), shown(row.mod, row.unit), shown_change(row))
        table.add_row(row.label, *values)
    console.print(table)
    if summary.skip_per_layer:
        console.print(_skips(summary))
    if summary.registration is not None:
        text = f"registered as {summary.registration['uri']}"
        console.print(text, highlight=False, markup=False)
    if summary.promotion:
        console.print(summary.promotion, highlight=False, markup=False)


def _skips(summary: Summary) -> Table:
    kinds = list(dict.fromkeys(k for shares in summary.skip_per_layer.values() for k in shares))
    table = Table("MoD layer", *kinds, title="Measured skip by token kind")
    for column in table.columns:
        column.justify = "right"
    for layer, shares in sorted(summary.skip_per_layer.items()):
        table.add_row(str(layer), *(shown(shares.get(kind), "share") for kind in kinds))
    return table
