"""What transformers exports: at first that of the models a pair is made of, all of it when anything else is asked for.

Its `__init__` reads the source of every file of every model for that, some two thousand. Two parts of
`transformers.utils.import_utils` do the work: `define_import_structure` reads the sources, and a `_LazyModule`, which
takes the package's place in `sys.modules`, imports what it is asked for. If transformers is first imported during
`few_exports`, this happens:

1. the `__init__` imports that module, which is changed as soon as it is loaded (`_change`);
2. the `__init__` asks for the exports of all models, and is given those of MODELS (`_Few`);
3. the `_LazyModule` that it makes of them gets a `__getattr__` and a `__dir__` of its own (`_Rest`), which Python asks
   before those of the class;
4. when the context ends, the changed module is made as it was: not before, since transformers runs its `__init__` a
   second time (`direct_transformers_import`);
5. whoever asks the package for a name that is none of the few, or for all names, then or later, has the sources of all
   models read. From then on it is the package that it would have been by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, Final

from imagegen_server.models.imports.loaders import changed_when_loaded

MODELS: Final = ("auto", "clip", "siglip")
"""The text encoders, and what diffusers imports beside any pipeline."""

OTHERS: Final = frozenset(
    {"BaseGuidance", "DiffusionPipeline", "ModelMixin", "ORTModule", "OnnxRuntimeModel", "SchedulerMixin"}
)
"""Classes of other libraries, which diffusers asks every library for when it loads a pipeline."""

_READER: Final = "transformers.utils.import_utils"

Structure = dict[frozenset[str], dict[str, set[str]]]
"""By what they need, the modules and what each of them exports."""


@contextmanager
def few_exports() -> Iterator[None]:
    """Lets transformers find the exports of MODELS only, if it is first imported during the context."""
    with ExitStack() as undo, changed_when_loaded(_READER, lambda reader: _change(reader, undo)):
        yield


class _Few(Structure):
    """The exports of MODELS, with how to read those of all models."""

    def __init__(self, read_all: Callable[[], Structure]) -> None:
        super().__init__({frozenset(): {}})
        self.read_all = read_all


def _change(reader: Any, undo: ExitStack) -> None:
    """Changes both parts of the reader until `undo` is left; nothing if it has not what is expected."""
    if not (hasattr(reader, "define_import_structure") and hasattr(reader, "_LazyModule")):
        return
    read, lazy_module = reader.define_import_structure, reader._LazyModule
    make = lazy_module.__init__

    def read_few(module_path: str, prefix: str | None = None) -> Structure:
        path = Path(module_path)
        if prefix != path.name or not all((path / model).is_dir() for model in MODELS):
            found: Structure = read(module_path, prefix)  # for the package of one model
            return found
        few = _Few(lambda: read(module_path, prefix))
        for model in MODELS:
            for needs, modules in read(str(path / model), f"{prefix}.{model}").items():
                few.setdefault(needs, {}).update(modules)
        return few

    def make_of_few(module: Any, name: str, file: str, structure: Structure, *more: Any, **named: Any) -> None:
        make(module, name, file, structure, *more, **named)
        if isinstance(structure, _Few):
            rest = _Rest(module, structure.read_all)
            vars(module).update(__getattr__=rest.find, __dir__=rest.names)
            del module.__all__  # so that `find` is asked for it

    undo.callback(setattr, reader, "define_import_structure", read)
    undo.callback(setattr, lazy_module, "__init__", make)
    reader.define_import_structure, lazy_module.__init__ = read_few, make_of_few


class _Rest:
    """What a `_LazyModule` made of few exports does not know: it is made again, of all, when that is asked for."""

    def __init__(self, package: Any, read_all: Callable[[], Structure]) -> None:
        self._package = package
        self._read_all = read_all

    def find(self, name: str) -> Any:
        """The package's `__getattr__`: returns what is there once all is; for the rest Python asks the class."""
        if not self._is_settled(name):
            self._complete()
            if name in vars(self._package):
                return vars(self._package)[name]
        raise AttributeError(f"module {self._package.__name__!r} has no attribute {name!r}")

    def names(self) -> list[str]:
        """The package's `__dir__`."""
        self._complete()
        return list(vars(self._package))

    def _is_settled(self, name: str) -> bool:
        """Returns whether the sources of more models would make no difference to a name."""
        package = self._package
        if name in OTHERS or (name.startswith("__") and name != "__all__"):
            return True
        if name in package._class_to_module or name in package._modules or name in package._objects:
            return True
        # a module that nothing says is one, which Python imports when it has asked
        return PathFinder.find_spec(f"{package.__name__}.{name}", package.__path__) is not None

    def _complete(self) -> None:
        package, structure = self._package, self._read_all()
        # what is no model's is all there
        own = {name: set(found) for name, found in package._import_structure.items() if not name.startswith("models.")}
        structure.setdefault(frozenset(), {}).update(own)
        whole = type(package)(
            package.__name__,
            package.__file__,
            structure,
            module_spec=package.__spec__,
            extra_objects=package._objects,
        )
        vars(package).update(vars(whole))
        for own_name in ("__getattr__", "__dir__"):
            vars(package).pop(own_name, None)  # another thread may have been here
