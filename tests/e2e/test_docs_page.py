"""The page that `make serve` points to, in a real browser without a network."""

import subprocess

from tests.e2e.server import running_server
from tests.fakes.bundles import write_classifier
from tests.system import require_program

QUIET = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def test_the_documentation_renders_every_operation(tmp_path):
    browser = require_program("chromium", "chromium")
    write_classifier(tmp_path / "models")
    with running_server(tmp_path, models=tmp_path / "models", store="memory://") as server:
        command = [
            browser,
            *QUIET,
            f"--user-data-dir={tmp_path}/profile",
            "--virtual-time-budget=20000",
            "--dump-dom",
            server.url + "/",
        ]
        page = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    for text in ("/v1/sessions/{session}/<wbr>steps", "Open a session", "Predict with the default"):
        assert text.replace("<wbr>", "") in page.stdout.replace("<wbr>", ""), text
