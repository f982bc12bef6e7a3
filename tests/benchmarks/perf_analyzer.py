"""NVIDIA's perf_analyzer against `/v2` of the real service, with sequences; its report is kept.

    python -m tests.benchmarks.perf_analyzer PATH/TO/perf_analyzer

The program lies in the wheel of tritonclient 2.50.0, in `data/bin` (later ones lack it). It needs
libb64 (`apt-get install libb64-0d`) and libcudart.so.12 (in the wheel of nvidia-cuda-runtime-cu12;
its folder in LD_LIBRARY_PATH), but no GPU. Writes `perf_analyzer.csv` and, with the command, what
it said into `perf_analyzer.txt` beside this file.
"""

import argparse
import re
import subprocess
import tempfile
from pathlib import Path

from tests.benchmarks.bundle import NAME, F, write_bench_bundle
from tests.e2e.server import running_server

HERE = Path(__file__).parent
CONCURRENCIES = "1:9:4"
SEQUENCE_STEPS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("binary", type=Path)
    parser.add_argument("--window-ms", type=int, default=3000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="carry-bench-") as name:
        folder = Path(name)
        write_bench_bundle(folder / "models")
        with running_server(folder, models=folder / "models", store="memory://") as server:
            options = [
                "-m", NAME, "-i", "http", "-u", f"127.0.0.1:{server.port}",
                "--shape", f"x:1,{F}", "--sequence-length", str(SEQUENCE_STEPS),
                "--concurrency-range", CONCURRENCIES, "--stability-percentage", "50",
                "--measurement-interval", str(asked.window_ms),
                "-f", str(HERE / "perf_analyzer.csv"),
            ]  # fmt: skip
            run = subprocess.run(
                [asked.binary, *options], capture_output=True, text=True, timeout=600, check=False
            )
    shown = " ".join(options[: options.index("-f")]).replace(str(server.port), "PORT")
    said = re.sub(r"[ \t]+$", "", run.stdout, flags=re.MULTILINE).strip()
    (HERE / "perf_analyzer.txt").write_text(f"$ perf_analyzer {shown}\n\n{said}\n")
    print(said, run.stderr)
    assert run.returncode == 0, run.returncode


if __name__ == "__main__":
    main()
