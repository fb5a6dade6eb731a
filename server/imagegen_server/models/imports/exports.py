"""What transformers exports: at first that of the models a pair is made of, all of it when anything else is asked for.

Its `__init__` reads the source of every file of every model for that, some two thousand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.abc import Loader
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from imagegen_server.models.imports.loaders import loaded_by

MODELS: Final = ("auto", "clip", "siglip")
"""The text encoders, and what diffusers imports beside any pipeline."""

OTHERS: Final = frozenset(
    {"BaseGuidance", "DiffusionPipeline", "ModelMixin", "ORTModule", "OnnxRuntimeModel", "SchedulerMixin"}
)
"""Classes of other libraries, which diffusers asks every library for when it loads a pipeline."""

_PACKAGE: Final = "transformers"
_READER: Final = "transformers.utils.import_utils"
"""Where transformers has what reads the sources (`define_import_structure`) and what exports (`_LazyModule`)."""

Structure = dict[frozenset[str], dict[str, set[str]]]
"""By what they need, the modules and what each of them exports."""


@contextmanager
def few_exports() -> Iterator[None]:
    """Lets transformers find the exports of MODELS only, if it is first imported during the context."""
    with ExitStack() as stack, loaded_by({_READER}, lambda spec: _reader(spec, stack)):
        yield


class _ReaderLoader(Loader):
    """Loads the reader and changes it until the stack is left: transformers runs its `__init__` twice."""

    def __init__(self, real: Loader, stack: ExitStack) -> None:
        self._real = real
        self._stack = stack

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Returns what the real loader returns."""
        return self._real.create_module(spec)

    def exec_module(self, module: Any) -> None:
        """Loads the module, and leaves it as it is if it has not what is expected."""
        module.__spec__.loader = module.__loader__ = self._real
        self._real.exec_module(module)
        if hasattr(module, "define_import_structure") and hasattr(module, "_LazyModule"):
            _read_few(module, self._stack)


def _reader(spec: ModuleSpec, stack: ExitStack) -> Loader | None:
    return None if spec.loader is None else _ReaderLoader(spec.loader, stack)


def _read_few(reader: Any, stack: ExitStack) -> None:
    read_all, lazy_module = reader.define_import_structure, reader._LazyModule
    make = lazy_module.__init__

    def read(module_path: str, prefix: str | None = None) -> Structure:
        path = Path(module_path)
        if prefix != path.name or not all((path / model).is_dir() for model in MODELS):
            found: Structure = read_all(module_path, prefix)
            return found
        few: Structure = {frozenset(): {}}
        for model in MODELS:
            for needs, modules in read_all(str(path / model), f"{prefix}.{model}").items():
                few.setdefault(needs, {}).update(modules)
        rest.append(lambda: read_all(module_path, prefix))
        return few

    def made(module: Any, name: str, *arguments: Any, **named: Any) -> None:
        make(module, name, *arguments, **named)
        if name == _PACKAGE and rest:
            module.__class__ = _with_the_rest(lazy_module, rest[0])

    rest: list[Callable[[], Structure]] = []
    stack.callback(setattr, reader, "define_import_structure", read_all)
    stack.callback(setattr, lazy_module, "__init__", make)
    reader.define_import_structure, lazy_module.__init__ = read, made


def _with_the_rest(lazy_module: Any, read_rest: Callable[[], Structure]) -> type:
    """Returns a `_LazyModule` that becomes one of all exports when it is asked for what it does not know."""

    class Few(lazy_module):  # type: ignore[misc]  # a class that is known only when transformers is
        def __getattr__(self, name: str) -> Any:
            if not self._knows(name):
                self._complete()
            return lazy_module.__getattr__(self, name)

        def _knows(self, name: str) -> bool:
            if name in OTHERS or name.startswith("__"):
                return True
            if name in self._class_to_module or name in self._modules or name in self._objects:
                return True
            # a module that nothing says is one, which Python imports when it has asked
            return PathFinder.find_spec(f"{_PACKAGE}.{name}", self.__path__) is not None

        def __dir__(self) -> list[str]:
            self._complete()
            return dir(self)

        @property
        def __all__(self) -> list[str]:
            self._complete()
            found: list[str] = vars(self)["__all__"]
            return found

        def _complete(self) -> None:
            structure = read_rest()
            # what is no model's is all there
            own = {name: set(found) for name, found in self._import_structure.items() if not name.startswith("models.")}
            structure.setdefault(frozenset(), {}).update(own)
            whole = lazy_module(self._name, self.__file__, structure, module_spec=self.__spec__)
            self.__class__ = lazy_module
            taken = ("_modules", "_class_to_module", "_object_missing_backend", "_import_structure", "__all__")
            self.__dict__.update({name: vars(whole)[name] for name in taken})

    return Few
