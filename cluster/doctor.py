"""Tell what this machine, and a cluster, can do, what is missing and how to get it."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from cluster.checks import Finding, Level, check_cluster, check_machine
from cluster.errors import ExitCode


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``gammaray doctor``."""
    parser.add_argument("--address", metavar="URL", help="a Ray cluster: http://HEAD:8265")
    parser.add_argument(
        "--store",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="where runs would keep artifacts (default: here)",
    )
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def execute(args: argparse.Namespace) -> int:
    """Check, print, and fail if something that every run needs is missing."""
    findings = list(check_machine(args.store.absolute()))
    if args.address is not None:
        findings.append(check_cluster(args.address, args.environment))
    is_healthy = all(finding.level is not Level.FAIL for finding in findings)
    if args.json:
        report = {"healthy": is_healthy, "findings": [asdict(finding) for finding in findings]}
        sys.stdout.write(json.dumps(report) + "\n")
    else:
        sys.stdout.write(_table(findings))
    return ExitCode.DONE if is_healthy else ExitCode.FAILED


def _table(findings: Sequence[Finding]) -> str:
    width = max(len(finding.check) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{finding.level:4}  {finding.check:{width}}  {finding.found}")
        if finding.fix:
            lines.append(f"{'':4}  {'':{width}}  -> {finding.fix}")
    return "\n".join(lines) + "\n"
