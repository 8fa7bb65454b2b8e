"""Makes one site of `docs/` and of the pages that the repository has elsewhere.

Runs inside MkDocs (`make site`). Pages such as README.md flow in beside those of `docs/`; their
links are rewritten to where the pages are on the site. A link to a file that is no page becomes
plain text, and a link to nothing ends the build.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

_ROOT = Path(__file__).resolve().parents[2]
#: Pages outside `docs/`, by their path in the repository.
_ELSEWHERE = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "architecture.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "reporting.md",
    "CHANGELOG.md": "changelog.md",
    "clients/README.md": "client.md",
    "benchmarks/results/README.md": "benchmarks.md",
}
_SOURCE_OF = {page: source for source, page in _ELSEWHERE.items()}
_LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^(```.*?^```)", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from elsewhere."""
    for source, page in _ELSEWHERE.items():
        text = (_ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Rewrite the links of a page, outside its code blocks."""
    uri = page.file.src_uri
    source = _SOURCE_OF.get(uri, f"docs/{uri}")
    blocks = _FENCE.split(markdown)
    blocks[::2] = [
        _LINK.sub(lambda link: _rewritten(link, source, uri), block) for block in blocks[::2]
    ]
    return "".join(blocks)


def _rewritten(link: re.Match[str], source: str, page: str) -> str:
    text, url = link.groups()
    if re.match(r"[a-z]+:|#", url):
        return link.group()
    path, hash_sign, anchor = url.partition("#")
    target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    if not (_ROOT / target).exists():
        raise PluginError(f"{source}: no such file: {url}")
    if target in _ELSEWHERE:
        target_page = _ELSEWHERE[target]
    elif target.startswith("docs/") and not (_ROOT / target).is_dir():
        target_page = target.removeprefix("docs/")
    else:
        return text
    relative = posixpath.relpath(target_page, posixpath.dirname(page))
    return f"[{text}]({relative}{hash_sign}{anchor})"
