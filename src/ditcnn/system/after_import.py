"""A call as soon as a module has been imported, by whomever: so that what depends on it need not import it."""

import functools
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__all__ = ["after_import"]


def after_import(name: str, call: Callable[[], object], *, within: str) -> None:
    """Call once, right after the module ``name`` is imported; now, where it is imported already.

    An import that fails raises its own error, and a later one that succeeds counts.

    Args:
        name: The module.
        call: What to do.
        within: A package that the call needs whole: while a module of it is being imported, the call waits for that.
    """
    if name in sys.modules:
        call()
    else:
        sys.meta_path.insert(0, _AfterImport(name, call, within))


class _AfterImport(MetaPathFinder):
    """Finds the modules as the other finders do, and adds the call to what executes them."""

    def __init__(self, name: str, call: Callable[[], object], within: str) -> None:
        self.name, self.call, self.within = name, call, within
        self.depth = 0  # of the modules under way, one in the other

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self.name and not fullname.startswith(f"{self.within}."):
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, (finder.find_spec(fullname, path, target) for finder in others)), None)
        if spec is not None and spec.loader is not None:
            loader: Any = spec.loader
            # On the loader itself: one around it would hide the module's source and resources.
            loader.exec_module = functools.partial(self._execute, loader, loader.exec_module)
        return spec

    def _execute(self, loader: Any, execute: Callable[[ModuleType], None], module: ModuleType) -> None:
        loader.exec_module = execute
        self.depth += 1
        try:
            execute(module)
        finally:
            self.depth -= 1
        if not self.depth and self.name in sys.modules and self in sys.meta_path:
            sys.meta_path.remove(self)
            self.call()
