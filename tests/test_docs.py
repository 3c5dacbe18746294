"""The reference is what the program says of itself, and the notebook runs."""

import html
import importlib
import importlib.util
import inspect
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from argan import optics

ROOT = Path(__file__).parents[1]
TOUR = ROOT / "examples" / "tour.ipynb"
MOST_BYTES = 400_000


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # where dataclasses look
    spec.loader.exec_module(module)
    return module


reference = load(ROOT / "docs" / "make_reference.py")


def module_of(name: str) -> ModuleType:
    if not name.startswith("argan_"):
        return importlib.import_module(name)
    pytest.importorskip("torch")
    return importlib.import_module(name)


# ---------------------------------------------------------------- docs/commands.md


@pytest.fixture(scope="module")
def page() -> str:
    pytest.importorskip("torch")
    return reference.commands_page()


def test_commands_page_is_up_to_date(page: str) -> None:
    written = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    if page != written:
        pytest.fail("docs/commands.md is old; run: python docs/make_reference.py commands", False)


def test_commands_page_does_not_depend_on_the_terminal(
    page: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    monkeypatch.setattr("os.cpu_count", lambda: 77)
    assert reference.commands_page() == page


def test_commands_page_has_them_all(page: str) -> None:
    """Those of argan itself, of each extra, and of methods within a command."""
    titles = re.findall(r"^#+ (argan .+)$", page, re.MULTILINE)
    assert len(titles) == len(set(titles))
    assert {
        "argan refocus", "argan verify", "argan serve", "argan export", "argan lint", "argan data",
        "argan data split-by-blur", "argan train ar-gan", "argan train look",
    } <= set(titles)  # fmt: skip
    linked = re.findall(r"^ *- \[(argan [^]]+)\]\(#([\w-]+)\)", page, re.MULTILINE)
    assert [title for title, _ in linked] == titles
    assert [anchor for _, anchor in linked] == [title.replace(" ", "-") for title in titles]
    for link in re.findall(r"\]\(([\w-]+\.md)\)", page):
        assert (ROOT / "docs" / link).exists(), f"the command line names docs/{link}"
    assert "`--f-number N`" in page and "`--near-duplicates <drop\\|keep>`" in page


# ---------------------------------------------------------------- links between pages

PAGES = sorted(
    path for folder in (".", "docs", "examples", "examples/*", "runtime")
    for path in ROOT.glob(f"{folder}/*.md")
)  # fmt: skip


def anchors(page: str) -> set[str]:
    """Of a page's headings, as GitHub makes them."""
    page = re.sub(r"^```.*?^```", "", page, flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", page, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Those to other pages, their headings and pictures; addresses elsewhere are not asked."""
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        file, _, place = link.partition("#")
        if re.match(r"\w+:", link):
            continue
        target = (page.parent / file).resolve() if file else page
        if not target.exists():
            broken.append(link)
        elif place and place not in anchors(target.read_text(encoding="utf-8")):
            broken.append(link)
    assert not broken, f"{page.relative_to(ROOT)} leads nowhere: {', '.join(broken)}"


# ---------------------------------------------------------------- docstrings and their pages


@pytest.mark.parametrize("name", reference.MODULES)
def test_public_names_have_docstrings(name: str) -> None:
    module = module_of(name)
    assert module.__doc__, f"{name} has no docstring"
    undocumented = [public for public, thing in public_names(module) if not own_doc(public, thing)]
    assert not undocumented, f"{name}: {', '.join(undocumented)} without a docstring"


def public_names(module: ModuleType) -> list[tuple[str, Any]]:
    """Its classes and functions."""
    here = vars(module)
    ours = [n for n, v in here.items() if getattr(v, "__module__", "") == module.__name__]
    names = here.get("__all__", [n for n in ours if not n.startswith("_")])
    found = [(n, here[n]) for n in names]
    return [(n, thing) for n, thing in found if inspect.isclass(thing) or inspect.isroutine(thing)]


def own_doc(name: str, thing: Any) -> str:
    doc = vars(thing).get("__doc__") if inspect.isclass(thing) else thing.__doc__
    made = f"{name}("  # what a dataclass says that has none
    return "" if doc is None or doc.startswith(made) else doc


def attributes(name: str, page: str) -> set[str]:
    """Those of the page, not those that its script would write."""
    return set(re.findall(rf'<[^>]* {name}="([^"$]*)"', page))


def test_pages(tmp_path: Path) -> None:
    """Made without a warning; names are there, links lead somewhere, and columns of a docstring
    stay columns. Of the runtime's modules: those for training take twice as long."""
    pytest.importorskip("pdoc")
    names = [name for name in reference.MODULES if not name.startswith("argan_")]
    reference.make_pages(tmp_path, names)
    pages = {path: path.read_text(encoding="utf-8") for path in tmp_path.rglob("*.html")}
    links = {path: attributes("href", page) for path, page in pages.items()}
    places = {path: attributes("id", page) for path, page in pages.items()}
    assert len(pages) == 1 + len(names)
    for name in names:
        path = tmp_path / f"{name.replace('.', '/')}.html"
        assert path.relative_to(tmp_path).as_posix() in links[tmp_path / "index.html"]
        assert {public for public, _ in public_names(module_of(name))} <= places[path]
    for path in pages:
        for link in links[path]:
            file, _, place = link.partition("#")
            if not link.startswith("https:"):
                target = (path.parent / file).resolve() if file else path
                assert place in {"", *places[target]}, f"{path.name} refers to {link}"
    columns = html.escape(inspect.getdoc(optics.Camera) or "", quote=False).split("\n\n")[1]
    assert len(columns.splitlines()) == 3
    assert f"<pre>{columns}</pre>" in pages[tmp_path / "argan" / "optics.html"]


# ---------------------------------------------------------------- the tour


def test_tour_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))  # nothing of the user's own, nothing left there
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    run = reference.run_tour(TOUR)
    code = [cell for cell in run.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert "passed" in code[-1].outputs[-1].text


def test_tour_as_committed() -> None:
    """With what it gave, small, and of no machine in particular."""
    text = TOUR.read_text(encoding="utf-8")
    assert len(text.encode()) <= MOST_BYTES
    notebook = json.loads(text)
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    pictures = [output["data"] for output in outputs if output["output_type"] == "execute_result"]
    assert len(pictures) >= 7 and all("image/jpeg" in picture for picture in pictures)
    words = [output for output in outputs if output["output_type"] != "execute_result"]
    assert {output.get("name") for output in words} == {"stdout"}  # no errors, no warnings
    assert not re.search(r"(?<![\w.])/[a-z]+/|[A-Z]:\\\\|\d m?s\b", "".join(map(str, words)))
    assert not any(cell["metadata"] for cell in code)
    for cell in notebook["cells"]:
        for link in re.findall(r"\]\(([^)#]+)", "".join(cell["source"])):
            assert (TOUR.parent / link).exists() or cell["cell_type"] == "code", link
