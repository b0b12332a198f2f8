from pathlib import Path

import pytest

from esource.config import Config, unknown
from esource.errors import StartError


def test_the_defaults() -> None:
    assert Config.from_env({}) == Config(
        dir=Path("events"), bind="127.0.0.1:9000", fsync="always",
        max_event_bytes=1_048_576, heartbeat_seconds=10,
        max_batch_bytes=67_108_864, max_body_memory=268_435_456,
        dedup_events=10_000, max_subscribers=50_000, max_channels=100_000,
        cors_origins=frozenset(), allowed_hosts=frozenset(),
        metrics_channels=False, ui=True, log_format="text",
    )  # fmt: skip


def test_settings_come_from_the_environment_and_empty_ones_do_not_count() -> None:
    config = Config.from_env(
        {"ESOURCE_DIR": "/srv/events", "ESOURCE_FSYNC": "never", "ESOURCE_BIND": "",
         "ESOURCE_HEARTBEAT_SECONDS": "0.5", "ESOURCE_MAX_EVENT_BYTES": "100"}
    )  # fmt: skip
    assert config.dir == Path("/srv/events")
    assert (config.fsync, config.heartbeat_seconds) == ("never", 0.5)
    assert (config.bind, config.max_event_bytes) == ("127.0.0.1:9000", 100)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ESOURCE_FSYNC", "sometimes"),
        ("ESOURCE_FSYNC", "ALWAYS"),
        ("ESOURCE_MAX_EVENT_BYTES", "1M"),
        ("ESOURCE_MAX_EVENT_BYTES", "0"),
        ("ESOURCE_MAX_EVENT_BYTES", "1.5"),
        ("ESOURCE_HEARTBEAT_SECONDS", "-1"),
        ("ESOURCE_HEARTBEAT_SECONDS", "nan"),
        ("ESOURCE_HEARTBEAT_SECONDS", "inf"),
        ("ESOURCE_BIND", "localhost"),
        ("ESOURCE_BIND", "127.0.0.1:99999"),
        ("ESOURCE_BIND", "two words:80"),
        ("ESOURCE_DIR", "a\0b"),
        ("ESOURCE_CORS_ORIGINS", "example.org"),
        ("ESOURCE_CORS_ORIGINS", "https://example.org/path"),
        ("ESOURCE_METRICS_CHANNELS", "yes"),
        ("ESOURCE_LOG_FORMAT", "xml"),
        ("ESOURCE_ALLOWED_HOSTS", "https://example.org"),
        ("ESOURCE_UI", "no"),
    ],
)
def test_a_bad_value_is_refused_with_its_name(name: str, value: str) -> None:
    with pytest.raises(StartError, match=name):
        Config.from_env({name: value})


@pytest.mark.parametrize("bind", ["0.0.0.0:9000", ":9000", "[::1]:9000", "unix:/run/esource.sock"])
def test_addresses_of_every_kind_are_accepted(bind: str) -> None:
    assert Config.from_env({"ESOURCE_BIND": bind}).bind == bind


def test_variables_that_are_no_setting_are_found() -> None:
    assert unknown({"ESOURCE_DIR": "x", "ESOURCE_FSNC": "always", "HOME": "/"}) == ["ESOURCE_FSNC"]
