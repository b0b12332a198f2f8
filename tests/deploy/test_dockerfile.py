"""The Dockerfile, as far as it can be checked without an engine: a rehearsal of the build.

Each instruction is parsed and done to folders that stand for the stages: a `COPY` copies what
`.dockerignore` lets through, a `RUN` runs, with `/opt/docker` moved to such a folder and, to
be quick and leave the registry alone, without dependencies: those of the tests stand in.
Then the image's command is run, and its health check, with the environment of the image.

What this cannot show: that the base images exist and hold what is taken for granted (Python
with pip, a C compiler in the first), and how the engine treats a volume's owner.
"""

import configparser
import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.harness import PATIENCE_SECONDS, ROOT, Hub, free_port, started

WORKDIR = "/opt/docker"
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")


class Instruction(NamedTuple):
    """One instruction of a Dockerfile, its lines joined."""

    name: str
    argument: str


def parsed(text: str) -> list[Instruction]:
    lines = [line for line in text.splitlines() if not re.match(r"\s*#", line)]
    joined = "\n".join(lines).replace("\\\n", "")
    return [
        Instruction(*line.strip().split(None, 1)) for line in joined.splitlines() if line.strip()
    ]


def stages(instructions: list[Instruction]) -> list[list[Instruction]]:
    """Return the instructions of each stage, from its FROM on."""
    starts = [i for i, instruction in enumerate(instructions) if instruction.name == "FROM"]
    return [instructions[start:end] for start, end in zip(starts, [*starts[1:], None], strict=True)]


DOCKERFILE = parsed((ROOT / "Dockerfile").read_text())
BUILD, IMAGE = stages(DOCKERFILE)
SETTINGS = {name: argument for name, argument in IMAGE if name not in ("COPY", "RUN")}


def ignored(path: str) -> bool:
    """Return whether `.dockerignore` keeps a file out: the last pattern that matches decides."""
    verdict = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.strip().removeprefix("!").strip("/")
        if not pattern or line.startswith("#"):
            continue
        if any(matches(pattern, part) for part in [path, *map(str, Path(path).parents)]):
            verdict = not line.startswith("!")
    return verdict


def matches(pattern: str, path: str) -> bool:
    """Return whether a pattern of `.dockerignore` matches a whole path (not Go's `[^…]`)."""
    if pattern.startswith("**/"):
        return any(matches(pattern[3:], path.split("/", n)[n]) for n in range(path.count("/") + 1))
    parts, names = pattern.split("/"), path.split("/")
    return len(parts) == len(names) and all(map(fnmatch.fnmatchcase, names, parts))


def seen(source: str) -> list[Path]:
    """Return the files of a `COPY` source that a build gets to see, relative to the tree."""
    top = ROOT / source
    paths = [top, *sorted(top.rglob("*"))]
    files = [path.relative_to(ROOT) for path in paths if path.is_file()]
    return [path for path in files if not ignored(str(path))]


class Rehearsal:
    """A folder that stands for `/` of the stage that is being built."""

    def __init__(self, home: Path) -> None:
        self.root = home / "root"
        self.stages: dict[str, Path] = {}
        self.environ: dict[str, str] = {}
        self.given = home / "given"  # what was given to whom: that takes root, so it is noted
        chown = home / "bin" / "chown"
        chown.parent.mkdir()
        chown.write_text(f'#!/bin/sh\necho "$@" >> {self.given}\n')
        chown.chmod(0o755)
        self.path = f"{chown.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}"

    def here(self, text: str) -> str:
        """Return text with the image's paths as they are on this machine."""
        return re.sub(rf"(?<![\w/.]){WORKDIR}\b", f"{self.root}{WORKDIR}", text)

    def build(self, stage: list[Instruction]) -> None:
        name = re.search(r" AS (\w+)$", stage[0].argument)
        workdir = self.root
        self.environ = {"PATH": self.path}
        for instruction, argument in stage:
            if instruction == "WORKDIR":
                workdir = Path(self.here(argument))
                workdir.mkdir(parents=True)
            elif instruction == "COPY":
                self._copy(argument, workdir)
            elif instruction == "RUN":
                environ = {**os.environ, **self.environ, "PIP_NO_DEPS": "1"}
                run = subprocess.run(
                    ["/bin/sh", "-c", self.here(argument)], cwd=workdir, env=environ, check=False,
                    stdin=subprocess.DEVNULL, capture_output=True, text=True,
                )  # fmt: skip
                assert run.returncode == 0, run.stdout + run.stderr
            elif instruction == "ENV":
                for variable in argument.split():
                    key, _, value = variable.partition("=")
                    value = value.replace("$PATH", self.environ["PATH"])
                    self.environ[key] = self.here(value)
        if name:
            self.stages[name[1]] = self.root.rename(self.root.with_name(name[1]))

    def _copy(self, argument: str, workdir: Path) -> None:
        *sources, target = argument.split()
        into = workdir / self.here(target)
        if sources[0].startswith("--from="):
            stage, [source] = sources[0].removeprefix("--from="), sources[1:]
            shutil.copytree(f"{self.stages[stage]}{source}", into, symlinks=True)
            return
        assert len(sources) == 1 or target.endswith("/")
        for source in sources:
            assert seen(source), f"COPY {source}: not in the tree, or kept out by .dockerignore"
            for path in seen(source):
                # What is copied of a folder is its content.
                to = into / (path.name if str(path) == source else path.relative_to(source))
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / path, to)


class Container(Hub):
    """The image's command, with the image's environment, on loopback."""

    def __init__(self, rehearsal: Rehearsal) -> None:
        super().__init__(rehearsal.root / WORKDIR[1:])
        self.log_path = rehearsal.root / "hub.log"
        self.environ = {
            **os.environ, **rehearsal.environ, "ESOURCE_BIND": f"127.0.0.1:{self.port}",
        }  # fmt: skip
        self.environ.pop("ESOURCE_DIR", None)

    def command(self) -> list[str]:
        # `Popen` looks for the program in the PATH of the tests.
        [program, *arguments] = json.loads(SETTINGS["CMD"])
        found = shutil.which(program, path=self.environ["PATH"])
        assert found
        return [found, *arguments]


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> Rehearsal:
    """The image, built."""
    rehearsal = Rehearsal(tmp_path_factory.mktemp("image"))
    rehearsal.build(BUILD)
    rehearsal.build(IMAGE)
    # The dependencies: those that the tests run with.
    [packages] = (rehearsal.root / WORKDIR[1:]).glob(".venv/lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return rehearsal


@contextmanager
def running(rehearsal: Rehearsal) -> Iterator[Container]:
    container = Container(rehearsal)
    with started(container):
        yield container


def health(rehearsal: Rehearsal, port: int) -> int:
    """Run the health check; return its exit code."""
    [program, *arguments] = json.loads(SETTINGS["HEALTHCHECK"].partition(" CMD ")[2])
    # What the slim image has: Python, and no curl.
    assert program == "python"
    return subprocess.run(
        [rehearsal.root / WORKDIR[1:] / ".venv/bin/python", *arguments], check=False,
        env={**rehearsal.environ, "ESOURCE_BIND": f"127.0.0.1:{port}", "http_proxy": "http://no.where"},
        stderr=subprocess.DEVNULL, timeout=PATIENCE_SECONDS,
    ).returncode  # fmt: skip


def test_the_image_is_slim_and_of_one_release_with_the_stage_that_builds() -> None:
    build, image = (stage[0].argument.split()[0] for stage in (BUILD, IMAGE))
    match = re.fullmatch(r"python:3\.(\d+)-slim-(\w+)", image)
    assert match
    assert build == f"python:3.{match[1]}-{match[2]}"
    oldest = SETUP["options"]["python_requires"].removeprefix(">=3.")
    assert int(match[1]) >= int(oldest)


def test_the_folders_and_the_port_are_the_promised_ones() -> None:
    assert SETTINGS["WORKDIR"] == WORKDIR
    assert SETTINGS["VOLUME"] == f"{WORKDIR}/events"
    assert SETTINGS["EXPOSE"] == "9000"
    assert "ESOURCE_BIND=0.0.0.0:9000" in SETTINGS["ENV"].split()


def test_the_documentation_runs_the_image_with_that_volume_and_that_port() -> None:
    [run] = re.findall(
        r"^docker run .*", (ROOT / "docs" / "operations.md").read_text(), re.MULTILINE
    )
    assert f'-v "$(pwd)/events:{SETTINGS["VOLUME"]}"' in run
    assert f"-p 9000:{SETTINGS['EXPOSE']}" in run


def test_the_user_is_not_root_and_comes_after_all_that_root_must_do() -> None:
    names = [instruction.name for instruction in IMAGE]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", SETTINGS["USER"])
    last = max(index for index, name in enumerate(names) if name in ("RUN", "COPY"))
    assert names.index("USER") > last
    # What is done to a volume after VOLUME is lost.
    assert names.index("VOLUME") > last


def test_commands_are_in_exec_form_so_that_signals_reach_the_hub() -> None:
    for command in (SETTINGS["CMD"], SETTINGS["HEALTHCHECK"].partition(" CMD ")[2]):
        assert all(isinstance(part, str) for part in json.loads(command))
    assert "ENTRYPOINT" not in SETTINGS


def test_the_command_is_what_setup_cfg_installs() -> None:
    scripts = SETUP["options.entry_points"]["console_scripts"].split("\n")
    assert json.loads(SETTINGS["CMD"])[0] in [script.split(" = ")[0] for script in scripts]


@pytest.mark.parametrize(
    ("path", "kept_out"),
    {
        "README.md": False, "esource/web/app.py": False, "esource/deep/er.py": False,
        "events/orders.tsv": True, ".git/config": True, ".venv/bin/pip": True, ".env": True,
        "tests/conftest.py": True, "esource/web/__pycache__/app.cpython-313.pyc": True,
        "esource.egg-info/PKG-INFO": True,
    }.items(),
)  # fmt: skip
def test_a_build_sees_what_it_copies_and_nothing_else(path: str, kept_out: bool) -> None:
    assert ignored(path) == kept_out


def test_everything_that_a_build_sees_is_copied() -> None:
    copies = [argument.split()[:-1] for name, argument in BUILD if name == "COPY"]
    sources = {source for copy in copies for source in copy}
    assert {path.name for path in ROOT.iterdir() if not ignored(path.name)} == sources


def test_the_image_holds_the_package_and_none_of_the_tree(rehearsal: Rehearsal) -> None:
    home = rehearsal.root / WORKDIR[1:]
    assert sorted(path.name for path in home.iterdir()) == [".venv", "events"]
    where = subprocess.run(
        [home / ".venv/bin/python", "-c", "import esource; print(esource.__file__)"],
        cwd=home, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert Path(where.stdout.strip()).is_relative_to(home / ".venv")


def test_the_volume_is_given_to_the_user(rehearsal: Rehearsal) -> None:
    assert rehearsal.given.read_text().split() == [SETTINGS["USER"], "events"]


def test_the_image_serves_from_its_volume_and_is_healthy_until_it_stops(
    rehearsal: Rehearsal,
) -> None:
    with running(rehearsal) as container:
        container.publish("/orders?id=1", "one coffee")
        volume = Path(rehearsal.here(SETTINGS["VOLUME"]))
        assert (volume / "orders.tsv").read_bytes() == b"1\t\tone coffee\n"
        assert health(rehearsal, container.port) == 0
        for path in (ROOT / "esource" / "web" / "assets").iterdir():
            assert container.get(f"/-/page/{path.name}").body == path.read_bytes()
        assert [path.name for path in volume.glob("*.tsv")] == ["orders.tsv"]
        assert container.stop() == 0
    assert health(rehearsal, container.port) != 0


def test_the_health_check_fails_where_nobody_listens(rehearsal: Rehearsal) -> None:
    assert health(rehearsal, free_port()) != 0


def test_the_health_check_fails_where_the_answer_is_an_error(rehearsal: Rehearsal) -> None:
    asked = []

    class Broken(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(503)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Broken) as server:
        server.timeout = PATIENCE_SECONDS
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        assert health(rehearsal, server.server_port) != 0
        thread.join()
    assert asked == ["/-/health"]
