"""The manual pages tell of every command and option, and man(1) takes them without a word."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import click
import pytest

from tests.ctl.fakes import kvctl
from twisted_kv.ctl.main import COMMANDS, main
from twisted_kv.ctl.manual import family, flags_of, pages_of_daemons, pages_of_kvctl
from twisted_kv.ctl.roff import entry, escaped, paragraphs, quoted
from twisted_kv.options import ClusterOptions, NodeOptions, ProxyOptions

SHAPES = {"kvnode": NodeOptions, "kvproxy": ProxyOptions, "kvcluster": ClusterOptions}


def plain(page: str) -> str:
    """What stands in a page, without its marks."""
    return re.sub(r"\\f[BIR]", "", page).replace("\\-", "-").replace("\\e", "\\")


def test_there_is_a_page_for_each_command() -> None:
    pages = pages_of_kvctl(main)

    assert set(pages) == {(1, "kvctl"), *((1, f"kvctl-{name}") for name in COMMANDS)}
    for name, known in COMMANDS.items():
        assert f"kvctl-{name} - {known.says.rstrip('.')}\n" in plain(pages[1, f"kvctl-{name}"])
        assert f"kvctl-{name}(1)" in plain(pages[1, "kvctl"])


def test_a_page_tells_of_every_option_of_its_command_and_of_those_that_it_holds() -> None:
    pages = pages_of_kvctl(main)
    root = click.Context(main, info_name="kvctl")

    told = 0
    for name in COMMANDS:
        command = main.get_command(root, name)
        assert command is not None
        text = plain(pages[1, f"kvctl-{name}"])
        for one, ctx in family(command, click.Context(command, info_name=name, parent=root)):
            assert ctx.command_path in text
            for param in one.params:
                if isinstance(param, click.Option) and not param.hidden:
                    told += 1
                    assert re.search(rf"(^|, ){re.escape(param.opts[-1])}\b", text, re.MULTILINE), (name, param.opts)
    assert told > 100


@pytest.mark.parametrize("role", SHAPES)
def test_a_daemons_page_tells_of_every_option(role: str) -> None:
    text = plain(pages_of_daemons()[8, role])

    for words, sentence in flags_of(SHAPES[role]):
        assert f"\n{words}\n{sentence}\n" in text
    assert "\ntwistd [--nodaemon] " in text


def test_pages_are_the_same_every_time() -> None:
    assert pages_of_kvctl(main) == pages_of_kvctl(main)


def test_text_stays_text() -> None:
    assert escaped("a\\b\n.c\n'd -e") == "a\\eb\n\\&.c\n\\&'d \\-e"
    assert quoted('say "x"') == '"say \\(dqx\\(dq"'
    assert entry("-f, --file NAME", "A\n  file.") == [".TP", "\\fB\\-f\\fR, \\fB\\-\\-file\\fR \\fINAME\\fR", "A file."]
    assert paragraphs("One\ntwo.\n\n\b\nx  y\n  z") == [".PP", "One two.", ".PP", ".nf", "x  y", "  z", ".fi"]


def test_the_command_writes_them_into_a_folder(tmp_path: Path) -> None:
    done = kvctl("manual", str(tmp_path / "man"))

    assert (done.exit_code, done.stderr) == (0, "")
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*"))
    assert len(found) == len(COMMANDS) + 1 + len(SHAPES)
    assert {"man/man1/kvctl.1", "man/man1/kvctl-put.1", "man/man8/kvnode.8"} <= set(found)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    done = kvctl("manual", str(tmp_path / "file" / "man"))

    assert done.exit_code == 1
    assert "cannot be written" in done.stderr
    assert "Not a directory" in done.stderr


@pytest.mark.system
def test_man_shows_every_page_without_a_warning(tmp_path: Path) -> None:
    assert kvctl("manual", str(tmp_path)).exit_code == 0
    tool = shutil.which("man")
    assert tool, "this test needs Debian's man: apt-get install man-db"

    pages = sorted(tmp_path.rglob("*.[18]"))
    assert len(pages) > 15
    for page in pages:
        done = subprocess.run(
            [tool, "--warnings", "--encoding=UTF-8", "--local-file", str(page)],
            env={**os.environ, "LC_ALL": "C.UTF-8", "MANWIDTH": "80", "PAGER": "cat", "MANPAGER": "cat"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, ""), page
        assert f"{page.stem.upper()}({page.suffix[1]})" in done.stdout
        assert not re.search(r"\\f[BIR]|^\.\w\w ", done.stdout, re.MULTILINE), page
