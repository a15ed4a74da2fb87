"""What the log says of an unexpected error: its type and its place, never its message, which may quote a prompt."""

import traceback


def described(error: BaseException) -> str:
    """The error's type and the calls that led to it, outermost first, and the same of what caused it."""
    parts = []
    current: BaseException | None = error
    while current is not None:
        parts.append(f"{''.join(traceback.format_tb(current.__traceback__))}{type(current).__name__}")
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return "\ncaused by:\n".join(parts)
