"""The errors that people read: one sentence each, with what to do about it.

    SpaceError                 a sentence that may be shown to the visitor
    |- InvalidRequest          names the field, the value and the allowed range
    |- LicenceNotAccepted      says how to accept
    |- QueueFull               says when to come back
    |- TooManyWatchers         says how many windows may show one run
    |- Cancelled               the visitor (or nobody, after leaving) stopped the run
    |- SafetyCheckFailed       the checker could not do its work: nothing is shown
    |- EngineFailed            a step failed; the request is over, the engine goes on
    |- ModelUnavailable        the model could not be loaded; `operator_hint` names the fix
    CannotStart                for the operator: something around the process keeps the Space from starting
    |- InvalidSetting          names the variable, the value and what it takes

All are picklable: they travel to and from other processes.
"""


class SpaceError(Exception):
    """A failure in one sentence that may be shown to a visitor: it holds no prompt, token or path."""

    @property
    def message(self) -> str:
        """The sentence; a `languages.Phrase` where the page can say it in other languages."""
        sentence: str = self.args[0] if self.args else ""
        return sentence


class InvalidRequest(SpaceError):
    """A value is out of range or of the wrong type. `field` names it."""

    def __init__(self, field: str, message: str):
        super().__init__(field, message)
        self.field = field

    @property
    def message(self) -> str:
        sentence: str = self.args[1]
        return sentence

    def __str__(self) -> str:
        return self.message


class LicenceNotAccepted(SpaceError):
    """No valid acceptance token came with the request."""


class QueueFull(SpaceError):
    """As many requests wait as the settings allow."""


class TooManyWatchers(SpaceError):
    """As many pages follow this run already as may."""


class Cancelled(SpaceError):
    """The request was cancelled before all of its pictures were finished."""


class _AtStart(SpaceError):
    """What keeps a Space from starting. `operator_hint` is for the log and the doctor, not for visitors."""

    def __init__(self, message: str, operator_hint: str = ""):
        super().__init__(message, operator_hint)
        self.operator_hint = operator_hint or message

    def __str__(self) -> str:
        return self.message


class SafetyCheckFailed(_AtStart):
    """The safety checker is missing, incomplete or failed its self-test: no picture may leave."""


class EngineFailed(SpaceError):
    """The request could not be finished; other requests are untouched."""


class ModelUnavailable(_AtStart):
    """The model cannot be loaded; `operator_hint` names the fix."""


class CannotStart(Exception):
    """Something around this process keeps the Space from starting; the sentence, for its operator, names the fix."""


class InvalidSetting(CannotStart, ValueError):
    """A setting has a value that it cannot have; the sentence names the variable, the value and what it takes."""
