"""The house stays as designed: equal versions in both environment files, fixed top level, no leaning on folders
outside, old syntax."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parents[1]
# conda-forge's name of what PyPI calls otherwise; pip installs the windowless OpenCV build, conda has one name for all
# builds
PYPI_NAMES = {"pytorch": "torch", "opencv": "opencv-python-headless", "matplotlib-base": "matplotlib"}
TOP_LEVEL = {
    "README.md",
    "environment.yml",
    "notebooks",
    "retina_kp",
    "data",
    "outputs",
    "tests",
    "pyproject.toml",
    "Makefile",
    "LICENSE",
    ".ci",
    ".gitattributes",
    ".github",
    ".gitignore",
    ".pre-commit-config.yaml",
}
SHIPPED = ("retina_kp", "notebooks", "data/README.md", "README.md", "Makefile", "environment.yml", "pyproject.toml")
OUTSIDE = re.compile(r"\.\./shared\b|/work/")
MODULES = sorted((ROOT / "retina_kp").rglob("*.py"))


def git_files() -> list[str]:
    """Paths that git has or would add; skips where there is no repository, as in a source archive."""
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        listing = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except FileNotFoundError:
        pytest.skip("git is not installed")
    if listing.returncode:
        pytest.skip(f"git does not list the files here: {listing.stderr.strip()}")
    return listing.stdout.splitlines()


def pyproject_versions() -> dict[str, SpecifierSet]:
    """Version range of each dependency in pyproject.toml, extras dev included, and of python."""
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no TOML reader; newer Pythons run this test")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    requirements = [Requirement(line) for line in project["dependencies"] + project["optional-dependencies"]["dev"]]
    return {item.name: item.specifier for item in requirements} | {"python": SpecifierSet(project["requires-python"])}


def conda_versions() -> dict[str, SpecifierSet]:
    """Version range of each dependency in environment.yml, under its PyPI name; pip itself left out."""
    yaml = pytest.importorskip("yaml", reason="PyYAML comes with papermill")
    lines = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    requirements = [Requirement(line) for line in lines if line != "pip"]
    return {PYPI_NAMES.get(item.name, item.name): item.specifier for item in requirements}


def test_environment_yml_has_the_versions_of_pyproject():
    assert conda_versions() == pyproject_versions()


def test_makefile_accepts_the_same_pythons():
    low, high = re.search(r"\((3, \d+)\) <= v < \((3, \d+)\)", (ROOT / "Makefile").read_text(encoding="utf-8")).groups()
    assert pyproject_versions()["python"] == SpecifierSet(f">={low.replace(', ', '.')},<{high.replace(', ', '.')}")


def test_top_level_is_the_designed_one():
    found = {path.split("/")[0] for path in git_files()}
    extra, missing = sorted(found - TOP_LEVEL), sorted(TOP_LEVEL - found)
    assert not extra, f"not in the design: {extra}; images belong in data/, results in outputs/, code in retina_kp/"
    assert not missing, f"the design has them, the tree does not: {missing}"


def test_shipped_files_do_not_lean_on_folders_outside():
    found = []
    for name in git_files():
        if name.startswith(SHIPPED) and Path(name).suffix in {
            ".py",
            ".ipynb",
            ".md",
            ".toml",
            ".yml",
            ".yaml",
            ".json",
            ".txt",
            "",
        }:
            lines = (ROOT / name).read_text(encoding="utf-8").splitlines() if (ROOT / name).is_file() else []
            found += [
                f"{name}:{number}: {line.strip():.120}" for number, line in enumerate(lines, 1) if OUTSIDE.search(line)
            ]
    assert not found, "these lines name a folder that users do not have:\n" + "\n".join(found)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_module_is_python_3_10(path):
    ast.parse(path.read_text(encoding="utf-8"), str(path), feature_version=(3, 10))


def test_ci_script_runs_make_test():
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111, "make it executable: chmod +x .ci/run"
    assert "make test" in script.read_text(encoding="utf-8")


def test_ruff_finds_nothing():
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "-q", "retina_kp", "tests"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
