"""`python -m service doctor`: finds what prevents a start, or breaks a guarantee."""

import argparse
import sys
import textwrap

from service.diagnosis import Finding, diagnose
from service.errors import StartUpError
from service.settings import load_settings
from service.telemetry.logs import configure_logs

HELP = "check settings, store, models, keys and machine; exits 1 if it finds a failure"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None: it checks what `python -m service` would use."""


def run(_: argparse.Namespace) -> int:
    configure_logs("error", "text")  # the table has the same information
    try:
        settings = load_settings()
        findings = [Finding("ok", "settings", "all are valid"), *diagnose(settings)]
    except StartUpError as error:
        findings = [Finding("fail", "settings", str(error), "unset or correct it")]
    width = max(len(finding.what) for finding in findings)
    for finding in findings:
        sys.stdout.write(f"{finding.status:<5} {finding.what:<{width}}  {finding.found}\n")
        if finding.remedy:
            indent = " " * (width + 8)
            remedy = textwrap.fill(
                f"→ {finding.remedy}", 100, initial_indent=indent, subsequent_indent=indent + "  "
            )
            sys.stdout.write(remedy + "\n")
    failed = sum(finding.status == "fail" for finding in findings)
    sys.stdout.write(f"{failed} failed\n" if failed else "no failures\n")
    return int(failed > 0)
