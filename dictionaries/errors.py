"""The one error of this room."""


class DictionaryError(ValueError):
    """A dictionary, its cards or a name could not be used; the message says what to do about it."""
