"""Promise: files, headings and config fields that the pages name exist, and no line is wide."""

import pathlib
import re

import pytest

from generalist.configs import multitask

ROOT = pathlib.Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "results/README.md"])
GUIDES = [page for page in PAGES if page.parent.name == "docs"]
# A changelog names what is gone.
PRESENT = [page for page in PAGES if page.name != "CHANGELOG.md"]
WIDTH = 100
FILES = (".safetensors", ".json", ".jsonl", ".py")


def name(path: pathlib.Path) -> str:
    return path.relative_to(ROOT).as_posix()


def anchors(page: pathlib.Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    headings = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    wrong = []
    for link in re.findall(r"\]\((?!http)([^)]+)\)", page.read_text()):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            wrong.append(link)
    assert wrong == []


@pytest.mark.parametrize("page", PRESENT, ids=name)
def test_files_it_names_exist(page):
    named = re.findall(
        r"`((?:docs|notebooks|generalist|tests|benchmarks|results)/[\w./-]+)`", page.read_text()
    )
    absent = [path for path in named if not (ROOT / path).exists()]
    # The lab book names its logs by their place in its own folder.
    assert [path for path in absent if not (page.parent / path).exists()] == []


@pytest.mark.parametrize("page", GUIDES, ids=name)
def test_config_fields_it_names_exist(page):
    config = multitask.get_config("paper")
    groups = "|".join(group for group in config if not isinstance(config[group], int | float | str))
    for field in re.findall(rf"`(?:--config\.)?((?:{groups})\.[a-z_.]+)[`=]", page.read_text()):
        if field.endswith(FILES):
            continue
        node = config
        for part in field.rstrip(".").split("."):
            assert part in node, f"{field} is no field"
            node = node[part]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_lines_are_short(page):
    """Tables, links alone on their line and commands that cannot be broken may be wider."""
    wide = [
        line
        for line in page.read_text().splitlines()
        if len(line) > WIDTH and not line.startswith(("|", "!", "  |")) and " " in line.strip()
    ]
    commands = ("python main.py", "GENERALIST_DATA_DIR")
    assert [line for line in wide if not line.startswith(commands)] == []


def test_every_guide_is_in_the_index():
    index = (ROOT / "docs/index.md").read_text()
    missing = [page.name for page in GUIDES if f"({page.name})" not in index]
    assert missing == ["index.md"]
