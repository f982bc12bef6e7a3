"""What holds for every test: when a skip is a failure, and how long hypothesis may take.

With REQUIRE_ALL=1, as CI sets it, a skipped test is a failed test. A skip is fit for a developer's
machine that lacks a program; where everything is meant to be present, it would only hide that
something was not tested.
"""

import os
from collections.abc import Generator

import pytest
from hypothesis import HealthCheck, settings

REQUIRE_ALL = os.environ.get("REQUIRE_ALL", "") == "1"

# A machine that stalls for a moment is no failure; a test that hangs has pytest's own limit.
settings.register_profile("carry", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("carry")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if not hasattr(report, "wasxfail"):  # pytest reports an expected failure as skipped too
        _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _refuse_skip(report)
    return report


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if REQUIRE_ALL and report.skipped:
        reason = report.longrepr[-1] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"REQUIRE_ALL=1 asks for every test, but this one was not run: {reason}"
