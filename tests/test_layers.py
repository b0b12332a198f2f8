"""The house: no package imports from above, and each vocabulary has one room."""

import ast
from collections.abc import Iterator
from pathlib import Path

import esource

FOLDER = Path(esource.__file__).parent
EVERYBODYS = {"errors", "config", "event", "rules", "__init__"}
# Package, or file beside the packages -> the packages it may import beside what is everybody's.
MAY_IMPORT: dict[str, set[str]] = {
    "__init__": set(), "errors": set(), "config": set(), "event": set(), "rules": set(),
    "rows": set(),
    "log": {"rows"},
    "hub": {"rows", "log"},
    "web": {"rows", "hub"},
    "server": {"hub", "web"},  # of `web` the request of a publish alone
    "client": {"rows"},
    "check": {"rows", "log"},
    "command": {"rows", "log", "check", "client"},
    "__main__": {"command"},
}  # fmt: skip
# What is known in these packages alone.
ONLY_IN = {
    "gevent": {"hub", "server"},
    "flask": {"web"},
    "werkzeug": {"web"},
    "gunicorn": {"server", "__main__"},
    "prometheus_client": {"web"},
    "psycopg": {"log"},
}
NOT_IN_ROWS = {"os", "socket", "time"}


def rooms() -> Iterator[tuple[str, Path]]:
    """Yield every module, and the package that it is in; its own name, if that is none."""
    for path in FOLDER.rglob("*.py"):
        yield path.relative_to(FOLDER).parts[0].removesuffix(".py"), path


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_everything_is_in_the_table() -> None:
    assert {room for room, _ in rooms()} <= set(MAY_IMPORT)


def test_no_package_imports_from_above() -> None:
    for room, path in rooms():
        for name in imports(path):
            top, _, rest = name.partition(".")
            other = rest.partition(".")[0]
            if top == "esource" and other in MAY_IMPORT and other != room:
                assert other in MAY_IMPORT[room] | EVERYBODYS, f"{path} imports {name}"


def test_each_vocabulary_has_its_packages() -> None:
    for room, path in rooms():
        for name in imports(path):
            top = name.partition(".")[0]
            assert room in ONLY_IN.get(top, {room}), f"{path} imports {name}"
            assert room != "rows" or top not in NOT_IN_ROWS, f"{path} imports {name}"
