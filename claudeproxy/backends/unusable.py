"""Files that the settings name and that are of no use: what those who make backends have to know of them."""


class UnusableModel(Exception):
    """The embedded model cannot be served as configured; the message says why and what to do.

    ``setting`` is the backend's setting that is at fault, if one is.
    """

    def __init__(self, message: str, setting: str = "") -> None:
        super().__init__(message)
        self.setting = setting


class BadTokenizer(ValueError):
    """A tokenizer file that cannot be used; the message names the setting, or what to install."""
