"""What Gradio's app offers, as far as the request filter in front of it must know."""

import posixpath
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sd_space.serving.envelope import Endpoints
from sd_space.serving.signed_recordings import SignedRecordings

MAX_PATH_CHARS = 4096  # PATH_MAX of Linux; other systems take less


@dataclass(frozen=True, slots=True)
class AppContract:
    """The app's endpoints, events, files and sessions."""

    endpoints: Endpoints  # the public ones
    tools: Endpoints  # the same for MCP clients, by the tools' names; empty without MCP
    inputs: Mapping[int, Sequence[str]]  # their names, of each event of the page by its number
    files: Collection[Path]  # what may be fetched: files, and folders with all that is in them
    assets: Collection[str]  # the addresses of the parts of Gradio's page
    visitor_of: Callable[[object], str | None]  # whose acceptance a token is; `None` where it is none
    running: Callable[[str], tuple[str, int] | None]  # the session of an event that waits or runs, and its number
    is_alone: Callable[[str], bool]  # whether cancelling that event in Gradio's way ends no other one
    session_of: Callable[[str], str | None]  # the session of an event that runs or whose end is unread
    has_session: Callable[[str], bool]  # whether there is anything to listen to
    evict_idle: Callable[[Collection[str]], None]  # forgets sessions that are over; those with a listener are given
    is_queue_alive: Callable[[], bool]
    body_bytes: Mapping[str | int, int]  # the most of a body, of what takes more than `incoming.MAX_BODY_BYTES`
    draws: Collection[str | int]  # the endpoints and the events' numbers that ask for pictures
    has_login: bool
    title: str
    icon: Path
    link_preview: Path  # one of `files`: what services show with a link to the page
    recordings: SignedRecordings | None = None  # those of `files` that are signed as they are served

    def may_be_fetched(self, name: str) -> bool:
        """Only our results and the page's pictures, by their plain names, whatever else Gradio would serve."""
        if len(name) > MAX_PATH_CHARS or posixpath.normpath(name) != name:
            return False
        path = Path(name)
        if not any(path.parts[: len(root.parts)] == root.parts for root in self.files):
            return False
        try:
            return path.is_file()
        except (OSError, ValueError):  # a name that no file can have
            return False
