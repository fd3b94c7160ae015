"""Python files that users name: loaded once, and again in the processes that work for them."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from layermerge.errors import InputError

PREFIX = "layermerge_file_"


def load_file(path: Path) -> ModuleType:
    """Run a Python file as a module, unless it was run already.

    Raises
    ------
    InputError
        If there is no such file, or running it fails.
    """
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    loaded = sys.modules.get(PREFIX + path.stem)
    if loaded is not None and loaded.__file__ == str(path.resolve()):
        return loaded
    spec = importlib.util.spec_from_file_location(PREFIX + path.stem, path.resolve())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look for their module there
    folder = str(path.parent.resolve())
    sys.path.insert(0, folder)  # a file may import its neighbours, as a script may
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[spec.name]
        raise InputError(f"{path} cannot be run: {brief(error)}") from error
    finally:
        sys.path.remove(folder)
    return module


def loaded_files() -> tuple[str, ...]:
    """Paths of the files that were loaded, in order."""
    modules = (module for name, module in sys.modules.items() if name.startswith(PREFIX))
    return tuple(str(module.__file__) for module in modules)


def brief(error: BaseException) -> str:
    """An error of somebody else's code in one paragraph."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:400]}{'...' if len(text) > 400 else ''}"
