"""Hooks of mkdocs: pages that are made from the rest of the repository.

The README is the home page; changelog, guide for contributors and benchmark results are pages; the
command line is documented from its parsers, the API from the names that the package exports, and
notebooks are run. Links between files of the repository lead to their pages. Formulas become
MathML, which browsers draw without scripts.
"""

from __future__ import annotations

import html
import os
import posixpath
import re
from pathlib import Path
from typing import Any

import latex2mathml.converter
from mkdocs.structure.files import File, Files

# mkdocs finds modules that lie beside a hook.
from docs_notebooks import notebook_page
from docs_pages import api_page, cli_page, results_page

ROOT = Path(__file__).parents[1]
DOCS = "docs"
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
}
RESULTS = "benchmarks/results"
NOTEBOOKS = "examples/notebooks"
FOLDERS = {"examples": "compress/index.md", RESULTS: "measurements/index.md"}
LINK = re.compile(r"(?<=\]\()([^)\s#:]+)((?:#[^)\s]*)?)(?=[)\s])")
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', flags=re.DOTALL)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are not in the folder of the documentation."""
    pages = _pages()
    for origin, uri in pages.items():
        if origin.endswith(".ipynb"):
            text = notebook_page(ROOT / origin, ROOT / "build" / "notebooks")
        else:
            text = (ROOT / origin).read_text(encoding="utf-8")
        files.append(File.generated(config, uri, content=_with_links(text, origin, uri, pages)))
    for uri, text in _made_pages(pages).items():
        files.append(File.generated(config, uri, content=text))
    for origin in sorted(_attachments(pages, files)):
        files.append(File.generated(config, f"files/{origin}", abs_src_path=str(ROOT / origin)))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Files) -> str:
    """Lead links out of the folder of the documentation to pages."""
    uri = page.file.src_uri
    if page.file.generated_by is not None:
        return markdown
    return _with_links(markdown, f"{DOCS}/{uri}", uri, _pages())


def on_page_content(content: str, **_: Any) -> str:
    """Turn formulas into MathML."""
    return FORMULA.sub(_as_mathml, content)


def _made_pages(pages: dict[str, str]) -> dict[str, str]:
    results = {
        uri: (ROOT / origin).read_text(encoding="utf-8")
        for origin, uri in pages.items()
        if origin.startswith(RESULTS)
    }
    return {
        "cli.md": cli_page(),
        "api.md": api_page(),
        "measurements/index.md": results_page(results),
    }


def _pages() -> dict[str, str]:
    """Files of the repository that become pages, with the place of the page."""
    results = {
        f"{RESULTS}/{path.name}": f"measurements/{path.name}"
        for path in sorted((ROOT / RESULTS).glob("*.md"))
    }
    notebooks = {
        f"{NOTEBOOKS}/{path.name}": f"notebooks/{path.stem}.md"
        for path in sorted((ROOT / NOTEBOOKS).glob("*.ipynb"))
    }
    return {**PAGES, **results, **notebooks}


def _with_links(markdown: str, origin: str, uri: str, pages: dict[str, str]) -> str:
    """Lead relative links to where mkdocs puts their targets."""

    def moved(match: re.Match[str]) -> str:
        target = _target(origin, match[1])
        place = _place(target, pages) if target else None
        if place is None:
            return match[0]
        return os.path.relpath(place, posixpath.dirname(uri) or ".") + match[2]

    return LINK.sub(moved, markdown)


def _target(origin: str, link: str) -> str | None:
    """The file or folder of the repository that a link leads to, if there is one."""
    target = posixpath.normpath(posixpath.join(posixpath.dirname(origin), link))
    return target if not target.startswith("..") and (ROOT / target).exists() else None


def _place(target: str, pages: dict[str, str]) -> str | None:
    if target in pages or target in FOLDERS:
        return pages.get(target) or FOLDERS[target]
    if target.startswith(f"{DOCS}/"):
        return target.removeprefix(f"{DOCS}/")
    return f"files/{target}" if (ROOT / target).is_file() else None


def _attachments(pages: dict[str, str], files: Files) -> set[str]:
    """Files of the repository that pages link to, but that are no pages."""
    own = [file for file in files.documentation_pages() if file.generated_by is None]
    origins = [*pages, *(f"{DOCS}/{file.src_uri}" for file in own)]
    found = set()
    for origin in origins:
        text = (ROOT / origin).read_text(encoding="utf-8")
        for match in LINK.finditer(text):
            target = _target(origin, match[1])
            if target and (_place(target, pages) or "").startswith("files/"):
                found.add(target)
    return found


def _as_mathml(match: re.Match[str]) -> str:
    kind = "block" if match[1] == "div" else "inline"
    drawn: str = latex2mathml.converter.convert(html.unescape(match[2]), display=kind)
    return f'<div class="formula">{drawn}</div>' if kind == "block" else drawn
