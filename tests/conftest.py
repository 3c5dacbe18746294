"""In the full environment nothing may be missing: --full turns skips into failures, but for those
of reference data that is not on this machine, of Ray, which is large, and of the page, which takes
npm and Chromium (.ci/run has them)."""

from collections.abc import Generator

import pytest

ALLOWED = (
    "no reference data", "Ray is not installed", "the page is not built",
    "Chromium is not installed",
)  # fmt: skip


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="a skip for a missing package fails")


def forbid_skip(
    report: pytest.TestReport | pytest.CollectReport, full: bool
) -> pytest.TestReport | pytest.CollectReport:
    if full and report.skipped and not any(words in str(report.longrepr) for words in ALLOWED):
        report.outcome, report.longrepr = "failed", f"skipped in the full job: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return forbid_skip((yield), item.config.getoption("--full"))  # type: ignore[return-value]


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return forbid_skip((yield), collector.config.getoption("--full"))  # type: ignore[return-value]
