"""`docs/settings.md`, made from the definition of the settings.

python -m tests.architecture.settings_page     prints the page; `make settings` writes it
"""

from service.settings import PREFIX, Settings

_INTRODUCTION = """\
# Settings

Settings are environment variables. `python -m service --help` prints the same list. An invalid
value or an unknown name stops the start, with a message that names it. This page is written by
`make settings` from `service/settings.py`; do not edit it by hand.

[deploy/stores.md](../deploy/stores.md) describes what each store keeps in each failure,
[operations.md](operations.md#api-keys) the file of API keys.

| setting | default | |
|---|---|---|
"""


def settings_page() -> str:
    """The page as it should be committed."""
    rows = [
        [f"`{(PREFIX + name).upper()}`", _shown(field.default), _escaped(field.description)]
        for name, field in Settings.model_fields.items()
    ]
    return _INTRODUCTION + "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _shown(default: object) -> str:
    if default is None:
        return "unset"
    if default == "":
        return "empty"
    return f"`{default:.15g}`" if isinstance(default, float) else f"`{default}`"


def _escaped(text: str | None) -> str:
    return (text or "").replace("|", "\\|")


if __name__ == "__main__":
    print(settings_page(), end="")
