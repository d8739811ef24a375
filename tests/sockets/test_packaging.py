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
BESIDE = (".ci", "benchmarks", "changelog", "docs", "etc", "tests")
"""Folders that a distribution gets with the sources, and no user with the wheel."""
FILES = (
    ".dockerignore",
    "CONTRIBUTING.md",
    "Dockerfile",
    "LICENSE",
    "Makefile",
    "README.md",
    "SECURITY.md",
    "compose.yaml",
)
SOURCES = ("setup.py", "pyproject.toml", "MANIFEST.in", ".gitignore", *FILES, "twisted_kv", "twisted", *BESIDE)
LEFT_OUT = shutil.ignore_patterns("__pycache__", "dropin.cache", "out", "node_modules", "dist")
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
    done = subprocess.run(command, check=False, cwd=cwd, env=outside, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def copied_tree(to: Path) -> Path:
    """A copy without the traces of earlier builds, which a build would pick up."""
    to.mkdir(parents=True)
    for name in SOURCES:
        if (TREE / name).is_dir():
            shutil.copytree(TREE / name, to / name, ignore=LEFT_OUT)
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
    assert {f"{UI}index.html", f"{UI}api.html", f"{UI}vendor/uplot-1.6.32/LICENSE"} < pages
    assert {name for name in named if name.startswith(UI) and not (source / name).is_dir()} == pages
    vendored = [name for name in names_in(archive) if "axe-core" in name]
    assert bool(vendored) is (kind == "sdist")  # the tests use it
    ours = {str(path.relative_to(source)) for path in (source / "twisted_kv").rglob("*.py")}
    plugins = {"twisted/plugins/twisted_kv_plugin.py", "twisted/plugins/twisted_kv_endpoints.py"}
    assert packed == {*ours, *plugins, "twisted_kv/py.typed"}


def test_an_sdist_holds_all_that_a_distribution_builds_tests_and_installs_from(installed: dict[str, Installed]) -> None:
    archive = installed["sdist"].archive
    assert archive is not None
    source = archive.parents[1]
    ours = {str(path.relative_to(source)) for name in BESIDE for path in (source / name).rglob("*") if path.is_file()}

    packed = set(names_in(archive))

    assert len(ours) > 200
    assert {*ours, *FILES} - packed == set()
    assert "etc/systemd/kvnode@.service" in packed
    assert [name for name in packed if name.endswith((".pyc", "dropin.cache"))] == []


def test_a_wheel_holds_nothing_beside_the_packages(installed: dict[str, Installed]) -> None:
    archive = installed["wheel"].archive
    assert archive is not None

    assert {name.split("/")[0].split("-")[0].removesuffix(".dist") for name in names_in(archive)} == {
        "twisted_kv",
        "twisted",
    }


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_manual_pages_and_completions_come_from_what_was_installed(
    installed: dict[str, Installed], kind: str, tmp_path: Path
) -> None:
    kvctl = installed[kind].folder / "bin" / "kvctl"

    run(kvctl, "manual", str(tmp_path), cwd=tmp_path)

    assert sorted(path.name for path in tmp_path.glob("man8/*")) == ["kvcluster.8", "kvnode.8", "kvproxy.8"]
    assert (tmp_path / "man1" / "kvctl.1").exists()
    assert "complete -o nosort -F" in run(kvctl, "completion", "bash", cwd=tmp_path)


def test_the_folders_that_belong_to_twisted_are_no_packages_of_ours() -> None:
    """An ``__init__.py`` there would be installed over Twisted's own."""
    assert list((TREE / "twisted").rglob("__init__.py")) == []
