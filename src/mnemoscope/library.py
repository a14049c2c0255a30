"""Real text that comes with every Python: help topics, the library's docstrings and code, licences.

Distributions differ in what they ship: a part that is missing is left out, and no module is run to be read.
For one interpreter and its packages the texts are always the same, in the same order.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import pkgutil
import pydoc
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from importlib.abc import InspectLoader
from pathlib import Path
from typing import NamedTuple


class Source(NamedTuple):
    """A text of the interpreter's: where it is from, and what it says."""

    name: str
    """Such as topic/classes, docstrings/asyncio.events, code/heapq, licence/pip/licenses/LICENSE.txt."""
    text: str
    """Decoded, its line ends \\n."""


def gather_sources() -> list[Source]:
    """Python's help topics, its library's docstrings and code, licences: in the order of their names' hashes.

    A module gives either its docstrings or its code, never both, as the code holds the docstrings.
    """
    sources = [*_help_topics(), *_library_texts(), *_licence_texts()]
    tidy = [Source(name, "\n".join(text.splitlines()).strip() + "\n") for name, text in sources]
    return sorted((source for source in tidy if source.text.strip()), key=lambda source: digest(source.name))


def _help_topics() -> Iterator[Source]:
    """The language reference behind `help()`; some distributions leave it out."""
    try:
        from pydoc_data.topics import topics
    except ImportError:
        return
    for name, text in sorted(topics.items()):
        yield Source(f"topic/{name}", text)


_LEFT_OUT = frozenset(
    {"test", "tests", "idlelib", "lib2to3", "turtledemo", "distutils", "encodings", "pydoc_data", "ensurepip"}
)
"""Parts that many distributions strip, that 3.12 dropped, or that are tables."""


def _library_texts() -> Iterator[Source]:
    """The docstrings, or the code, of each module of the standard library that comes with its source."""
    locations = sorted({sysconfig.get_path("stdlib"), str(Path(pydoc.__file__).parent)})  # a folder, or a zip
    for name, code in _modules(locations):
        if digest(name)[0] % 2:
            yield Source(f"code/{name}", code)
        else:
            yield Source(f"docstrings/{name}", _docstrings(code))


def _modules(locations: Sequence[str], package: str = "") -> Iterator[tuple[str, str]]:
    """(name, source) of the standard library's modules under `locations`, sorted; nothing is imported."""
    for module in sorted(pkgutil.iter_modules(locations, package), key=lambda module: module.name):
        top = module.name.partition(".")[0]
        if top not in sys.stdlib_module_names or not _LEFT_OUT.isdisjoint(module.name.split(".")):
            continue
        spec = module.module_finder.find_spec(module.name, None)
        if spec is None or not isinstance(spec.loader, InspectLoader):
            continue
        try:
            code = spec.loader.get_source(module.name)
        except (ImportError, OSError, UnicodeDecodeError):
            code = None  # an extension, a stripped or an unreadable file: the corpus does without it
        if code:
            yield module.name, code
        yield from _modules(spec.submodule_search_locations or (), module.name + ".")


def _docstrings(code: str) -> str:
    """All docstrings of a module, in its order, a blank line between them."""
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError):
        return ""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    texts = (ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, documented))
    return "\n\n".join(text for text in texts if text)


def _licence_texts() -> Iterator[Source]:
    """The licences of the interpreter, of pip, and of the packages this one stands on."""
    home = Path(sysconfig.get_path("stdlib"))
    for path in (home / "LICENSE.txt", home / "LICENSE", Path(sys.base_prefix) / "LICENSE.txt"):
        if path.is_file():
            yield Source("licence/python", path.read_text(encoding="utf-8", errors="replace"))
            break
    for package in ("numpy", "pip", "pyarrow", "scipy", "torch", "transformers"):
        try:
            files = importlib.metadata.files(package) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        yield from _package_licences(package, files)


def _package_licences(package: str, files: Sequence[importlib.metadata.PackagePath]) -> Iterator[Source]:
    """The licence files in a package's metadata, named by their place in it, as several have the same last name."""
    for file in sorted(files):
        place = file.as_posix().partition(".dist-info/")[2]
        path = Path(str(file.locate()))
        if place and file.name.upper().startswith(("LICENSE", "COPYING", "AUTHORS")) and path.is_file():
            yield Source(f"licence/{package}/{place}", path.read_text(encoding="utf-8", errors="replace"))


def digest(text: str) -> bytes:
    """The SHA-256 of a text: the same on every machine, unlike `hash`."""
    return hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).digest()
