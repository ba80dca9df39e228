"""A document as a backend can be told of it: text page by page, pages as pictures (PROTOCOL 4.1, item 10)."""

from collections.abc import Mapping

from claudeproxy.model.kinds import frozen


@frozen
class Paper:
    """A document that was read."""

    #: The text of each page, in the order of the pages; empty for a page without text, such as a scanned one.
    pages: tuple[str, ...]
    #: The first pages as PNG files, page by page; empty if they were not asked for. There may be fewer than ``pages``.
    images: tuple[bytes, ...] = ()
    #: How many pages at the end are beyond the limit and are not in ``pages``.
    left_out: int = 0


@frozen
class Unreadable:
    """A document that cannot be read. ``reason`` goes on after a colon: "it is not a PDF"."""

    reason: str


#: What became of each document of a request, keyed by the base64 text of its block.
Papers = Mapping[str, Paper | Unreadable]
