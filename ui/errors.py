"""What the page tells a person who asked for something that cannot be done."""

from __future__ import annotations


class Told(Exception):
    """`str()` is one sentence for the person at the page: what is wrong and what to do."""


class ApiError(Told):
    """The service refused, or did not answer.

    status 0: no answer; 200: an error in the middle of a stream.
    """

    def __init__(self, message: str, *, status: int = 0, code: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class RackError(Told):
    """A rack that cannot be used."""


class SettingsError(Told):
    """Settings that cannot be used."""


class LinkError(Told):
    """A share link that cannot be read."""


class PresetError(Told):
    """A preset that is not there or cannot be made."""
