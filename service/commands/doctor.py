"""`python -m service doctor`: what would keep this service from starting, or from its promises."""

import argparse
import sys
import textwrap

from service.diagnosis import Finding, diagnose
from service.errors import StartUpError
from service.settings import load_settings
from service.telemetry.logs import configure_logs

HELP = "check settings, store, models, keys and machine; exit 1 where something must be mended"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None: it looks at what `python -m service` would use."""


def run(_: argparse.Namespace) -> int:
    configure_logs("error", "text")  # what they would say is in the table
    try:
        settings = load_settings()
        findings = [Finding("ok", "settings", "all are known and fit"), *diagnose(settings)]
    except StartUpError as error:
        findings = [Finding("fail", "settings", str(error), "unset or correct it")]
    width = max(len(finding.what) for finding in findings)
    for finding in findings:
        sys.stdout.write(f"{finding.status:<5} {finding.what:<{width}}  {finding.found}\n")
        if finding.remedy:
            indent = " " * (width + 8)
            told = textwrap.fill(
                f"→ {finding.remedy}", 100, initial_indent=indent, subsequent_indent=indent + "  "
            )
            sys.stdout.write(told + "\n")
    failed = sum(finding.status == "fail" for finding in findings)
    sys.stdout.write(f"{failed} to mend\n" if failed else "nothing to mend\n")
    return int(failed > 0)
