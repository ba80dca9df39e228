"""The rules of the house check themselves: floors, docstrings of packages, the doorbell (STYLE 2, 3.30, 4)."""

import ast
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "claudeproxy"
FLOORS = ("model", "wire", "translate", "routing", "backends", "web", "service")
#: Floors 0 to 3 are pure: values, times and ids are given to them.
PURE = FLOORS[:4]
IMPURE = frozenset("twisted treq klein os time random uuid secrets socket subprocess asyncio".split())


def faults(package: Path) -> list[str]:
    """Every breach of the house rules in a package, in a sentence each."""
    return sorted(fault for path in package.rglob("*.py") for fault in _module_faults(package, path))


def _module_faults(package: Path, path: Path) -> Iterator[str]:
    where = path.relative_to(package).as_posix()
    tree = ast.parse(path.read_text("utf-8"), where)
    if path.name == "__init__.py" and not (len(tree.body) == 1 and ast.get_docstring(tree)):
        yield f"{where}: more or less than a docstring"
    if not ast.get_docstring(tree):
        yield f"{where}: no docstring"
    if len(path.read_text("utf-8").splitlines()) > 450:
        yield f"{where}: too long, split it"
    floor = path.relative_to(package).parts[0]
    if path.parent != package and floor not in FLOORS:
        yield f"{where}: on no floor"
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                for name in names:
                    yield from _import_faults(where, package.name, floor, name.name)
            case ast.ImportFrom(level=level) if level:
                yield f"{where}: a relative import"
            case ast.ImportFrom(module=str(module), names=names):
                yield from _import_faults(where, package.name, floor, module)
                if module == "attrs" and where != "model/kinds.py":
                    for name in names:
                        if name.name in ("define", "frozen"):
                            yield f"{where}: {name.name} of attrs' own, not of model.kinds"
                if module in ("twisted.internet", package.name):
                    for name in names:
                        yield from _import_faults(where, package.name, floor, f"{module}.{name.name}")
            case ast.Call(func=ast.Name(id="print")):
                yield f"{where}: print"
            case ast.ExceptHandler(type=None) | ast.ExceptHandler(type=ast.Name(id="BaseException")):
                yield f"{where}: catches everything"
    yield from _reactor_faults(where, tree)


def _import_faults(where: str, package: str, floor: str, module: str) -> Iterator[str]:
    top, *rest = module.split(".")
    if floor in PURE and top in IMPURE:
        yield f"{where}: a pure floor imports {top}"
    if top == package and rest and rest[0] in FLOORS and floor in FLOORS:
        if FLOORS.index(rest[0]) > FLOORS.index(floor):
            yield f"{where}: imports upward from {rest[0]}"
    if top in ("tests", "twisted_plugins"):
        yield f"{where}: imports {top}"


def _reactor_faults(where: str, tree: ast.Module) -> Iterator[str]:
    """The global reactor is installed by importing it, so that only a call may do it, never a module."""
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module == "twisted.internet":
            if any(name.name == "reactor" for name in node.names):
                yield f"{where}: imports the reactor with the module"


class HouseTests(SynchronousTestCase):
    """This very tree."""

    def test_floors(self) -> None:
        """No module imports from a floor above; the pure floors know no network, no clock, no chance."""
        self.assertEqual(faults(PACKAGE), [])

    def test_every_floor(self) -> None:
        """Every floor exists, and there is nothing beside them."""
        folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
        self.assertEqual(folders, set(FLOORS))

    def test_typed(self) -> None:
        """The package says that it is typed, and its wheel takes the word along."""
        self.assertTrue((PACKAGE / "py.typed").is_file())
        project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
        data = {"claudeproxy": ["py.typed"], "claudeproxy.service": ["units/*"]}
        self.assertEqual(project["tool"]["setuptools"]["package-data"], data)

    def test_doorbell(self) -> None:
        """The plugin file is four strings; its folder is no package, which would overwrite Twisted's own."""
        folder = ROOT / "twisted_plugins"
        self.assertEqual([path.name for path in folder.glob("*.py")], ["claudeproxy_plugin.py"])
        tree = ast.parse((folder / "claudeproxy_plugin.py").read_text("utf-8"))
        imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
        self.assertEqual(
            [ast.unparse(node) for node in imports], ["from twisted.application.service import ServiceMaker"]
        )
        (call,) = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
        self.assertEqual([isinstance(each, ast.Constant) for each in call.args], [True] * 4)
        self.assertEqual(call.keywords, [])

    def test_top(self) -> None:
        """At the top of the repository stands only what DESIGN names."""
        named = {"setup.cfg", "pyproject.toml", "README.md", "LICENSE", "twisted_plugins", "claudeproxy", "tests"}
        made = {"build", "dist", "_trial_temp"}
        found = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")}
        self.assertEqual({name for name in found - named - made if not name.endswith(".egg-info")}, set())


class CheckerTests(SynchronousTestCase):
    """The check itself can fail."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.package = Path(folder.name) / "house"
        for floor in ("", *FLOORS):
            self.write(f"{floor}/__init__.py", '"""A floor."""\n')

    def write(self, path: str, code: str) -> None:
        target = self.package / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(code, "utf-8")

    def test_clean(self) -> None:
        """Imports from below and from one's own floor are fine, and so is Twisted on the upper floors."""
        self.write(
            "web/a.py", '"""A."""\nfrom twisted.internet import defer\nfrom house.wire import b\nimport house.web.c\n'
        )
        self.write("translate/a.py", '"""A."""\nimport json\nfrom house.model.values import V\n')
        self.assertEqual(faults(self.package), [])

    def test_each_fault(self) -> None:
        """Every rule is broken once, and each breach is told."""
        for path, code, told in (
            ("wire/a.py", '"""A."""\nimport twisted.web\n', "wire/a.py: a pure floor imports twisted"),
            (
                "routing/a.py",
                '"""A."""\ndef f():\n    from os import environ\n',
                "routing/a.py: a pure floor imports os",
            ),
            ("model/a.py", '"""A."""\nfrom house.wire.lines import X\n', "model/a.py: imports upward from wire"),
            ("model/a.py", '"""A."""\nfrom house import service\n', "model/a.py: imports upward from service"),
            ("web/a.py", '"""A."""\nimport house.service.tree\n', "web/a.py: imports upward from service"),
            ("web/a.py", '"""A."""\nfrom . import b\n', "web/a.py: a relative import"),
            ("web/a.py", '"""A."""\nprint("x")\n', "web/a.py: print"),
            (
                "web/a.py",
                '"""A."""\nfrom twisted.internet import reactor\n',
                "web/a.py: imports the reactor with the module",
            ),
            ("web/a.py", '"""A."""\ntry:\n    f()\nexcept:\n    pass\n', "web/a.py: catches everything"),
            ("web/a.py", '"""A."""\nfrom tests.fakes import x\n', "web/a.py: imports tests"),
            ("web/a.py", "import json\n", "web/a.py: no docstring"),
            (
                "web/a.py",
                '"""A."""\nfrom attrs import field, frozen\n',
                "web/a.py: frozen of attrs' own, not of model.kinds",
            ),
            ("web/__init__.py", '"""A."""\nimport json\n', "web/__init__.py: more or less than a docstring"),
            ("attic/a.py", '"""A."""\n', "attic/a.py: on no floor"),
            ("web/a.py", '"""A."""\n' + "\n" * 500, "web/a.py: too long, split it"),
        ):
            with self.subTest(told):
                self.setUp()
                self.write(path, code)
                self.assertEqual(faults(self.package), [told])
