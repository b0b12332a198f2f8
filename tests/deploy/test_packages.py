"""sdist and wheel: what is in them, what they say of themselves, and that they work elsewhere."""

import configparser
import email
import email.message
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from esource import __version__
from tests.harness import ROOT, Hub, needs, started
from tests.harness.machine import FULL, command

SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")


def tree(to: Path) -> Path:
    """Return a copy of the source that is under version control, or as it was unpacked."""
    if (ROOT / ".git").exists():
        names = command("git", "-C", ROOT, "ls-files", "-co", "--exclude-standard").splitlines()
    else:
        names = [str(path.relative_to(ROOT)) for path in ROOT.rglob("*") if path.is_file()]
    for name in names:
        if (ROOT / name).is_file() and not re.match(r"(\.venv|.*egg-info|.*__pycache__)/", name):
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)
    return to


class Built:
    """The two files, and the source that they were built of."""

    def __init__(self, home: Path) -> None:
        self.source = tree(home / "source")
        self.before = {str(path.relative_to(self.source)) for path in self.source.rglob("*")}
        dist = home / "dist"
        # As `python -m build` does, but with the setuptools that is here already.
        command(
            sys.executable, "-m", "build", "--no-isolation", "--outdir", dist, self.source
        )  # fmt: skip
        [self.sdist] = dist.glob("*.tar.gz")
        [self.wheel] = dist.glob("*.whl")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Both, built of the source as it is here."""
    import build  # noqa: F401 -- it is a program of its own that runs

    return Built(tmp_path_factory.mktemp("built"))


@pytest.fixture(scope="module")
def about(built: Built) -> email.message.Message:
    """What the wheel says of itself."""
    with zipfile.ZipFile(built.wheel) as wheel:
        [name] = [name for name in wheel.namelist() if name.endswith("dist-info/METADATA")]
        return email.message_from_bytes(wheel.read(name))


def test_the_sdist_is_the_source(built: Built) -> None:
    with tarfile.open(built.sdist) as sdist:
        files = {each.name.partition("/")[2] for each in sdist if each.isfile()}
    source = {
        name for name in built.before if (built.source / name).is_file()
    }  # fmt: skip
    made = {name for name in files if name == "PKG-INFO" or "egg-info/" in name}
    assert files - made == source


def test_a_build_leaves_nothing_that_brings_modules_back(built: Built) -> None:
    after = {str(path.relative_to(built.source)) for path in built.source.rglob("*")}
    left = {name for name in after - built.before if "egg-info" not in name}
    assert left == set()


def test_a_module_that_is_removed_is_in_no_later_wheel(built: Built, tmp_path: Path) -> None:
    """Also if an earlier version has left a `build/`, as `pip install .` did."""
    source = tree(tmp_path / "source")
    stale = source / "build" / "lib" / "esource" / "stale.py"
    stale.parent.mkdir(parents=True)
    stale.write_text("")
    command(
        sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", tmp_path, source
    )  # fmt: skip
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert "esource/stale.py" not in archive.namelist()
        assert "esource/config.py" in archive.namelist()


def test_the_wheel_has_the_package_and_what_is_deployed(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as wheel:
        names = {name for name in wheel.namelist() if "dist-info/" not in name}
        for path in (ROOT / "deploy").rglob("*"):
            if path.is_file():
                name = f"esource/deploy/{path.relative_to(ROOT / 'deploy')}"
                assert wheel.read(name) == path.read_bytes()
    beside = {name.partition("/data/")[2] for name in names if ".data/" in name}
    assert beside == {
        "share/man/man1/esource.1", "share/bash-completion/completions/esource.bash",
        "share/zsh/site-functions/_esource",
    }  # fmt: skip
    assert {name.partition("/")[0] for name in names if ".data/" not in name} == {"esource"}
    for path in (ROOT / "esource").rglob("*"):
        if path.is_file() and path.suffix != ".pyc":
            assert str(path.relative_to(ROOT)) in names


def test_it_says_what_it_is(about: email.message.Message) -> None:
    assert (about["Name"], about["Version"]) == ("esource", __version__)
    assert about["Author"]
    kinds = {value.partition(",")[0] for value in about.get_all("Project-URL", [])}
    assert kinds >= {"Source", "Documentation", "Changelog"}
    classifiers = about.get_all("Classifier", [])
    oldest = SETUP["options"]["python_requires"].removeprefix(">=")
    assert f"Programming Language :: Python :: {oldest}" in classifiers


def links(markdown: str) -> Iterator[str]:
    """Yield where the links and the images of a text lead."""
    text = re.sub(r"^```.*?^```$|`[^`\n]*`", "", markdown, flags=re.MULTILINE | re.DOTALL)
    yield from re.findall(r"\]\(([^)\s]+)", text)
    yield from re.findall(r"^\[[^\]]+\]: (\S+)", text, re.MULTILINE)
    yield from re.findall(r'(?:src|srcset|href)="([^"]+)"', text)


def test_no_link_of_the_long_description_is_relative(about: email.message.Message) -> None:
    text = str(about.get_payload(decode=True), "utf-8")  # type: ignore[arg-type]
    found = list(links(text))
    assert len(found) == len(list(links((ROOT / "README.md").read_text()))) > 5
    assert [link for link in found if not link.startswith(("https://", "mailto:"))] == []


def test_each_link_of_the_readme_leads_to_a_file() -> None:
    for link in links((ROOT / "README.md").read_text()):
        path = link.partition("#")[0]
        assert re.match("[a-z]+:", link) or not path or (ROOT / path).exists(), link


def test_twine_finds_nothing_wrong(built: Built) -> None:
    import twine  # noqa: F401 -- it is a program of its own that runs

    done = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", built.sdist, built.wheel],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


# -- the constraints ---------------------------------------------------------------------------

CONSTRAINTS = [
    Requirement(line)
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if not line.startswith("#")
]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def needed(name: str, extras: frozenset[str], seen: set[str]) -> None:
    """Collect the names of all that a package needs here, with these extras."""
    for text in metadata.requires(name) or []:
        each = Requirement(text)
        marker = each.marker
        if marker and not any(marker.evaluate({"extra": extra}) for extra in extras | {""}):
            continue
        if (key := normal(each.name)) not in seen:
            seen.add(key)
            needed(each.name, frozenset(each.extras), seen)
        elif each.extras:
            needed(each.name, frozenset(each.extras), seen)


def test_the_constraints_name_everything_that_the_hub_needs() -> None:
    seen: set[str] = set()
    needed("esource", frozenset({"postgresql", "redis"}), seen)
    assert seen <= {normal(each.name) for each in CONSTRAINTS}


def test_the_constraints_are_what_setup_cfg_takes() -> None:
    fixed = {normal(each.name): str(each.specifier).removeprefix("==") for each in CONSTRAINTS}
    extras = SETUP["options.extras_require"]
    for text in "".join(
        [SETUP["options"]["install_requires"], extras["postgresql"], extras["redis"]]
    ).strip().splitlines():  # fmt: skip
        each = Requirement(text)
        assert each.specifier.contains(fixed[normal(each.name)]), text


# -- elsewhere ---------------------------------------------------------------------------------


class Installed(Hub):
    """The hub of an environment of its own, started in an empty folder."""

    bin: Path

    def command(self) -> list[str]:
        return [str(self.bin / "esource")]


@pytest.mark.skipif(not FULL, reason="installs all packages anew: TESTS_FULL=1")
def test_the_wheel_serves_in_a_new_environment(built: Built, tmp_path: Path) -> None:
    needs("cc")
    environment = tmp_path / "venv"
    command(sys.executable, "-m", "venv", environment)
    command(
        environment / "bin" / "pip", "install", "-q", "-c", ROOT / "constraints.txt", built.wheel
    )
    hub = Installed(tmp_path)
    hub.bin = environment / "bin"
    hub.environ.pop("PYTHONPATH", None)
    with started(hub):
        hub.publish("/orders?id=1", "one coffee")
        assert hub.rows("orders") == [b"1\t\tone coffee"]
    unit = subprocess.run(
        [environment / "bin" / "esource", "systemd"], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": ""}, check=True,
    ).stdout  # fmt: skip
    assert f"ExecStart={environment}/bin/esource\n" in unit
