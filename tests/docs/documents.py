"""Reads the project's Markdown: its documents, and the blocks of code in them."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["DOCUMENTS", "ROOT", "blocks", "commands", "read"]

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "ops").rglob("*.md")])


def read(name: str) -> str:
    """The text of a document, by its path from the root of the project."""
    return (ROOT / name).read_text("utf-8")


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def commands(block: str) -> list[str]:
    """The commands of a block of shell; one that goes on in the next line is kept whole."""
    return [command.strip() for command in re.split(r"(?<![\\|])\n", block) if command.strip()]
