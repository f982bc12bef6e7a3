"""`python -m service check-store URL`: is the file of a session store whole?"""

import argparse
import sys

from service.stores.sqlite.check import check_file, path_of

HELP = "read every page and record of a session store and say what is damaged; exits 1 if any is"

_REMEDY = """\
A damaged record fails alone: its session must be opened again. A damaged file should be replaced by
a backup (python -m service backup), with the service stopped.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("url", help="the store, such as sqlite:///var/carry.db")


def run(arguments: argparse.Namespace) -> int:
    path = path_of(arguments.url)
    num_sessions, problems = check_file(path)
    for problem in problems:
        sys.stdout.write(f"{problem}\n")
    found = f"{len(problems)} problems" if problems else "whole"
    sys.stdout.write(f"{path}: {num_sessions} sessions read, {found}\n")
    if problems:
        sys.stdout.write(_REMEDY)
    return 1 if problems else 0
