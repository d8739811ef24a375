"""The completions that kvctl prints, run by the shells that they are for."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
BASH = """eval "$(kvctl completion bash)"
COMP_WORDS=(%s)
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
$(complete -p kvctl | sed 's/.*-F \\([^ ]*\\).*/\\1/') kvctl
printf '%%s\\n' "${COMPREPLY[@]}"
"""
ZSH = """autoload -Uz compinit && compinit -D
_describe() { local -a found; found=("${(@P)3}"); print -l -- "${found[@]}" }
compadd() { local -a found; found=("${(@P)argv[-1]}"); print -l -- "${found[@]}" }
eval "$(kvctl completion zsh)"
words=(%s)
CURRENT=${#words}
_kvctl_completion
"""
FISH = """kvctl completion fish | source
complete -C '%s'
"""
ASKED = [
    ("kvctl clu", {"cluster"}),
    ("kvctl cluster st", {"status"}),
    ("kvctl put --con", {"--consistency", "--content-type"}),
    ("kvctl put --consistency s", {"strong"}),
    ("kvctl completion f", {"fish"}),
]


def said(shell: str, script: str, folder: Path) -> set[str]:
    """Run a script, and give the first words of its lines: shells show what each completion means behind it."""
    found = shutil.which(shell)
    assert found, f"this test needs {shell}: apt-get install {shell}"
    environ = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "HOME": str(folder), "LC_ALL": "C.UTF-8"}
    options = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}[shell]
    done = subprocess.run(
        [found, *options, "-c", script],
        env=environ,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == "", done.stderr
    return {line.replace("\t", ":").split(":")[0] for line in done.stdout.splitlines() if line}


@pytest.mark.parametrize(("typed", "completed"), ASKED, ids=[typed for typed, _ in ASKED])
def test_bash_completes(typed: str, completed: set[str], tmp_path: Path) -> None:
    assert said("bash", BASH % typed, tmp_path) == completed


@pytest.mark.system
@pytest.mark.parametrize(("typed", "completed"), ASKED, ids=[typed for typed, _ in ASKED])
def test_zsh_completes(typed: str, completed: set[str], tmp_path: Path) -> None:
    assert said("zsh", ZSH % typed, tmp_path) == completed


@pytest.mark.system
@pytest.mark.parametrize(("typed", "completed"), ASKED, ids=[typed for typed, _ in ASKED])
def test_fish_completes(typed: str, completed: set[str], tmp_path: Path) -> None:
    assert said("fish", FISH % typed, tmp_path) == completed
