"""Show which step of a run takes what from which, and where each stands."""

import argparse
from pathlib import Path

from rich.text import Text
from rich.tree import Tree

from orchestrator.commands.arguments import add_run, run_of
from orchestrator.commands.output import check_writable, console_for, print_json
from orchestrator.durable import read_status
from orchestrator.report.graph import Node, read_graph
from orchestrator.report.graph_chart import STYLE, graph_svg


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_run(parser)
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw it into this file as well")


def execute(args: argparse.Namespace) -> int:
    """Draw a tree: a step stands below the last of its inputs, and names the others."""
    store, run_id = run_of(args)
    status = read_status(store, run_id)
    nodes = read_graph(store, run_id)
    if args.svg is not None:
        check_writable(args.svg)
        args.svg.write_text(graph_svg(nodes, style=STYLE.read_text()), encoding="utf-8")
    if args.json:
        print_json(
            [
                {"step": n.name, "inputs": n.inputs, "state": n.state, "seconds": n.seconds}
                for n in nodes
            ]
        )
        return 0
    tree = Tree(f"{run_id}: {status.state}", highlight=False)
    branches = {"": tree}
    for node in nodes:
        above = branches.get(node.inputs[-1] if node.inputs else "", tree)
        branches[node.name] = above.add(_text(node))
    console_for(args).print(tree)
    return 0


def _text(node: Node) -> Text:
    others = f" (with {', '.join(node.inputs[:-1])})" if len(node.inputs) > 1 else ""
    return Text(f"{node.name}: {node.state}{others}")
