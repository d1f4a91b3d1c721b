"""What is known of operators is written down once, in one table."""

import ast
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest

import onnx_reap
from onnx_reap.graph.rules.table import RULES, TRAITS
from onnx_reap.graph.rules.traits import NO_TRAITS, Trait, traits_of

PACKAGE = Path(onnx_reap.__file__).parent
ALLOWED = (
    PACKAGE / "graph/rules",
    PACKAGE / "graph/mac_formulas.py",  # what operators multiply and add
    PACKAGE / "measure/autodiff",
    PACKAGE / "onnxio/contrib.py",  # what operators of another domain stand for
)
OPERATORS = {schema.name for schema in onnx.defs.get_all_schemas()}


def literals(tree: ast.AST) -> Iterator[tuple[int, list[ast.expr]]]:
    """Yield the line and the entries of every literal collection, and of alternatives of a case."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Set | ast.Tuple | ast.List):
            yield node.lineno, node.elts
        elif isinstance(node, ast.Dict):
            yield node.lineno, [key for key in node.keys if key is not None]
        elif isinstance(node, ast.MatchOr):
            values = [p.value for p in node.patterns if isinstance(p, ast.MatchValue)]
            yield node.lineno, values


def collections_of_operators(source: str) -> list[int]:
    """Return the lines where two operators or more are listed."""
    return [
        line
        for line, entries in literals(ast.parse(source))
        if sum(isinstance(e, ast.Constant) and e.value in OPERATORS for e in entries) > 1
    ]


@pytest.mark.parametrize(
    "source",
    [
        'X = frozenset(("Add", "Sum"))',
        'node.op in ("Add", "Sub")',
        'X = {"Add": 1, "Sub": 2}',
        'match op:\n    case "Add" | "Sum":\n        pass',
    ],
)
def test_collections_of_operators_are_noticed(source: str) -> None:
    assert collections_of_operators(source)


def test_no_module_lists_operators_but_those_that_define_them() -> None:
    modules = [p for p in PACKAGE.rglob("*.py") if not any(p.is_relative_to(a) for a in ALLOWED)]
    found = {
        str(path.relative_to(PACKAGE)): lines
        for path in modules
        if (lines := collections_of_operators(path.read_text("utf-8")))
    }
    assert found == {}, "ask `traits_of` instead"


def test_rows_are_of_operators() -> None:
    # Some of the operators are newer than the oldest onnx that is supported.
    newest = {"BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "Gelu", "Mish", "Swish"}
    assert TRAITS.keys() <= OPERATORS | newest


def test_no_operator_has_two_rows() -> None:
    families = (p for p in (PACKAGE / "graph/rules").glob("*.py"))
    rows = [
        key.value
        for path in families
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Dict)
        for key in node.keys
        if isinstance(key, ast.Constant) and key.value in OPERATORS
    ]
    assert len(rows) == len({*rows})


def test_families_have_rules() -> None:
    families = Trait.POINTWISE | Trait.POOLS | Trait.REDUCES | Trait.MOVES | Trait.RECURRENT
    assert {op for op, traits in TRAITS.items() if traits & families} <= RULES.keys()


def test_what_is_unknown_has_no_traits() -> None:
    assert traits_of("NoSuchOperator") is NO_TRAITS


def test_an_operator_is_found_wherever_its_row_is() -> None:
    assert Trait.ADDS in traits_of("Sum")
    assert Trait.JUMPS in traits_of("TopK")
