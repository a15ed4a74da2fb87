"""Keeps diffusers and transformers from importing what only compilers and groups of processes use."""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import threading
import types
from typing import Any

_DYNAMO = "torch._dynamo"
_MASKS_PART = f"{_DYNAMO}._trace_wrapped_higher_order_op"  # which transformers takes a class from, and needs no other


def import_lean() -> None:
    """Imports both without torch's compiler and without torch.distributed's tensors, which take a second of a start.

    Neither is left out where it has been imported before. Whoever asks for the compiler later gets it whole.
    """
    if _DYNAMO not in sys.modules and (spec := importlib.util.find_spec(_DYNAMO)):
        sys.modules[_DYNAMO] = module = importlib.util.module_from_spec(spec)
        module.__class__ = _OnDemand
        sys.meta_path.insert(0, _WholeFirst())
    import transformers.utils

    for names in (transformers.utils, transformers.utils.import_utils):
        names.is_torch_distributed_available = lambda: False  # a model is in one process


def _mark(function: Any = None, *_: Any, **__: Any) -> Any:
    """A decorator that says how to compile a function, where nothing is compiled."""
    return function if function is not None else lambda function: function


class _OptimizedModule:
    """As torch.compile makes them: nothing is one yet."""


# What is asked for when the two are imported, and by checks whether a module is a compiled one.
_STAND_INS: dict[str, Any] = {
    **dict.fromkeys(("allow_in_graph", "assume_constant_result", "disable", "disallow_in_graph"), _mark),
    "eval_frame": types.SimpleNamespace(OptimizedModule=_OptimizedModule),
}
_executing = threading.RLock()


class _OnDemand(types.ModuleType):
    """torch._dynamo, executed when it is asked for more than stand-ins, as importlib's LazyLoader does for any name."""

    _is_executing: bool = False
    __spec__: Any

    def __getattr__(self, name: str) -> Any:
        with _executing:
            if self._is_executing or name.startswith("__"):
                raise AttributeError(f"module {_DYNAMO} has no attribute {name}", name=name)
            if name in _STAND_INS:
                return _STAND_INS[name]
            self.execute()
        return getattr(self, name)

    def execute(self) -> None:
        if type(self) is not _OnDemand or self._is_executing:
            return
        self._is_executing = True
        try:
            self.__spec__.loader.exec_module(self)
        finally:
            del self._is_executing
        self.__class__ = types.ModuleType  # type: ignore[assignment]


class _WholeFirst(importlib.abc.MetaPathFinder):
    """Executes torch._dynamo before a part of it is imported: its parts expect that of each other."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if not fullname.startswith(f"{_DYNAMO}.") or fullname == _MASKS_PART:
            return None
        module = sys.modules.get(_DYNAMO)
        if isinstance(module, _OnDemand):
            with _executing:
                module.execute()
        part = sys.modules.get(fullname)
        return None if part is None else importlib.machinery.ModuleSpec(fullname, _There(part))


class _There(importlib.abc.Loader):
    """Loads a module that is there already: executing the package has imported it."""

    def __init__(self, module: types.ModuleType):
        self._module, self._spec = module, module.__spec__

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return self._module

    def exec_module(self, module: types.ModuleType) -> None:
        module.__spec__ = self._spec
