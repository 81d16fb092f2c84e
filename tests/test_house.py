"""The house stays as designed: one-way imports, few and short files, equal versions, commands that exist."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from retina_kp.cli.main import cli

ROOT = Path(__file__).resolve().parents[1]
# How large the package may be. Lower a limit as soon as the house is smaller. Only a new ability raises one, by what it
# brings: the last were maps that bend, refusals of print, files as they are, series, and a viewer to click and explore.
LIMITS = {
    "Python files": 156,
    "lines": 21020,
    "lines of a file": 250,
    "files of a wing": 18,
    "words of the README": 700,
}
# files with real tables of constants, which may keep their columns by `fmt: skip`
TABLES_OF_CONSTANTS: set[str] = set()
# conda-forge's name of what PyPI calls otherwise; pip installs the windowless OpenCV build, conda has one name for all
PYPI_NAMES = {
    "simpleitk": "SimpleITK",
    "pytorch": "torch",
    "opencv": "opencv-python-headless",
    "matplotlib-base": "matplotlib",
}
VISIBLE = {"README.md", "environment.yml", "notebooks", "retina_kp", "data", "outputs", "tests", "pyproject.toml"}
TOP_LEVEL = VISIBLE | {
    "Makefile",
    "LICENSE",
    ".ci",
    ".gitattributes",
    ".github",
    ".gitignore",
    ".pre-commit-config.yaml",
}
OUTSIDE = re.compile(r"\.\./shared\b|/work/")
MODULES = sorted((ROOT / "retina_kp").rglob("*.py"))
MODULE_NAMES = [str(path.relative_to(ROOT)) for path in MODULES]


def text(path: str | Path) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def git_files() -> list[str]:
    """Paths that git has or would add; skips where there is no repository, as in a source archive."""
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        listing = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except FileNotFoundError:
        pytest.skip("git is not installed")
    if listing.returncode:
        pytest.skip(f"git does not list the files here: {listing.stderr.strip()}")
    return [name for name in listing.stdout.splitlines() if (ROOT / name).is_file()]


def pyproject() -> dict:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no TOML reader; newer Pythons run this test")
    return tomllib.loads(text("pyproject.toml"))


def pyproject_versions() -> dict[str, SpecifierSet]:
    """Version range of each dependency in pyproject.toml, extras dev included, and of python."""
    project = pyproject()["project"]
    requirements = [Requirement(line) for line in project["dependencies"] + project["optional-dependencies"]["dev"]]
    return {item.name: item.specifier for item in requirements} | {"python": SpecifierSet(project["requires-python"])}


# ------------------------------------------------------------------ size and shape


def run(*command: str) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_imports_run_one_way():
    run(str(Path(sys.executable).with_name("lint-imports")), "--no-cache")


@pytest.mark.parametrize("arguments", [("check", "-q"), ("format", "--check", "-q")], ids=lambda words: words[0])
def test_ruff_finds_nothing(arguments):
    run(sys.executable, "-m", "ruff", *arguments, "retina_kp", "tests")


def test_the_package_is_small():
    lines = {name: len(text(name).splitlines()) for name in MODULE_NAMES}
    wings = [Path(name).parts[1] for name in MODULE_NAMES]
    found = {
        "Python files": len(lines),
        "lines": sum(lines.values()),
        "lines of a file": max(lines.values()),
        "files of a wing": max(map(wings.count, wings)),
        "words of the README": len(re.sub(r"```.*?```|## Results.*?\n\n", "", text("README.md"), flags=re.S).split()),
    }
    assert {name: size for name, size in found.items() if size > LIMITS[name]} == {}, max(lines, key=lines.get)


def test_the_formatter_is_not_switched_off():
    switched = {name for name in MODULE_NAMES if re.search(r"fmt: ?(skip|off)", text(name))}
    assert switched <= TABLES_OF_CONSTANTS


@pytest.mark.parametrize("name", MODULE_NAMES)
def test_module_is_python_3_10(name):
    ast.parse(text(name), name, feature_version=(3, 10))


def test_top_level_is_the_designed_one():
    assert {path.split("/")[0] for path in git_files()} == TOP_LEVEL


# ------------------------------------------------------------------ what installs and what is told


def test_environment_yml_has_the_versions_of_pyproject():
    yaml = pytest.importorskip("yaml", reason="PyYAML comes with papermill")
    requirements = [
        Requirement(line) for line in yaml.safe_load(text("environment.yml"))["dependencies"] if line != "pip"
    ]
    assert {PYPI_NAMES.get(r.name, r.name): r.specifier for r in requirements} == pyproject_versions()


def test_makefile_accepts_the_same_pythons():
    low, high = re.search(r"\((3, \d+)\) <= v < \((3, \d+)\)", text("Makefile")).groups()
    assert pyproject_versions()["python"] == SpecifierSet(f">={low.replace(', ', '.')},<{high.replace(', ', '.')}")


def test_a_wheel_has_every_package_and_the_notebooks():
    packages = {str(Path(name).parent).replace("/", ".") for name in MODULE_NAMES}
    assert {*pyproject()["tool"]["setuptools"]["packages"]} == packages | {"retina_kp.notebooks"}


def test_ci_script_runs_make_test():
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111, "make it executable: chmod +x .ci/run"
    assert "make test" in text(".ci/run")


def shipped_texts() -> dict[str, str]:
    """What users read: code, notebooks and texts, without the tests."""
    kinds = {".py", ".ipynb", ".md", ".toml", ".yml", ".yaml", ".json", ".txt", ""}
    names = [
        name for name in git_files() if Path(name).suffix in kinds and not name.startswith(("tests/", ".", "LICENSE"))
    ]
    return {name: text(name) for name in names}


def test_shipped_files_do_not_lean_on_folders_outside():
    assert [name for name, content in shipped_texts().items() if OUTSIDE.search(content)] == []


def test_commands_that_are_told_exist():
    texts = {name: content for name, content in shipped_texts().items() if "weights/" not in name}  # of old commits
    for name, content in texts.items():
        for module in re.findall(r"(?:python3?|\(PY\)|launch[\w -]*) -m (retina_kp[\w.]*\w)", content):
            spec = find_spec(module)
            assert spec, f"{name}: no module {module}"
            main = Path(spec.origin).with_name("__main__.py") if spec.submodule_search_locations else Path(spec.origin)
            assert '__name__ == "__main__"' in main.read_text(encoding="utf-8"), f"{name}: {module} is no command"
        for command in re.findall(r"(?:^|[`$] ?|\$\(RETINA_KP\) )retina-kp ([a-z]+)", content, re.MULTILINE):
            assert command in cli.commands, f"{name}: no command retina-kp {command}"
        for target in re.findall(r"(?:^|`)make ([a-z][a-z-]+)", content, re.MULTILINE):
            assert f"\n{target}:" in text("Makefile"), f"{name}: no make {target}"


def test_links_between_texts_lead_somewhere():
    for name in git_files():
        if name.endswith(".md"):
            for link in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", text(name)):
                assert ((ROOT / name).parent / link).exists(), f"{name}: {link} is not there"
