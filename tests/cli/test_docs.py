"""The documentation names what there is: commands and options, errors, environment variables, and files that exist."""

from __future__ import annotations

import importlib.util
import inspect
import re
from pathlib import Path

import pytest
import typer

from hasten.base import errors
from hasten.cli.app import app

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
UNLISTED = {"--help", "--host-ops", "--starts", "--json", "--install-completion", "--show-completion"}


def commands() -> dict[str, set[str]]:
    """Every command with its long options."""
    group = typer.main.get_command(app)
    groups = {"hasten": group, **{f"hasten {name}": group.commands[name] for name in ("bench", "cache")}}  # type: ignore[attr-defined]
    return {
        f"{prefix} {name}": {option for param in command.params for option in param.opts if option.startswith("--")}
        for prefix, parent in groups.items()
        for name, command in parent.commands.items()
    }


def test_every_command_and_option_is_in_the_page() -> None:
    page = (ROOT / "docs" / "cli.md").read_text()
    for command, options in commands().items():
        assert command in page, command
        for option in options - UNLISTED:
            assert option in page or option.replace("--", "--no-") in page, (command, option)


def test_the_page_names_no_option_that_is_not_there() -> None:
    there = set().union(*commands().values()) | UNLISTED | {"--no-host-ops", "--no-starts", "--version"}
    named = set(re.findall(r"`[^`\n]*?(--[a-z][a-z-]*)", (ROOT / "docs" / "cli.md").read_text()))
    assert named <= there


def test_every_error_has_a_section() -> None:
    page = (ROOT / "docs" / "errors.md").read_text()
    classes = [
        name for name, value in inspect.getmembers(errors, inspect.isclass) if issubclass(value, errors.HastenError)
    ]
    assert set(classes) - {"HastenError"} == set(re.findall(r"^## (\w+)$", page, re.MULTILINE))


def test_every_variable_is_in_the_page() -> None:
    page = (ROOT / "docs" / "environment.md").read_text()
    sources = [*(ROOT / "src").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
    used = set().union(*(re.findall(r"\bHASTEN_[A-Z_]+\b", path.read_text()) for path in sources))
    assert used and used <= set(re.findall(r"`(HASTEN_[A-Z_]+)`", page))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.slow
@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "docs" / "quickstart.md", ROOT / "docs" / "dynamic.md", ROOT / "docs" / "bench.md"], ids=lambda page: page.name)
def test_python_examples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All Python blocks of a page, one after the other; those of PyTorch only if it is there."""
    pytest.importorskip("hasten.api", reason="needs the compiler")
    if page.name == "bench.md":
        pytest.importorskip("scipy", reason="needs hasten[bench]")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        if "import torch" in block and importlib.util.find_spec("torch") is None:
            continue
        exec(compile(block, str(page), "exec"), names)
