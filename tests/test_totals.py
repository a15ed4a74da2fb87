from sd_space.backends.totals import UNetCallTotals


def test_the_counts_of_all_engines_are_summed():
    totals = UNetCallTotals()
    totals.update("a", {1: (10, 1.0), 4: (5, 2.0)})
    totals.update("b", {1: (1, 0.5)})
    assert totals.total() == {1: (11, 1.5), 4: (5, 2.0)}


def test_a_counter_does_not_fall_when_an_engine_is_lost_and_replaced():
    """Prometheus takes a smaller number for a restart and would count what is left once more."""
    totals = UNetCallTotals()
    totals.update("a", {1: (10, 1.0)})
    totals.update("b", {1: (20, 2.0)})
    totals.update("b", {1: (21, 2.1)})  # "a" answers no more
    assert totals.total() == {1: (31, 3.1)}
    totals.update("c", {1: (1, 0.1)})
    assert totals.total()[1][0] == 32
    totals.update("c", {})  # it is lost, and its process says nothing more
    assert totals.total()[1][0] == 32
