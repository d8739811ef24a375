"""The pages in ``docs/`` are whole: links lead somewhere, each alert and error is told of, each session is run.

What they name of the code is there, and where a session cannot be run its page says why.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.sockets.terminal import NOT_RUN, SESSION, not_run, sessions
from tests.sockets.test_pages import BESIDE_MAKE_RUN, BY_HAND
from tests.test_errors import NAMED
from twisted_kv.resp.refusals import CODES, UNKNOWN
from twisted_kv.web.answers import STATUS

TREE = Path(__file__).parent.parent
DOCS = TREE / "docs"
PAGES = [TREE / "README.md", *sorted(DOCS.glob("*.md")), *sorted((TREE / "etc").rglob("*.md"))]
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(TREE)))

PLAYED_ELSEWHERE = {"README.md": "test_readme.py", "etc/three-machines/README.md": "test_three_machines.py"}
"""Pages whose sessions have a test of their own in ``tests/sockets``."""

ONLY_SHOWN = {
    "docs/operating.md": ["it wants a second, empty cluster; test_restore.py has one"],
    "docs/quick-start.md": ["it wants the cluster of before wiped; test_restore.py does that"],
    "docs/installing.md": [
        "it installs into a home; test_packaging.py installs",
        "it wants root and systemd",
        "it wants the units of systemd",
        "it wants root",
        "it wants Docker",
        "it belongs into a shell's own file",
        "it belongs into a shell's own file",
        "it wants a reader",
    ],
}
"""Why sessions of a page are not run, for each that is not."""

SHOWN_WITHOUT_A_REASON = {"docs/backups.md"}
"""Pages with sessions that show folders of another machine; ``tests/sockets/test_backups.py`` makes the same calls."""


def without_code(page: Path) -> str:
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """What headings are called in a link, on a forge and on the site."""
    headings = re.findall(r"^#+ (.*)$", without_code(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_page
def test_every_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"`[^`\n]*`", "", without_code(page))
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or not file.is_relative_to(TREE) or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


def sections(title: str) -> dict[str, str]:
    """The parts of the handbook at the third level, those of one part of it, or of all."""
    text = without_code(DOCS / "failure-handbook.md")
    if title:
        (text,) = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    parts = re.split(r"^### (.*)\n", re.sub(r"^## .*\n", "", text, flags=re.MULTILINE), flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_the_handbook_tells_of_each_alert_and_of_no_other() -> None:
    alerts = re.findall(r"- alert: (\w+)", (TREE / "etc" / "prometheus" / "alerts.yml").read_text(encoding="utf-8"))
    assert len(alerts) == len(set(alerts)) > 10
    assert list(sections("Alerts")) == alerts


def test_the_handbook_tells_of_each_problem_type_with_its_status_and_its_code() -> None:
    told = {name: text for name, text in sections("").items() if name not in sections("Alerts")}
    begins = {kind.slug: f"{STATUS[kind]}, `{CODES[kind]}`." for kind in NAMED} | {"internal-error": "500, `ERR`."}

    assert set(told) == set(begins)
    assert [name for name, text in told.items() if not text.strip().startswith(begins[name])] == []
    assert [name for name, text in told.items() if len(text.strip()) <= len(begins[name])] == []


def test_the_handbook_tells_of_a_write_of_unknown_outcome() -> None:
    assert f"`{UNKNOWN.split()[0]}`" in (DOCS / "failure-handbook.md").read_text(encoding="utf-8")


def names_in(file: Path) -> set[str]:
    """Classes and functions of a module, and of each class its own, as ``Class.function``."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{part.name}" for part in node.body if hasattr(part, "name")}
    return found


def module(name: str) -> Path:
    return next((base / name for base in (TREE / "twisted_kv", TREE) if (base / name).is_file()), Path(name))


def test_every_file_that_the_architecture_names_is_there() -> None:
    named = re.findall(r"`([\w/]+\.py)`", (DOCS / "architecture.md").read_text(encoding="utf-8"))
    assert len(named) > 50
    assert [name for name in named if not module(name).is_file()] == []


def test_every_function_that_the_architecture_names_is_in_its_file() -> None:
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    steps = re.findall(r"`([\w/]+\.py)`((?: (?:\(|)`[\w.]+`\)?)+)", text)
    assert len(steps) > 40
    lost = [
        f"{file}: {name}"
        for file, names in steps
        for name in re.findall(r"`([\w.]+)`", names)
        if name not in names_in(module(file))
    ]
    assert lost == []


@every_page
def test_every_session_is_run_or_says_why_not(page: Path) -> None:
    name = str(page.relative_to(TREE))
    if not SESSION.search(page.read_text(encoding="utf-8")):
        return
    if sessions(page) and name not in SHOWN_WITHOUT_A_REASON:
        played = page.stem in {*BESIDE_MAKE_RUN, *BY_HAND} or (
            name in PLAYED_ELSEWHERE and (TREE / "tests" / "sockets" / PLAYED_ELSEWHERE[name]).is_file()
        )
        assert played, (
            f"nobody runs the sessions of {name}: name it in tests/sockets/test_pages.py, or say before each"
            f" '<!-- {NOT_RUN}why -->'"
        )
    assert not_run(page) == ONLY_SHOWN.get(name, [])


def test_pages_whose_sessions_are_run_have_some() -> None:
    assert [page for page in (*BESIDE_MAKE_RUN, *BY_HAND) if not sessions(DOCS / f"{page}.md")] == []


def test_the_contents_name_pages_that_are_there() -> None:
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    contents = re.findall(r"^```\{toctree\}\n(?::[^\n]*\n)+\n(.*?)^```", index, re.MULTILINE | re.DOTALL)
    named = re.findall(r"^(?:.* <)?([\w-]+)>?$", "\n".join(contents), re.MULTILINE)
    assert len(named) > 10
    assert len(named) == len(set(named))
    assert [name for name in named if not (DOCS / f"{name}.md").is_file()] == []
