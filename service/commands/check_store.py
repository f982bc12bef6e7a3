"""`python -m service check-store URL`: checks the file of a session store for damage."""

import argparse
import sys

from service.stores.sqlite.check import check_file, path_of

HELP = "read every page and record of a session store and list damage; exits 1 if there is any"

_REMEDY = """\
A damaged record affects only its own session, which must be opened again. Replace a damaged file by
a backup (python -m service backup) while the service is stopped.
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
