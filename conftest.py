"""What holds for every test: which are slow, when a skip is a failure, that nothing stays behind.

A test in a folder called `slow` has the mark `slow`; `make test` leaves these out. With
REQUIRE_ALL=1, as CI sets it, a skipped test is a failed test: a skip is fit for a developer's
machine that lacks a program; where everything is meant to be present, it would only hide that
something was not tested.
"""

import os
import signal
from collections.abc import Generator, Iterator
from types import FrameType

import pytest
from hypothesis import HealthCheck, settings

from tests.leftovers import begin_run, end_run, nothing_left

REQUIRE_ALL = os.environ.get("REQUIRE_ALL", "") == "1"
SLOW = "slow"

# A machine that stalls for a moment is no failure; a test that hangs has pytest's own limit.
ALWAYS = settings(
    deadline=None,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.function_scoped_fixture,  # of stores and folders, which every example resets
    ],
)
settings.register_profile("quick", ALWAYS, max_examples=15, stateful_step_count=25)
settings.register_profile("thorough", ALWAYS, max_examples=100, stateful_step_count=40)
settings.load_profile("quick")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"{SLOW}: in a folder called {SLOW}; not in `make test`")
    begin_run()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if SLOW in item.path.parts:
            item.add_marker(SLOW)


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    with nothing_left():
        yield


class TimedOut(BaseException):
    """A test took longer than pytest-timeout lets it."""


@pytest.hookimpl(wrapper=True)
def pytest_timeout_set_timer() -> Generator[None, bool, bool]:
    is_set = yield
    fail = signal.getsignal(signal.SIGALRM)

    def end_test(signum: int, frame: FrameType | None) -> None:
        assert callable(fail), "set by pytest-timeout, whose method is signal"
        try:
            fail(signum, frame)
        except pytest.fail.Exception as failure:
            raise TimedOut(str(failure)) from None

    signal.signal(signal.SIGALRM, end_test)
    return is_set


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workerinput"):
        return
    if left := end_run():
        reporter = session.config.pluginmanager.getplugin("terminalreporter")
        reporter.write_line(f"\nleft running by the tests, and ended now: {'; '.join(left)}")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


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
