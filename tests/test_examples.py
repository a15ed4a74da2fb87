"""The examples that are commands, as far as no model is needed; tests/test_api.py calls the client."""

import sys

import pytest

from examples.generate import main, progress_line


def show_steps(show) -> None:
    for step in range(1, 51):
        show(f"step {step} of 50")
    show("")


def test_a_pipe_gets_one_line_of_progress(capsys):
    show_steps(progress_line())
    assert capsys.readouterr().err == "drawing…\n"


def test_a_terminal_gets_one_line_that_is_written_over_and_blank_at_the_end(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    show_steps(progress_line())
    shown = capsys.readouterr().err
    assert "\n" not in shown and "step 50 of 50" in shown
    assert shown.split("\r")[-2].strip() == ""


def test_a_picture_that_cannot_be_read_is_said_before_anything_starts(capsys):
    with pytest.raises(SystemExit):
        main(["a cabin", "--init-image", "/no/such/file.png"])
    assert "/no/such/file.png cannot be read: No such file" in capsys.readouterr().err
