"""A hook of mkdocs: what the pages link to outside of ``docs`` becomes pages too, and pictures follow the colour scheme.

The same Markdown is read on GitHub, where ``../examples/x.py`` is a file and ``figures/x.svg`` stands on white.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
TEXTS = ("CHANGELOG.md", "CONTRIBUTING.md", "benchmarks/RESULTS.md")
SCRIPTS = tuple(
    str(path.relative_to(ROOT))
    for folder in ("examples", "benchmarks")
    for path in sorted((ROOT / folder).glob("*.py"))
)
NOTEBOOKS = tuple(str(path.relative_to(ROOT)) for path in sorted((ROOT / "examples").glob("*.ipynb")))
"""Files to download."""
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s:#]+)(#[^)\s]*)?\)")
OUTPUT = re.compile(r"\A```text\n")
"""What a command printed is wide, and set smaller than what a reader types."""
FENCE = re.compile(r"^(```.*?^```)", re.DOTALL | re.MULTILINE)


def on_files(files: Files, config: Any) -> Files:
    """Adds pages for the scripts and texts that stand beside ``docs``."""
    for name in TEXTS:
        files.append(File.generated(config, name, content=(ROOT / name).read_text(encoding="utf-8")))
    for name in SCRIPTS:
        code = (ROOT / name).read_text(encoding="utf-8")
        files.append(
            File.generated(
                config,
                f"{name}.md",
                content=f"---\nsearch: {{exclude: true}}\n---\n\n# {name}\n\n```python\n{code}```\n",
            )
        )
    for name in NOTEBOOKS:
        files.append(File.generated(config, name, content=(ROOT / name).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Turns links into those of the site; of code only the size of outputs is changed."""
    here = page.file.src_uri
    parts = FENCE.split(markdown)
    return "".join(
        OUTPUT.sub("``` { .text .output }\n", part)
        if part.startswith("```")
        else LINK.sub(lambda m: _link(m, here, files), part)
        for part in parts
    )


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Adds the script that lets the search work from a disk: before the theme's own, which starts the search."""
    script = posixpath.relpath("assets/search.js", posixpath.dirname(page.url) or ".")
    return output.replace("</head>", f'<script src="{script}"></script></head>', 1)


def on_post_build(config: Any) -> None:
    """Writes the search's index as a script too: pages from a disk may not read other files."""
    index = Path(config["site_dir"]) / "search" / "search_index.json"
    if index.is_file():  # not without the plugin
        index.with_suffix(".js").write_text(f"var __index = {index.read_text(encoding='utf-8')}", encoding="utf-8")


def _link(found: re.Match[str], here: str, files: Files) -> str:
    picture, text, target, anchor = found[1], found[2], found[3], found[4] or ""
    folder = posixpath.dirname(here if here in TEXTS else f"docs/{here}")
    place = posixpath.normpath(posixpath.join(folder, target))
    uri = place.removeprefix("docs/") if place.startswith("docs/") else f"{place}.md" if place in SCRIPTS else place
    relative = posixpath.relpath(uri, posixpath.dirname(here) or ".")
    dark = re.sub(r"(\.svg|\.png)$", r"-dark\1", uri)
    if picture and files.get_file_from_path(dark) is not None:
        other = posixpath.relpath(dark, posixpath.dirname(here) or ".")
        return f"![{text}]({relative}#only-light) ![{text}]({other}#only-dark)"
    return f"{picture}[{text}]({relative}{anchor})"
