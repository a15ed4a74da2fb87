"""The tests that need a GPU (`tests/test_gpu.py`), one after the other: which of them hold here, and how long."""

import argparse
from typing import Any

import pytest

from sd_space.model.spec import detect_hardware
from sd_space.tools.bench import harness

COLUMNS = ("test", "outcome", "s", "why")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tests", default="tests/test_gpu.py", help="a file of tests (default: %(default)s)")
    parser.add_argument("-k", dest="expression", default="not mixed", help="pytest's -k (default: %(default)s)")


class Outcomes:
    """Notes each test's outcome as soon as it is known."""

    def __init__(self, options: argparse.Namespace, circumstances: dict[str, Any]):
        self.rows: list[dict[str, Any]] = []
        self._options = options
        self._circumstances = circumstances

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.outcome == "passed":
            return
        crash = getattr(report.longrepr, "reprcrash", None)
        why = str(crash.message).splitlines()[0][:200] if crash else ""
        name = report.nodeid.partition("::")[2]
        self.rows.append({"test": name, "outcome": report.outcome, "s": report.duration, "why": why})
        harness.keep(self._options, {**self._circumstances, "rows": self.rows})


def run(options: argparse.Namespace) -> dict[str, Any]:
    circumstances = harness.machine(detect_hardware().device) | {"tests": options.tests}
    outcomes = Outcomes(options, circumstances)
    # A warning is no failure here: CUDA and its libraries have more of them than the machines that the tests run on.
    arguments = ["-p", "no:cacheprovider", "-W", "default", "-k", options.expression]
    status = pytest.main([str(harness.ROOT / options.tests), *arguments], plugins=[outcomes])
    harness.print_table(COLUMNS, [list(row.values()) for row in outcomes.rows])
    return {**circumstances, "exit_status": int(status), "rows": outcomes.rows}
