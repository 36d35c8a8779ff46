"""The README as PyPI shows it; everything else about the distribution is in setup.cfg.

The pages to which the README links by relative paths are not on PyPI, but in the source
distribution. So there a link becomes its text and the path of the page.
"""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import setup

_PICTURE = re.compile(r"```mermaid\n.*?```\n\n|^!\[[^\]]*\]\([^)]*\)\n\n", re.DOTALL | re.MULTILINE)
_RELATIVE_LINK = re.compile(r"\[([^\]]+)\]\((?!https?://|#)([^)#]+)(?:#[^)]*)?\)")


def for_pypi(readme: str) -> str:
    """The README without links that lead nowhere, and without pictures, which PyPI lacks."""

    def resolved(link: re.Match[str]) -> str:
        text, path = link.groups()
        return text if text.strip("`") == path.rstrip("/") else f"{text} (`{path}`)"

    return _RELATIVE_LINK.sub(resolved, _PICTURE.sub("", readme))


if __name__ == "__main__":
    here = Path(__file__).resolve().parent
    setup(
        long_description=for_pypi((here / "README.md").read_text(encoding="utf-8")),
        long_description_content_type="text/markdown",
    )
