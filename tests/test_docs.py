"""The documentation is true to the repository: links, commands, names. `make docs` builds it."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import re
import shlex
from pathlib import Path

import pytest

import layermerge
from layermerge.cli import build_parser

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
MADE = {"index.md", "cli.md", "api.md", "changelog.md", "contributing.md", "measurements/index.md"}
"""Pages of the site that the hooks make, besides those of notebooks."""


def loaded(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def name_of(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", TEXTS, ids=name_of)
def test_relative_links_lead_to_files(path):
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        target = link.partition("#")[0]
        if target and "://" not in target:
            assert (path.parent / target).exists(), link


def test_every_page_has_its_place_in_the_navigation():
    configuration = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    navigation = configuration.partition("\nnav:\n")[2].partition("\nnot_in_nav:")[0]
    listed = re.findall(r"\S+\.md", navigation)
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    notebooks = {
        f"notebooks/{path.stem}.md" for path in (ROOT / "examples/notebooks").glob("*.ipynb")
    }
    assert sorted(listed) == sorted(pages | MADE | notebooks)


def command_lines():
    """Every `layermerge ...` in a fenced block of the texts, that is not abridged."""
    for path in TEXTS:
        for block in re.findall(r"^```[^`]*?\n(.*?)^```", path.read_text(), flags=re.M | re.S):
            for line in block.replace("\\\n", " ").replace("; ", "\n").splitlines():
                command = line.strip().removeprefix("$ ")
                if command.startswith("layermerge ") and not re.search(r"\.\.\.|[\[|]", command):
                    yield pytest.param(command, id=f"{name_of(path)}: {command[:60]}")


@pytest.mark.parametrize("command", list(command_lines()))
def test_commands_of_the_documentation_parse(command):
    _, *words = shlex.split(command, comments=True)
    parser, _ = build_parser()
    assert parser.parse_args(words).command == words[0]


def parsers(parser):
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                yield from parsers(child)


def test_the_page_on_the_command_line_has_every_option_with_its_help():
    page = loaded("docs_pages").cli_page()
    top, _ = build_parser()
    for parser in parsers(top):
        if parser is top:
            continue
        section = page.partition(f"# {parser.prog}\n")[2].partition("\n#")[0]
        assert section, parser.prog
        for action in parser._actions:
            if action.option_strings and action.dest != "help":
                assert f"`{', '.join(action.option_strings)}`" in section
            if action.help and action.dest not in ("help", "action"):
                assert action.help.split()[0].replace("<", "&lt;") in section


def test_the_page_on_the_api_has_every_public_name_once():
    page = loaded("docs_pages").api_page()
    documented = re.findall(r"^::: layermerge\.(\w+)$", page, flags=re.M)
    assert sorted(documented) == sorted(layermerge.__all__)


def test_the_search_of_the_guide_runs(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    from networks import striped_images, tiny_classifier

    text = (DOCS / "importance.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n((?:(?!```).)*find_plans.*?)^```", text, flags=re.M | re.S)
    monkeypatch.chdir(tmp_path)
    images, labels = striped_images(32)

    def accuracy(network, data):
        return (network(data[0]).argmax(1) == data[1]).float().mean()

    given = {
        "model": tiny_classifier(),
        "images": images[:1],
        "accuracy": accuracy,
        "validation": (images, labels),
        "training": [(images, labels)],
        "train_shortly": lambda network, data: torch.nn.Module.train(network),
    }
    exec(block, given)
    fractions = [plan.budget_ns for plan in given["found"].plans]
    assert fractions == sorted(fractions, reverse=True)


def test_the_fine_tune_of_the_guide_runs(tmp_path, monkeypatch):
    from networks import striped_images, tiny_classifier

    text = (DOCS / "finetuning.md").read_text(encoding="utf-8")
    first, _ = re.findall(r"^```python\n(.*?)^```", text, flags=re.M | re.S)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    model, data = tiny_classifier(), striped_images(64)
    plan = layermerge.original_plan(layermerge.trace(model, data[0][:1]))
    given = {"model": model, "plan": plan, "data": data}
    exec(first, given)
    assert len(given["losses"]) == 20
    assert (tmp_path / "run" / "log.csv").read_text().count("\n") == 21


def test_every_setting_of_a_fine_tune_is_in_the_guide():
    text = (DOCS / "finetuning.md").read_text(encoding="utf-8")
    for field in dataclasses.fields(layermerge.FinetuneSettings):
        assert f"`{field.name}`" in text, field.name
