"""What each visitor has begun last on one part of the page.

Gradio loads a page anew when its connection fails: it may not have heard of the runs that it has begun.
"""

from sd_space.serving.runs import Run, Runs


class LastBegun:
    """Belongs to the server's event loop, as `Runs` does, and shows what that knows still."""

    def __init__(self, runs: Runs):
        self._runs = runs
        self._begun: dict[str, list[Run]] = {}  # by visitor; who has begun last is last

    def note(self, begun: list[Run]) -> None:
        """`begun` may grow, and is noted again then."""
        visitor = begun[0].admitted.visitor
        self._begun.pop(visitor, None)
        self._begun[visitor] = begun
        while not self.of(oldest := next(iter(self._begun))):
            self.forget(oldest)

    def of(self, visitor: str | None) -> list[Run]:
        return [
            run for run in self._begun.get(visitor or "", ()) if self._runs.get(run.request_id, run.admitted.visitor)
        ]

    def forget(self, visitor: str) -> None:
        self._begun.pop(visitor, None)
