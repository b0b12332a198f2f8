"""What `setup.cfg` cannot say: where files come from, where they go, and what links become.

- The long description is the README, of which each link to a file of the source is absolute: on
  another site there is no such file.
- `deploy/` is in the package, as `esource/deploy/`, so that `esource systemd` has it anywhere.
- What is built is built in a temporary folder. A `build/` that stays would bring back, at the next
  installation, modules that the source has no more.
"""

import configparser
import re
import shutil
import tempfile
from pathlib import Path

from setuptools import setup
from setuptools.command.build import build
from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent
SETUP = configparser.ConfigParser()
SETUP.read(HERE / "setup.cfg", encoding="utf-8")
SOURCE = SETUP["metadata"]["url"]
# What stands before the address of a link or an image, in Markdown and in HTML.
LINK = re.compile(
    r'(!\[[^\]]*\]\(|\]\(|^\[[^\]]+\]: |\bsrc(?:set)?="|\bhref=")(?![a-z]+:)([^\s)"]+)',
    re.MULTILINE,
)


def absolute(markdown: str) -> str:
    """Return a text of the source's root in which every link and image is absolute."""

    def link(match: "re.Match[str]") -> str:
        before, to = match.groups()
        kind = "raw" if before.startswith(("!", "src")) else "blob"
        path = f"README.md{to}" if to.startswith("#") else to.removeprefix("./")
        return f"{before}{SOURCE}/{kind}/main/{path}"

    # Not in code: there, what looks like a link is none.
    parts = re.split(r"(^```.*?^```$|`[^`\n]*`)", markdown, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if at % 2 else LINK.sub(link, part) for at, part in enumerate(parts))


class Build(build):
    """A build of which nothing stays."""

    def initialize_options(self) -> None:
        """Build in a folder that is removed when this process ends."""
        super().initialize_options()
        self._folder = tempfile.TemporaryDirectory(prefix="esource-build-")
        self.build_base = self._folder.name


class BuildPy(build_py):
    """The package, with `deploy/` in it."""

    def run(self) -> None:
        """Build; what is installed for development has the `deploy/` of the source."""
        super().run()
        if not self.editable_mode:
            to = Path(self.build_lib, "esource", "deploy")
            shutil.copytree(HERE / "deploy", to, dirs_exist_ok=True)


if __name__ == "__main__":
    setup(
        long_description=absolute((HERE / "README.md").read_text(encoding="utf-8")),
        project_urls={
            "Source": SOURCE,
            "Documentation": f"{SOURCE}/tree/main/docs",
            "Changelog": f"{SOURCE}/blob/main/CHANGELOG.md",
        },
        cmdclass={"build": Build, "build_py": BuildPy},
    )
