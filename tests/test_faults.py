from sd_space.faults import described


def test_the_place_and_the_cause_are_told_and_no_message():
    try:
        try:
            raise ValueError("a prompt")
        except ValueError as cause:
            raise RuntimeError("a path") from cause
    except RuntimeError as error:
        told = described(error)
    assert told.splitlines()[-1] == "ValueError" and "RuntimeError\ncaused by:" in told
    assert "test_faults.py" in told
