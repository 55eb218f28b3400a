"""Functions can be called without counting their arguments: few of them, and names for what comes back."""

import ast
from pathlib import Path

import pytest

LIBRARY = Path(__file__).resolve().parents[1] / "pipeline" / "deepprofile"
MOST_ARGUMENTS, MOST_RETURNED = 8, 3


def functions():
    for path in sorted(LIBRARY.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield f"{path.relative_to(LIBRARY)}:{node.lineno} {node.name}", node


def counted(arguments):
    """Arguments of a function, apart from the object or the class that it belongs to."""
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return [one for one in every if one.arg not in ("self", "cls")]


def returned(annotation):
    """How many things a function returns without a name for each; 0 where their number is not fixed."""
    if not isinstance(annotation, ast.Subscript) or ast.unparse(annotation.value) != "tuple":
        return 1
    parts = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
    return 0 if any(isinstance(part, ast.Constant) for part in parts) else len(parts)


def test_no_function_takes_more_arguments_than_a_reader_can_follow():
    long = [name for name, node in functions() if len(counted(node.args)) > MOST_ARGUMENTS and not is_command(node)]
    assert not long


def is_command(node):
    """Commands take their options as arguments: the command line names each of them."""
    return any("command" in ast.unparse(decorator) for decorator in node.decorator_list)


def test_what_comes_back_has_names():
    assert not [name for name, node in functions() if node.returns is not None and returned(node.returns) > MOST_RETURNED]


@pytest.mark.parametrize("folder", sorted({path.parent for path in LIBRARY.rglob("*.py")}), ids=lambda path: path.name)
def test_every_folder_says_what_belongs_there(folder):
    assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))
