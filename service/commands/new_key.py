"""`python -m service new-key`: creates an API key and its line for the keys file."""

import argparse
import sys

from pydantic import ValidationError

from service.api.auth.keys import new_key

HELP = "create an API key and print its line for CARRY_API_KEYS_FILE"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tenant", required=True, help="the tenant whose sessions it can access")
    parser.add_argument(
        "--admin", action="store_true", help="give it the role admin instead of user"
    )


def run(arguments: argparse.Namespace) -> int:
    try:
        key, key_id, entry = new_key(arguments.tenant, is_admin=arguments.admin)
    except ValidationError:
        sys.exit(
            "carry: expected as --tenant 1 to 64 letters, digits or . _ ~ -, found"
            f" {arguments.tenant!r}"
        )
    line = ", ".join(f'{name} = "{getattr(entry, name)}"' for name in ("tenant", "role", "sha256"))
    sys.stdout.write(
        "# The key, shown only once. Clients send it as  Authorization: Bearer KEY\n"
        f"{key}\n"
        "# The line for the TOML file at CARRY_API_KEYS_FILE\n"
        f"{key_id} = {{ {line} }}\n"
    )
    return 0
