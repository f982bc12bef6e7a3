"""`python -m service new-key`: a key to hand out, and the line of the keys file that knows it."""

import argparse
import sys

from pydantic import ValidationError

from service.api.auth.keys import new_key

HELP = "make an API key and print the line for CARRY_API_KEYS_FILE"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tenant", required=True, help="whose sessions it may see")
    parser.add_argument("--admin", action="store_true", help="role admin in place of user")


def run(arguments: argparse.Namespace) -> int:
    try:
        key, key_id, entry = new_key(arguments.tenant, is_admin=arguments.admin)
    except ValidationError:
        sys.exit(
            f"carry: --tenant is {arguments.tenant!r}: expected 1 to 64 letters, digits or . _ ~ -"
        )
    line = ", ".join(f'{name} = "{getattr(entry, name)}"' for name in ("tenant", "role", "sha256"))
    sys.stdout.write(
        "# The key. It is shown this once; clients send it as  Authorization: Bearer KEY\n"
        f"{key}\n"
        "# The line to add to the file that CARRY_API_KEYS_FILE names (TOML)\n"
        f"{key_id} = {{ {line} }}\n"
    )
    return 0
