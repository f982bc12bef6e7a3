"""NVIDIA's perf_analyzer against `/v2` of the real service, with sequences; its report is kept.

    python -m tests.benchmarks.perf_analyzer PATH/TO/perf_analyzer

The program lies in the wheel of tritonclient 2.50.0 (later ones lack it); it needs libb64
(`apt-get install libb64-0d`) and libcudart.so.12 (in the wheel of nvidia-cuda-runtime-cu12, with
its folder in LD_LIBRARY_PATH), but no GPU. Writes `perf_analyzer.csv` beside this file, and under
it the command.
"""
