"""Bodies that come packed although they were asked for plain (PROTOCOL row 75)."""

import zlib
from typing import Any

from attrs import field

from claudeproxy.model.kinds import define

#: What can be undone here. Everything else must be refused by name.
KNOWN = frozenset({"", "identity", "gzip", "x-gzip", "deflate"})
#: No text begins with this byte, every gzip file does.
_GZIP = 0x1F
_EITHER_HEADER = 32 + zlib.MAX_WBITS


class BadlyPacked(ValueError):
    """The bytes are not packed as they should be."""


@define
class Unpacker:
    """Undoes gzip and deflate, named or not, piece by piece."""

    #: The body says that it is packed.
    named: bool
    _inflate: Any = field(default=None, init=False)
    _begun: bool = field(default=False, init=False)

    @property
    def idle(self) -> bool:
        """Whether the body has begun, and is plain: nothing will ever be undone."""
        return self._begun and self._inflate is None

    def receive(self, data: bytes) -> bytes:
        """The plain bytes. Raises `BadlyPacked`."""
        if not self._begun and data:
            self._begun = True
            if self.named or data[0] == _GZIP:
                self._inflate = zlib.decompressobj(_EITHER_HEADER)
        if self._inflate is None:
            return data
        try:
            plain: bytes = self._inflate.decompress(data)
        except zlib.error as fault:
            raise BadlyPacked(str(fault)) from None
        return plain
