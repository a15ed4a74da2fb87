"""Servers for the attempts, and the summary line at the end of the run."""

import pytest

from .rig import Rigs
from .scoreboard import Score
from .visitor import Visitor

_score = Score()


def pytest_runtest_logreport(report):
    if "reliability" not in report.nodeid:
        return
    # A failure to set up counts, and so does one to take down; "call" alone says that an attempt was made.
    _score.record(report.nodeid, report.passed, report.when == "call")
    for family, figure in report.user_properties if report.when == "teardown" else ():
        _score.figures.setdefault(family, []).append(figure)


def pytest_terminal_summary(terminalreporter):
    if line := _score.line():
        terminalreporter.section("scoreboard")
        terminalreporter.line(line)


@pytest.fixture(scope="session")
def rigs(tmp_path_factory, model_folder):
    rigs = Rigs(tmp_path_factory.mktemp("rigs"), model_folder)
    yield rigs
    rigs.close()


@pytest.fixture(scope="session")
def rig(rigs):
    """One server for all attempts that leave it as it was."""
    return rigs.start()


@pytest.fixture(scope="session")
def visitor(rig):
    visitor = Visitor(rig.url)
    yield visitor
    visitor.close()


@pytest.fixture(scope="session")
def token(visitor) -> str:
    return visitor.token()
