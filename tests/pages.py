"""The pages of the documentation, the blocks of code that they show, and the commands in them."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@dataclass(frozen=True)
class Block:
    """A block of code between fences."""

    language: str
    code: str
    line: int
    """Number of its first line, from 1."""


def blocks(page: Path, language: str | None = None) -> list[Block]:
    """The blocks of a page, or those in one language."""
    text = page.read_text(encoding="utf-8")
    matches = re.finditer(r"^```(\w*)\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    every = [Block(match[1], match[2], text.count("\n", 0, match.start(2)) + 1) for match in matches]
    return [block for block in every if language in (None, block.language)]


def prose(page: Path) -> str:
    """A page without its blocks of code; their lines stay, empty."""
    text = page.read_text(encoding="utf-8")
    return re.sub(r"^```.*?^```$", lambda block: "\n" * block[0].count("\n"), text, flags=re.DOTALL | re.MULTILINE)


def commands(page: Path) -> list[list[str]]:
    """The words after `robust-student` of every such command in the page's blocks, also under torchrun."""
    lines = [line for block in blocks(page, "sh") for line in block.code.replace("\\\n", " ").splitlines()]
    lines_of_commands = []
    for line in lines:
        words = shlex.split(line, comments=True)
        if words[:1] == ["robust-student"]:
            lines_of_commands.append(words[1:])
        elif words[:1] == ["torchrun"]:
            lines_of_commands.append(words[words.index("robust_student") + 1 :])
    return lines_of_commands
