"""Text as man(7) has it: what a manual page is written in."""

from __future__ import annotations

import re

AS_IT_IS = "\b"
"""What a paragraph begins with whose lines are to stay as they are: click's mark."""


def escaped(text: str) -> str:
    """Give text that roff takes for nothing but text."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"^(?=[.'])", r"\\&", text, flags=re.MULTILINE)


def quoted(text: str) -> str:
    """Give text as one argument of a macro."""
    return '"' + escaped(text).replace('"', "\\(dq") + '"'


def paragraphs(text: str) -> list[str]:
    """Give the lines of a docstring's paragraphs."""
    lines: list[str] = []
    for block in re.split(r"\n\s*\n", text.strip("\n ")):
        rows = block.splitlines()
        if rows[0].strip(" ") == AS_IT_IS:
            lines += [".PP", ".nf", *(escaped(row.rstrip()) for row in rows[1:]), ".fi"]
        else:
            lines += [".PP", escaped(" ".join(row.strip() for row in rows))]
    return lines


def entry(term: str, text: str) -> list[str]:
    """Give an option, or anything else that has a name, and what it is: flags bold, and what they take slanted."""
    shown = re.sub(
        r"(?<![^\s,])(-{1,2}[\w-]+)|(\S+)",
        lambda found: f"\\fB{escaped(found[1])}\\fR" if found[1] else f"\\fI{escaped(found[2])}\\fR",
        term,
    )
    return [".TP", shown.replace("\\fI,\\fR", ","), escaped(" ".join(text.split()))]


def page(name: str, section: int, version: str, says: str, parts: list[tuple[str, list[str]]]) -> str:
    """Put a page together.

    :param says: what it is about, for the list that ``man -k`` searches.
    :param parts: headings, and the lines under each.
    """
    # No date: the same version gives the same page.
    head = [
        f'.TH {quoted(name.upper())} {section} "" {quoted(f"twisted_kv {version}")} "twisted_kv"',
        ".SH NAME",
        f"{escaped(name)} \\- {escaped(says.rstrip('.'))}",
    ]
    body = [line for heading, lines in parts if lines for line in (f".SH {heading}", *lines)]
    return "\n".join([*head, *body, ""])
