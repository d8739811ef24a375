"""What is built from the tree is what a user installs: wheel, sdist and ``-e``, each in a clean environment."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

TREE = Path(__file__).resolve().parents[2]
SOURCES = ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "twisted_kv", "twisted")
KINDS = ("wheel", "sdist", "editable")
UI = "twisted_kv/web/ui/"
COMMANDS = ("kvnode", "kvproxy", "kvcluster")


class Installed(NamedTuple):
    """A clean environment with one build of the project, and the archive that it came from."""

    folder: Path
    archive: Path | None

    def twistd(self, *arguments: str) -> str:
        """Run ``twistd`` of this environment from an empty folder, and give what it said."""
        elsewhere = self.folder.parent / "elsewhere"
        elsewhere.mkdir(exist_ok=True)
        return run(self.folder / "bin" / "twistd", *arguments, cwd=elsewhere)


def run(*command: str | Path, cwd: Path) -> str:
    outside = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(command, check=False, cwd=cwd, env=outside, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def copied_tree(to: Path) -> Path:
    """A copy without the traces of earlier builds, which a build would pick up."""
    to.mkdir(parents=True)
    for name in SOURCES:
        if (TREE / name).is_dir():
            shutil.copytree(TREE / name, to / name, ignore=shutil.ignore_patterns("__pycache__", "dropin.cache"))
        elif (TREE / name).exists():
            shutil.copy(TREE / name, to / name)
    return to


def built(kind: str, source: Path) -> Path | None:
    if kind == "editable":
        return None
    if kind == "wheel":
        run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", "dist", ".", cwd=source)
    else:
        run(sys.executable, "-m", "build", "--sdist", "--outdir", "dist", ".", cwd=source)
    (archive,) = (source / "dist").iterdir()
    return archive


def install(kind: str, folder: Path) -> Installed:
    """Build and install one kind. The environment sees neither this one's packages nor the tree."""
    source = copied_tree(folder / "source")
    archive = built(kind, source)
    environment = folder / "environment"
    venv.create(environment, with_pip=False, symlinks=True)
    what = ["-e", str(source)] if archive is None else [str(archive)]
    pip = [sys.executable, "-m", "pip", "--python", str(environment / "bin" / "python")]
    run(*pip, "install", "--no-compile", *what, cwd=folder)
    return Installed(environment, archive)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Installed]:
    folder = tmp_path_factory.mktemp("packaging")
    with ThreadPoolExecutor(len(KINDS)) as pool:
        return dict(zip(KINDS, pool.map(lambda kind: install(kind, folder / kind), KINDS), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_twistd_lists_the_three_commands(installed: dict[str, Installed], kind: str) -> None:
    listed = [line.split()[0] for line in installed[kind].twistd("--help").splitlines() if line.strip()]

    assert [command for command in COMMANDS if command not in listed] == []


@pytest.mark.parametrize(
    ("kind", "command"),
    [("wheel", "kvnode"), ("wheel", "kvproxy"), ("wheel", "kvcluster"), ("sdist", "kvnode"), ("editable", "kvnode")],
)
def test_a_command_explains_itself(installed: dict[str, Installed], kind: str, command: str) -> None:
    shown = installed[kind].twistd(command, "--help")

    assert "--data-dir=" in shown
    assert "--config=" in shown


def names_in(archive: Path) -> list[str]:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return wheel.namelist()
    with tarfile.open(archive) as sdist:
        return [name.partition("/")[2] for name in sdist.getnames()]


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_an_archive_holds_every_module_and_nothing_of_twisted_itself(
    installed: dict[str, Installed], kind: str
) -> None:
    archive = installed[kind].archive
    assert archive is not None
    named = {name for name in names_in(archive) if name.startswith(("twisted_kv/", "twisted/"))}
    packed = {name for name in named if "." in name and not name.startswith(UI)}

    source = archive.parents[1]
    pages = {str(path.relative_to(source)) for path in (source / UI).rglob("*") if path.is_file()}
    assert f"{UI}api.html" in pages
    assert {name for name in named if name.startswith(UI) and not (source / name).is_dir()} == pages
    ours = {str(path.relative_to(source)) for path in (source / "twisted_kv").rglob("*.py")}
    plugins = {"twisted/plugins/twisted_kv_plugin.py", "twisted/plugins/twisted_kv_endpoints.py"}
    assert packed == {*ours, *plugins, "twisted_kv/py.typed"}


def test_the_folders_that_belong_to_twisted_are_no_packages_of_ours() -> None:
    """An ``__init__.py`` there would be installed over Twisted's own."""
    assert list((TREE / "twisted").rglob("__init__.py")) == []
