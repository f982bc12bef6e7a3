"""`python -m service backup URL TARGET`: copies the session store consistently, under load too."""

import argparse
import sys
from pathlib import Path

from service.stores.sqlite.backup import back_up
from service.stores.sqlite.check import path_of

HELP = "copy the file of a session store while it is in use, and check the copy"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("url", help="the store, such as sqlite:///var/carry.db")
    parser.add_argument("target", type=Path, help="the copy; must not exist yet")


def run(arguments: argparse.Namespace) -> int:
    checked = back_up(path_of(arguments.url), arguments.target)
    sys.stdout.write(f"{arguments.target}: {checked.num_sessions} sessions, checked\n")
    return 0
