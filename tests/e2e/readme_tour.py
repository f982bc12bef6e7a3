"""The tour of README.md and docs/sessions.md: its commands and the answers printed under them.

python -m tests.e2e.readme_tour     runs the tour against a server of its own and writes the
                                    answers into both pages

Long answers are shortened: `"…"` ends a list that goes on, and stands for members left out.
"""

import json
import re
import subprocess
import tempfile
from pathlib import Path

from tests.e2e.server import ROOT, running_server

README = ROOT / "README.md"
PAGES = (README, ROOT / "docs/sessions.md")
"""In the order in which they are read: the second page goes on with the sessions of the first."""
LEFT_OUT = "…"
_MOST_MEMBERS = 12
ADDRESS = "http://localhost:8000"
_STOP = re.compile(r"```sh\n(curl .*?)```\n\n```json\n(.*?)```", re.DOTALL)


def tour_stops(text: str) -> list[tuple[str, str]]:
    """Each `curl` command with the JSON that is printed under it."""
    return _STOP.findall(text)


def run_stop(command: str, url: str) -> object:
    """Run one command in a shell, as a reader would, against `url`."""
    run = subprocess.run(
        ["bash", "-ec", command.replace(ADDRESS, url)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return json.loads(run.stdout)


def shortened(value: object) -> object:
    """The answer as it is printed: the start of each long list, and one row of quantiles."""
    if isinstance(value, list):
        kept = [shortened(item) for item in value[: 1 if _has_members(value) else 3]]
        return [*kept, LEFT_OUT] if len(value) > 4 else [shortened(item) for item in value]
    if isinstance(value, dict):
        if len(value) > 1 and "0.9" in value:
            return {"0.9": shortened(value["0.9"]), LEFT_OUT: f"{len(value) - 1} more"}
        members = {key: shortened(item) for key, item in value.items()}
        if len(members) <= _MOST_MEMBERS:
            return members
        return dict([*members.items()][:5]) | {LEFT_OUT: f"{len(members) - 5} more"}
    return value


def _has_members(value: list[object]) -> bool:
    return bool(value) and isinstance(value[0], dict)


def pretty(value: object, indent: str = "") -> str:
    """JSON for people: numbers of one list stay on one line."""
    inner = indent + "  "
    if isinstance(value, dict) and value:
        lines = [
            f"{inner}{json.dumps(key, ensure_ascii=False)}: {pretty(v, inner)}"
            for key, v in value.items()
        ]
        flat = "{" + ", ".join(line.strip() for line in lines) + "}"
        if len(flat) + len(indent) <= 88 and "\n" not in flat:
            return flat
        return "{\n" + ",\n".join(lines) + f"\n{indent}}}"
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return "[\n" + ",\n".join(inner + pretty(v, inner) for v in value) + f"\n{indent}]"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else f"{value:.4g}"
    if isinstance(value, list):
        return "[" + ", ".join(pretty(item) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False)


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        running_server(Path(folder), store=f"sqlite:///{folder}/carry.db") as server,
    ):
        for page in PAGES:
            text = page.read_text(encoding="utf-8")
            for command, printed in tour_stops(text):
                answer = pretty(shortened(run_stop(command, server.url))) + "\n"
                text = text.replace(
                    f"{command}```\n\n```json\n{printed}```",
                    f"{command}```\n\n```json\n{answer}```",
                )
            page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
