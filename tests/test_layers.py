"""The house: each room imports only what the table in `esource/__init__.py` puts above it."""

import ast
from pathlib import Path

import esource

# Room -> the rooms it may import, and nothing else of the project.
MAY_IMPORT = {
    "__init__": "",
    "errors": "",
    "config": "errors",
    "event": "errors",
    "tsv": "event errors",
    "sse": "tsv event errors",
    "ndjson": "tsv event errors",
    "formats": "tsv sse ndjson",
    "ingest": "tsv sse ndjson event errors",
    "selection": "event errors",
    "resume": "zones event",
    "zones": "event",
    "recent": "errors",
    "log": "errors",
    "stats": "",
    "threads": "",
    "readers": "stats threads tsv",
    "batch": "log tsv",
    "commit": "log recent tsv errors",
    "search": "log threads zones resume selection tsv event",
    "download": "log",
    "channel": "batch commit search download readers threads stats log recent selection tsv "
    "event errors",
    "limits": "config errors",
    "hub": "limits channel readers threads stats log config errors",
    "listing": "hub log selection tsv",
    "origin": "config errors",
    "answers": "errors",
    "body": "errors",
    "publish": "answers body hub commit channel threads ingest tsv event errors",
    "read": "answers hub batch channel readers threads formats selection sse errors",
    "views": "publish read answers origin hub errors",
    "metrics": "stats __init__",
    "ops": "listing metrics answers origin hub limits threads errors",
    "page": "answers origin config",
    "app": "views ops page hub config",
    "fastpath": "",
    "connections": "fastpath body hub readers threads",
    "logs": "config",
    "server": "logs connections fastpath hub limits threads config errors __init__",
    "check": "hub log event errors",
    "__main__": "check server config errors __init__",
}
# What only few rooms may know about; the connections need a greenlet to end them.
ONLY = {
    "gevent": {"threads", "commit", "search", "download", "readers", "channel", "connections"},
    "flask": {"answers", "publish", "read", "views", "ops", "page", "app", "fastpath"},
    "prometheus_client": {"metrics"},
    "gunicorn": {"body", "connections", "logs", "server", "__main__"},
}
FOLDER = Path(esource.__file__).parent


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_every_room_is_in_the_table() -> None:
    assert {path.stem for path in FOLDER.glob("*.py")} == set(MAY_IMPORT)


def test_rooms_import_only_from_above() -> None:
    for room, allowed in MAY_IMPORT.items():
        for name in imports(FOLDER / f"{room}.py"):
            top, _, rest = name.partition(".")
            if top == "esource":
                other = rest.partition(".")[0]
                other = other if other in MAY_IMPORT else "__init__"
                assert other in allowed.split(), f"{room} imports {other}"
            assert room in ONLY.get(top, {room}), f"{room} imports {top}"
