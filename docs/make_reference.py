"""Make the reference: docs/commands.md from the command line, out/reference from the docstrings.

    python docs/make_reference.py [--out out/reference]    both
    python docs/make_reference.py commands                 docs/commands.md alone
    python docs/make_reference.py tour                     examples/tour.ipynb, run anew

Everything argan can do has to be installed, as `make test` installs it. Nothing here depends on the
width of a terminal, the number of cores or the version of Python.
"""

from __future__ import annotations

import argparse
import ast
import html
import io
import re
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field
from importlib import import_module
from inspect import cleandoc
from itertools import groupby
from pathlib import Path
from types import FunctionType
from typing import Any
from unittest.mock import patch

from typer.core import TyperCommand, TyperGroup

from argan import cli

DOCS = Path(__file__).parent
COMMANDS = DOCS / "commands.md"
TOUR = DOCS.parent / "examples" / "tour.ipynb"
MODULES = (
    "argan", "argan.refocus", "argan.photo", "argan.controls", "argan.optics", "argan.camera",
    "argan.colour", "argan.lens", "argan.render", "argan.upsample", "argan.embedded",
    "argan.depth_files", "argan.video", "argan.bundle", "argan.golden", "argan.adapter",
    "argan.backends", "argan.verify", "argan.metrics", "argan.errors",
    "argan_train", "argan_train.config", "argan_train.networks", "argan_train.render",
    "argan_train.losses", "argan_train.metrics", "argan_train.toy",
    "argan_export", "argan_export.graph", "argan_export.layered", "argan_export.quantize",
)  # fmt: skip


# ---------------------------------------------------------------- the command line


@dataclass
class Command:
    """What `argan NAME --help` says.

    usage     arguments, as they are given
    text      what it does, with examples; what is indented is code
    options   {heading: [(option or argument, what it means)]}
    inner     commands within it
    """

    name: str
    usage: str
    text: str
    options: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    inner: list[Command] = field(default_factory=list)


def read_command(*words: str) -> Command:
    """A command with those within it, from the very objects that print its help."""
    found: list[Any] = []

    def keep(self: Any, context: Any = None) -> str:
        found.append((self, context))
        return ""

    heard = io.StringIO()
    with (
        patch.object(argparse.ArgumentParser, "print_help", keep),
        patch.object(TyperCommand, "get_help", keep),
        patch.object(TyperGroup, "get_help", keep),
        redirect_stdout(heard),
        redirect_stderr(heard),
        suppress(SystemExit),
    ):
        cli.main([*words, "--help"])
    if not found:
        raise SystemExit(f"argan {' '.join(words)} --help: {heard.getvalue().strip()}")
    parser, context = found[0]
    if isinstance(parser, argparse.ArgumentParser):
        return read_argparse(parser, words)
    return read_typer(parser, context, words)


def read_typer(command: Any, context: Any, words: tuple[str, ...]) -> Command:
    usage: list[str] = []
    options: dict[str, list[tuple[str, str]]] = {}
    for param in command.params:
        if not (record := param.get_help_record(context)):
            continue
        written = record[0]
        meaning = re.sub(r"  \[(.*)\]$", r" (\1)", record[1])  # the default, the range
        heading = getattr(param, "rich_help_panel", None) or "Options"
        if param.param_type_name == "argument":
            heading, written = "Arguments", param.metavar + "..." * (param.nargs == -1)
            usage.append(written if param.required else f"[{written}]")
        options.setdefault(heading, []).append((written, meaning))
    inner = [read_command(*words, name) for name in getattr(command, "commands", ())]
    text = (command.help or "").replace("\b\n", "")
    return Command(" ".join(words), " ".join(["[OPTIONS]", *usage]), text, options, inner)


def read_argparse(parser: argparse.ArgumentParser, words: tuple[str, ...]) -> Command:
    needed, arguments, inner = [], [], []
    options: dict[str, list[tuple[str, str]]] = {}
    for group in parser._action_groups:
        title = {"positional arguments": "arguments"}.get(group.title or "", group.title or "")
        for action in group._group_actions:
            if isinstance(action, argparse._SubParsersAction):
                arguments.append("COMMAND")
                told = {choice.dest: choice.help for choice in action._choices_actions}
                for name in action.choices:
                    command = read_command(*words, name)
                    inner.append(command)
                    if not command.text:  # argparse keeps a line for the list, and no more
                        command.text = capital(told[name] or "")
            elif not isinstance(action, argparse._HelpAction):
                written = written_option(action)
                if not action.option_strings:
                    arguments.append(written)
                elif action.required:
                    needed.append(written.split(", ")[0].split()[0] + f" {value_of(action)}")
                meaning = (action.help or "") % {**vars(action), "prog": parser.prog}
                options.setdefault(capital(title), []).append((written, meaning))
    usage = " ".join([*needed, "[OPTIONS]", *arguments])
    text = "\n\n".join(filter(None, (parser.description, parser.epilog)))
    return Command(" ".join(words), usage, text, options, inner)


def value_of(action: argparse.Action) -> str:
    """What is given to an option, or an argument's name."""
    name = action.dest.upper() if action.option_strings else action.dest
    if action.choices:
        name = f"<{'|'.join(map(str, action.choices))}>"
    value = str(action.metavar or name)
    return "" if action.nargs == 0 else value + "..." * (action.nargs in ("+", "*"))


def written_option(action: argparse.Action) -> str:
    return f"{', '.join(action.option_strings)} {value_of(action)}".strip()


def commands_page() -> str:
    """docs/commands.md."""
    root = read_command()
    lines = [
        "# Every command and its options", "",
        "Made from the command line itself by `make reference`; `argan COMMAND --help` says the"
        " same. " + plain((cli.__doc__ or "").partition(". ")[2]), "",
        *contents(root.inner), "", *options_of(root),
    ]  # fmt: skip
    for command in root.inner:
        lines += section(command, "##")
    return "\n".join(lines).rstrip() + "\n"


def contents(commands: list[Command], indent: str = "") -> Iterator[str]:
    for command in commands:
        anchor = f"argan-{command.name.replace(' ', '-')}"
        first = re.split(r"(?<=[\w)])[.:](?:\s|$)|\n\n", command.text)[0]
        yield f"{indent}- [argan {command.name}](#{anchor}): {plain(' '.join(first.split()))}"
        yield from contents(command.inner, indent + "  ")


def section(command: Command, level: str) -> Iterator[str]:
    yield from (f"{level} argan {command.name}", "")
    yield from ("```", f"argan {command.name} {command.usage}".rstrip(), "```", "")
    yield from prose(command.text)
    yield from options_of(command)
    for inner in command.inner:
        yield from section(inner, level + "#")


def prose(text: str) -> Iterator[str]:
    """Lines as they are; what is indented in them is code."""
    for indented, group in groupby(text.splitlines(), lambda line: line.startswith(" ")):
        lines = list(group)
        if indented:
            yield from ("```", *textwrap.dedent("\n".join(lines)).splitlines(), "```", "")
            continue
        for paragraph in re.split(r"\n\n+", "\n".join(lines).strip()):
            if paragraph:
                yield from (plain(capital(paragraph)), "")


def options_of(command: Command) -> Iterator[str]:
    for heading, rows in command.options.items():
        if any(meaning for _, meaning in rows):
            yield from (f"| {plain(heading)} | |", "| --- | --- |")
            for written, meaning in rows:
                yield f"| `{cell(written)}` | {cell(plain(meaning))} |".replace("|  |", "| |")
        else:
            yield from (f"{plain(heading)}:", "", ", ".join(f"`{name}`" for name, _ in rows))
        yield ""


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def cell(text: str) -> str:
    return text.replace("|", r"\|")


def plain(text: str) -> str:
    """As Markdown that shows these very characters, with links to the pages beside this one."""
    parts = text.split("`")  # every other one is code
    for i in range(0, len(parts), 2):
        escaped = re.sub(r"(\*|<(?=[\w/!]))", r"\\\1", parts[i])
        parts[i] = re.sub(r"\bdocs/([\w-]+\.md)", r"[docs/\1](\1)", escaped)
    return "`".join(parts)


# ---------------------------------------------------------------- the API


INDEX = """
{% set root_module_name = false %}
{% extends "default/index.html.jinja2" %}
{% block title %}argan from Python{% endblock %}
{% block logo %}{% endblock %}
{% block content %}
{% set modules %}
<main class="pdoc"><h1>argan from Python</h1><dl>
{% for name, module in all_modules.items() %}
<dt><a href="{{ name.replace(".", "/") }}.html">{{ name }}</a></dt>
<dd>{{ module.docstring.split("\n\n")[0] | to_html | safe }}</dd>
{% endfor %}
</dl></main>
{% endset %}
{{ super() | replace('<main class="pdoc"></main>' | safe, modules) }}
{% endblock %}
"""
SHOW = "@public"  # pdoc's word
STYLE = """
.pdoc .docstring pre { padding: 0.4em 0.8em; font-size: 12px; white-space: pre; overflow-x: auto; }
"""


def make_pages(folder: Path, names: Sequence[str] = MODULES) -> None:
    """The pages of modules, by pdoc: FOLDER/index.html and one for each. Types are shown as they
    are written: `Disparity`, not what numpy makes of it."""
    from jinja2 import ChoiceLoader, DictLoader
    from pdoc import doc, doc_types, render

    render.configure(include_undocumented=False)
    own = DictLoader({"custom.css": STYLE, "index.html.jinja2": INDEX})
    render.env.loader = ChoiceLoader([own, render.env.loader])
    render.env.filters |= {"to_markdown": str, "to_html": docstring_html}
    pages = {}
    with (
        patch.object(doc, "safe_eval_type", as_written),
        patch.object(doc_types, "safe_eval_type", as_written),
    ):
        modules = {name: doc.Module(import_module(name)) for name in names}
        for name, module in modules.items():
            show_types(module)
            pages[f"{name.replace('.', '/')}.html"] = render.html_module(module, modules)
        pages["index.html"] = render.html_index(modules)
        pages["search.js"] = render.search_index(modules)
    shutil.rmtree(folder, ignore_errors=True)
    for file, text in pages.items():
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


class Written(str):
    """An annotation that is shown without quotes."""

    __repr__ = str.__str__


def as_written(annotation: Any, names: dict[str, Any], *_: Any) -> Any:
    """In place of pdoc's evaluation; argan's classes get their full name, by which pdoc links."""
    text = getattr(annotation, "__forward_arg__", annotation)
    if not isinstance(text, str):
        return annotation

    def full(match: re.Match[str]) -> str:
        home, _, name = match[0].rpartition(".")
        kind = getattr(names.get(home), name, None) if home else names.get(name)
        ours = isinstance(kind, type) and kind.__module__ in MODULES
        return f"{kind.__module__}.{kind.__qualname__}" if ours else match[0]

    return Written(re.sub(r"(?<![.\w\"'])(\w+\.)?[A-Z]\w+", full, text))


def show_types(module: Any) -> None:
    """Names of types (`Disparity = ...  # [H, W]`) are shown, with the comment behind them; so are
    constructors, which the docstring of their class explains."""
    lines = module.source.splitlines()
    for node in ast.parse(module.source).body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)]) if re.match(r"[A-Z]\w*[a-z]", name):
                if (variable := module.get(name)) is not None:
                    comment = lines[(node.end_lineno or 1) - 1].partition("  # ")[2]
                    variable.docstring = SHOW + comment
                    variable.default_value_str = ast.unparse(node.value)
    for kind in module.classes:
        made = kind.get("__init__")
        if made is not None and made.obj is not Exception.__init__:
            made.docstring = SHOW
        for name, member in vars(kind.obj).items():
            if name in getattr(kind.obj, "_fields", ()):  # "Alias for field number 0"
                kind.get(name).docstring = ""
            elif isinstance(member, property | FunctionType) and not name.startswith("_"):
                kind.get(name).docstring = cleandoc(member.__doc__ or SHOW)  # not its parent's


def docstring_html(text: str) -> str:
    """Paragraphs flow, lists are lists; what has columns or is indented stays as it is typed."""
    return "\n".join(block_html(block) for block in re.split(r"\n\s*\n", text.strip("\n")))


def block_html(block: str) -> str:
    escaped = re.sub(r"`([^`\n]+)`", code_html, html.escape(block, quote=False))
    if re.match(r"- \S", block) and not re.search(r"^(?!- |  \S)", block, re.MULTILINE):
        items = re.split(r"^- ", escaped, flags=re.MULTILINE)[1:]
        return "<ul>" + "".join(f"<li>{item}</li>" for item in items) + "</ul>"
    if re.search(r"^(\s|>>>)|\S {2,}\S", block, re.MULTILINE):
        return f"<pre>{escaped}</pre>"
    return f"<p>{escaped}</p>"


def code_html(match: re.Match[str]) -> str:
    """With argan's modules by their full name, by which pdoc links."""
    home, _, name = match[1].partition(".")
    known = name and f"argan.{home}" in MODULES and hasattr(import_module(f"argan.{home}"), name)
    return f"<code>{'argan.' if known else ''}{match[1]}</code>"


# ---------------------------------------------------------------- the tour


def run_tour(path: Path = TOUR) -> Any:
    """The notebook, its cells run from top to bottom by a fresh kernel in the notebook's folder.
    nbclient's CellExecutionError where one raises."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    where = {"metadata": {"path": str(path.parent)}}
    NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources=where, record_timing=False
    ).execute()
    return notebook


def renew_tour() -> None:
    import nbformat

    notebook = run_tour()
    notebook.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    nbformat.write(notebook, TOUR)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("what", nargs="?", choices=("commands", "pages", "tour"))
    parser.add_argument("--out", type=Path, default=Path("out/reference"))
    arguments = parser.parse_args()
    if arguments.what in (None, "commands"):
        COMMANDS.write_text(commands_page(), encoding="utf-8")
        print(COMMANDS)
    if arguments.what in (None, "pages"):
        make_pages(arguments.out)
        print(arguments.out / "index.html")
    if arguments.what == "tour":
        renew_tour()
        print(TOUR)


if __name__ == "__main__":
    main()
