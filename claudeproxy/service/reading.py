"""Where settings come from: the file on disk, this process's environment, the command line."""

import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path

from attrs import evolve

from claudeproxy.model.kinds import frozen
from claudeproxy.routing.addresses import Address
from claudeproxy.routing.expectations import Unfit
from claudeproxy.routing.keys import holds_hashes_only
from claudeproxy.routing.settings import Settings
from claudeproxy.routing.sources import SettingsError, Settled, Sources, model_map_path, settle

NO_FILE = "none"


class Unreadable(Exception):
    """A file that was named cannot be read; the text names it."""


@frozen
class Reader:
    """Reads the settings, now and at every reload. Paths are absolute, because a daemon changes its directory."""

    config: Path | None
    folder: Path
    environ: Mapping[str, str]
    options: Mapping[str, str]

    def read(self) -> Settled:
        """The settings as they are just now. Raises `SettingsError` or `Unreadable`."""
        model_map = model_map_path(self.environ, self.options)
        settled = settle(
            Sources(
                config_text=None if self.config is None else _text(self.config, "--config"),
                config_name=str(self.config or "settings file"),
                environ=self.environ,
                options=self.options,
                model_map_text=None if model_map is None else _text(self.folder / model_map, "MODEL_MAP_FILE"),
                read_secrets=self._secrets,
                config_is_open=self.config is not None and is_open(self.config),
            )
        )
        return evolve(settled, settings=self._with_absolute_paths(settled.settings))

    def _absolute(self, path: str) -> str:
        folder = self.folder if self.config is None else self.config.parent
        return str(folder / Path(path).expanduser()) if path else ""

    def _secrets(self, named: str) -> str:
        path = Path(self._absolute(named))
        try:
            text = path.read_text(encoding="utf-8-sig")
            open_to_others = is_open(path)
        except OSError as fault:
            raise Unfit(f"a file that can be read; {path} cannot: {fault.strerror}") from None
        except UnicodeDecodeError:
            raise Unfit(f"UTF-8 text in {path}") from None
        # What is hashed everybody may read, as a daemon with a user of its own must; but nobody else may add to it.
        if open_to_others and not (holds_hashes_only(text) and not path.stat().st_mode & stat.S_IWOTH):
            raise Unfit(f"a file that other users of this machine cannot read: chmod 600 {path}")
        return text

    def _with_absolute_paths(self, settings: Settings) -> Settings:
        absolute = self._absolute
        backends = [
            evolve(
                each,
                gguf=absolute(each.gguf),
                tokenizers=tuple((name, absolute(path)) for name, path in each.tokenizers),
            )
            for each in settings.backends
        ]
        given = settings.state_file
        state_file = given if given == NO_FILE else absolute(given or self._usual_state_file())
        listen, admin_listen = (
            tuple(_moved(each, absolute) for each in several) for several in (settings.listen, settings.admin_listen)
        )
        return evolve(settings, backends=backends, state_file=state_file, listen=listen, admin_listen=admin_listen)

    def _usual_state_file(self) -> str:
        """Systemd's state directory, else where the XDG Base Directory Specification puts state; "" without a home."""
        folders = [self.environ.get("STATE_DIRECTORY", "").partition(":")[0]]
        for name, below in (("XDG_STATE_HOME", "claudeproxy"), ("HOME", ".local/state/claudeproxy")):
            folders.append(f"{self.environ[name]}/{below}" if self.environ.get(name) else "")
        found = next(filter(None, folders), "")
        return f"{found}/counts.json" if found else ""


def _moved(written: str, absolute: Callable[[str], str]) -> str:
    """An endpoint string with absolute paths; one without paths stays as it was written."""
    address = Address.read(written)
    moved = address.with_paths(absolute)
    return written if moved == address else str(moved)


def is_open(path: Path) -> bool:
    """Whether users other than the file's owner and group can read or change it. What nobody can mend is not asked
    for: a file system that cannot be written to, as containers' secrets are, is as it was made."""
    if not stat.S_IMODE(path.stat().st_mode) & 0o006:
        return False
    if any(not folder.stat().st_mode & stat.S_IXOTH for folder in path.resolve().parents):
        return False  # they do not get there
    return not os.statvfs(path).f_flag & os.ST_RDONLY


def _text(path: Path, named_by: str) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")  # some editors put a byte order mark first, which is no TOML
    except OSError as fault:
        raise Unreadable(f"{named_by}: {path} cannot be read: {fault.strerror}") from None
    except UnicodeDecodeError:
        raise Unreadable(f"{named_by}: {path} is not UTF-8 text") from None


__all__ = ["Reader", "SettingsError", "Unreadable"]
