"""The entries of `mutants.toml` are about code and tests that are there; and the runner is right.

Whether each is killed, `python -m tests.mutants` tells.
"""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import mutants
from tests.harness import ROOT
from tests.mutants import Mutant

EXAMPLE = """\
def f(a):
    if a:
        return 1
    return 2
"""


@pytest.mark.parametrize("mutant", mutants.entries(), ids=str)
def test_its_line_is_there_once_and_its_test_exists(mutant: Mutant) -> None:
    text = (ROOT / mutant.file).read_text()
    broken = mutants.mutated(mutant, text)
    assert broken != text
    if mutant.file.endswith(".py"):
        ast.parse(broken)  # or any test would kill it
    assert mutant.why
    for node in mutant.tests:
        path, _, name = node.partition("::")
        tree = ast.parse(Path(ROOT / path).read_text())
        assert name.partition("[")[0] in {
            statement.name for statement in tree.body if isinstance(statement, ast.FunctionDef)
        } | {target.id for statement in tree.body if isinstance(statement, ast.Assign)
             for target in statement.targets if isinstance(target, ast.Name)}  # fmt: skip


def test_a_mutation_keeps_the_indentation() -> None:
    mutant = Mutant("f.py", "if a:", "if not a:", "", "")
    assert mutants.mutated(mutant, EXAMPLE) == EXAMPLE.replace("if a:", "if not a:")
    mutant = Mutant("f.py", "if a:\nreturn 1", "while a:\n    a = 0", "", "")
    assert "    while a:\n        a = 0\n    return 2\n" in mutants.mutated(mutant, EXAMPLE)
    mutant = Mutant("f.py", "if a:\n    return 1", "", "", "")
    assert mutants.mutated(mutant, EXAMPLE) == "def f(a):\n    return 2\n"


@pytest.mark.parametrize("line", ["return 3", "return", ""])
def test_a_line_that_is_not_there_once_is_an_error(line: str) -> None:
    with pytest.raises(LookupError):
        mutants.mutated(Mutant("f.py", line, "pass", "", ""), EXAMPLE + "return\nreturn\n")


def test_a_parameter_of_a_test_may_have_spaces() -> None:
    nodes = ["tests/test_a.py::test_one[two or three]", "tests/b/test_c.py::test_four"]
    assert Mutant("f.py", "pass", "", " ".join(nodes), "").tests == nodes


def test_what_a_test_starts_anywhere_imports_the_copy() -> None:
    with mutants.copy_of_the_tree() as tree:
        done = subprocess.run(
            [sys.executable, "-c", "import esource; print(esource.__file__)"],
            cwd="/", env={**os.environ, "PYTHONPATH": str(tree)}, check=True, capture_output=True,
            text=True,
        )  # fmt: skip
        assert done.stdout.startswith(str(tree))
