"""``python -m claudeproxy why``: what the flight recorder of a running daemon knows of a request, in sentences."""

from typing import Any, ClassVar, TextIO
from urllib.parse import quote

from twisted.python.usage import UsageError

from claudeproxy.routing.sources import SettingsError
from claudeproxy.service.asking import (
    KEY_VARIABLE,
    Daemon,
    NetworkCommand,
    NoAnswer,
    address_of,
    here,
    write_json,
    write_lines,
)
from claudeproxy.service.commands import DONE, FAILED, MISUSED
from claudeproxy.service.explaining import explained, listed
from claudeproxy.service.reading import Unreadable


class Command(NetworkCommand):
    """Asks the daemon that the settings describe, or the one at ``--url``."""

    synopsis = "[options] [REQUEST_ID]"
    longdesc = (
        "The id is the one of the log and of the answer's header request-id. The daemon must run, and have kept it: "
        "it keeps the last ones, as many as recorder_size says."
    )
    optParameters: ClassVar[list[list[Any]]] = [
        ["url", "u", None, "The daemon's address, or unix: and the path of its socket; else the settings tell it."],
        ["key", "k", None, f"An admin key, for a daemon on another machine; better in {KEY_VARIABLE}."],
        ["limit", None, "20", "How many are listed."],
    ]
    optFlags: ClassVar[list[list[Any]]] = [
        ["last", "l", "The newest request that asked for a model."],
        ["list", None, "The last requests, one a line."],
    ]

    request_id = ""

    def parseArgs(self, *ids: str) -> None:
        if len(ids) > 1:
            raise UsageError("why: one request at a time")
        self.request_id = "".join(ids)

    def postOptions(self) -> None:
        if bool(self.request_id) + self["last"] + self["list"] != 1:
            raise UsageError("why: expected the id of a request, --last or --list")

    async def act(self, reactor: Any, out: TextIO, err: TextIO) -> int:
        environ, folder = here()
        try:
            key = self["key"] or environ.get(KEY_VARIABLE, "")
            url = self["url"]
            if url is None:
                url = address_of(self.read(environ, folder).settings, operators=True)
            daemon = Daemon.at(url, key, reactor)
            try:
                found = await daemon.get(self._path)
            finally:
                await daemon.close()
            lines = self._rendered(url, found)
        except (SettingsError, Unreadable) as fault:
            return self.fails(fault, MISUSED, out, err)
        except NoAnswer as fault:
            return self.fails(fault, FAILED, out, err)
        if self["json"]:
            write_json(out, found)
        else:
            write_lines(out, lines)
        return DONE

    def _rendered(self, url: str, found: Any) -> list[str]:
        try:
            return list(listed(found["data"]) if self["list"] else explained(found))
        except (LookupError, TypeError, AttributeError, ValueError):
            raise NoAnswer(f"what answers at {url} is no claudeproxy; name another address with --url", 200) from None

    @property
    def _path(self) -> str:
        if self["list"]:
            return f"/admin/requests?limit={quote(self['limit'], safe='')}"
        return "/admin/requests/" + quote("last" if self["last"] else self.request_id, safe="")
