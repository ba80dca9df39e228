"""What pip makes of the tree: the plugin is found from anywhere, and nothing stays behind. Needs what pip needs."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from attrs import frozen

from tests.e2e.daemon import ROOT, clean_environment, end, start

pytestmark = pytest.mark.slow

#: What belongs to the project, of all that may lie around in a developer's tree.
PROJECT = ("claudeproxy", "twisted_plugins", "pyproject.toml", "setup.cfg", "README.md", "LICENSE")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the project: building leaves things behind."""
    copy = tmp_path / "tree"
    copy.mkdir()
    for name in PROJECT:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__", "dropin.cache"))
        elif source.exists():
            shutil.copy(source, copy / name)
    return copy


@frozen
class Environment:
    """A fresh virtual environment."""

    folder: Path

    @classmethod
    def new(cls, folder: Path) -> "Environment":
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        return cls(folder)

    @property
    def bin(self) -> Path:
        return self.folder / "bin"

    def pip(self, *arguments: str) -> None:
        done = subprocess.run([self.bin / "pip", *arguments], capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr

    def offers(self, name: str = "claudeproxy") -> bool:
        """Whether `twistd --help`, which must work, lists this service, asked from the root of the file system."""
        done = subprocess.run(
            [self.bin / "twistd", "--help"], cwd="/", env=clean_environment(self.folder), capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert "portforward" in done.stdout  # one of Twisted's own
        assert "Traceback" not in done.stderr
        return f"    {name} " in done.stdout

    def leftovers(self) -> list[str]:
        """Files with the project's name."""
        (site,) = self.folder.glob("lib/python*/site-packages")
        return [str(each) for each in site.rglob("*claudeproxy*")]


def test_wheel(tree: Path, tmp_path: Path) -> None:
    """The wheel, in a fresh environment: listed and running from anywhere; uninstalled, Twisted is as it was."""
    fresh = Environment.new(tmp_path / "venv")
    fresh.pip("wheel", "--no-deps", "--wheel-dir", str(tmp_path), str(tree))
    (wheel,) = tmp_path.glob("claudeproxy-*.whl")
    fresh.pip("install", str(wheel))
    (site,) = fresh.folder.glob("lib/python*/site-packages")
    assert (site / "claudeproxy" / "py.typed").exists()
    assert (site / "claudeproxy" / "service" / "units" / "claudeproxy.socket").exists()
    assert (site / "twisted" / "plugins" / "claudeproxy_plugin.py").exists()
    twisteds_own = (site / "twisted" / "plugins" / "__init__.py").read_text()
    assert "pluginPackagePaths" in twisteds_own
    assert fresh.offers()

    variables = {"PYTHONPATH": "", "PROVIDER": "openai", "PROVIDER_BASE_URL": "http://127.0.0.1:1/v1"}
    daemon = start(tmp_path / "run", command=[str(fresh.bin / "twistd")], variables=variables)
    try:
        assert daemon.listening().json("GET", "/health") == {"status": "ok"}
    finally:
        end(daemon)

    fresh.pip("uninstall", "--yes", "claudeproxy")
    assert not fresh.offers()
    assert fresh.leftovers() == []
    assert (site / "twisted" / "plugins" / "__init__.py").read_text() == twisteds_own


def test_editable(tree: Path, tmp_path: Path) -> None:
    """`pip install -e .` lists the plugin too, and what is edited in the tree is what runs."""
    fresh = Environment.new(tmp_path / "venv")
    fresh.pip("install", "--editable", str(tree))
    assert fresh.offers()
    plugin = tree / "twisted_plugins" / "claudeproxy_plugin.py"
    plugin.write_text(plugin.read_text().replace('"claudeproxy",\n)', '"claudeproxy-edited",\n)'))
    assert fresh.offers("claudeproxy-edited")
