"""The errors of this room."""


class DictionaryError(ValueError):
    """A dictionary, its cards or a name could not be used; the message says what to do about it."""


class Closed(DictionaryError):
    """Whoever opened it has closed it, in another thread; nothing is wrong with the file."""
