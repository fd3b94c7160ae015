"""Notebooks as pages, with the outputs of a run."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

import nbclient
import nbformat

TIMEOUT_S = 300


def notebook_page(path: Path, cache: Path) -> str:
    """Run a notebook, unless this very one was run before; return it as Markdown."""
    source = path.read_bytes()
    done = cache / f"{path.stem}-{hashlib.sha256(source).hexdigest()[:16]}.ipynb"
    if not done.exists():
        notebook = nbformat.reads(source.decode(), as_version=4)
        nbclient.NotebookClient(notebook, timeout=TIMEOUT_S).execute()
        cache.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, done)
    return _as_markdown(nbformat.read(done, as_version=4), path.name)


def _as_markdown(notebook: Any, name: str) -> str:
    parts = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
        else:
            parts.append(f"```python\n{cell.source}\n```")
            parts += [shown for output in cell.outputs if (shown := _shown(output))]
    parts.insert(1, f"*This page is `examples/notebooks/{name}`, as it ran.*")
    return "\n\n".join(parts) + "\n"


def _shown(output: Any) -> str:
    if output.output_type == "stream":
        # What goes to standard error is progress.
        return "" if output.name == "stderr" else f"```\n{output.text.rstrip()}\n```"
    data = output.get("data", {})
    if "image/png" in data:
        image = "".join(data["image/png"].split())
        assert base64.b64decode(image)
        return f"![Figure](data:image/png;base64,{image})"
    text = data.get("text/plain", "")
    return f"```\n{text.rstrip()}\n```" if text else ""
