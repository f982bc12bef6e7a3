"""A keys file for tests, and the keys that it knows."""

import re

from service.api.auth.keys import new_key


def keys_file(folder, name="keys.toml", **roles):
    """A file with one key for each tenant, and the keys themselves by tenant."""
    lines, keys = [], {}
    for tenant, role in roles.items():
        key, _, entry = new_key(tenant, is_admin=role == "admin")
        keys[tenant] = key
        lines.append(
            f'k-{tenant} = {{ tenant = "{tenant}", role = "{role}", sha256 = "{entry.sha256}" }}\n'
        )
    path = folder / name
    path.write_text("".join(lines))
    return path, keys


def line_of(path, tenant, revoked=False, expires=None):
    """The line of one key, with what is asked added."""
    line = re.search(f"^k-{tenant} .*$", path.read_text(), re.MULTILINE)[0]
    more = ", revoked = true" if revoked else ""
    more += f", expires = {expires.isoformat()}" if expires else ""
    return line.replace(" }", more + " }")


def bearer(key):
    return b"Bearer " + key.encode()


def headers(key):
    return {"Authorization": f"Bearer {key}"}
