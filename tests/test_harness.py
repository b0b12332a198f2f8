"""What the tests rely on in their harness."""

import pytest

from tests.harness import needs


def test_programs_that_are_there_are_told_by_their_paths() -> None:
    sh, env = needs("sh", "env")
    assert (sh.rpartition("/")[2], env.rpartition("/")[2]) == ("sh", "env")
    assert sh.startswith("/")


@pytest.mark.parametrize(
    ("ci", "outcome"),
    [("true", pytest.fail.Exception), ("", pytest.skip.Exception), (None, pytest.skip.Exception)],
)
def test_a_missing_program_skips_a_test_but_fails_it_in_ci(
    monkeypatch: pytest.MonkeyPatch, ci: str | None, outcome: type[BaseException]
) -> None:
    monkeypatch.delenv("CI", raising=False)
    if ci is not None:
        monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match="missing: no-such-program, nor-this"):
        needs("sh", "no-such-program", "env", "nor-this")
