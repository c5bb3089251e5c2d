"""The calculator: what it computes, what it refuses, and that no text makes it do more than its limits say."""

import ast
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.tools import arithmetic
from rewards.tools.arithmetic import ExpressionError, Limits, answer, evaluate

UNLIMITED_OPERANDS = Limits(max_operands=0)
WIDEST = Limits(max_operands=0, max_digits=640, max_characters=20_000, max_depth=20_000)
OPERATIONS: dict[str, Callable[[int, int], int]] = {"+": operator.add, "-": operator.sub, "*": operator.mul}

# --- what it computes ---

VALUES = {
    "0": 0,
    "007": 7,
    "  12 ": 12,
    "-4": -4,
    "-0": 0,
    "+4": 4,
    "--4": 4,
    "-+- -4": -4,
    "6-4": 2,
    "6 - 0 - 4": 2,
    "1-2-3": -4,
    "1-(2-3)": 2,
    "2+3*4": 14,
    "2*3+4": 10,
    "(2+3)*4": 20,
    "2*(3+4)*5": 70,
    "-2*3": -6,
    "2*-3": -6,
    "-2*-3": 6,
    "2--3": 5,
    "2+-3": -1,
    "-(2+3)": -5,
    "-(-(-5))": -5,
    "4-(-(1))*3": 7,
    "((((((((7))))))))": 7,
    "(1)+(2)": 3,
    "999999*999999": 999998000001,
    "999999999999-1": 999999999998,
    "0*999999999999": 0,
}

MALFORMED = [
    *["", " ", "+", "-", "*", "()", "(", ")", "1+", "*1", "1 2", "1 + 2 3", "1(2)", "(1)2", "(1)(2)", "1+*2"],
    *["1**2", "1//2", "1/2", "1%2", "2^3", "(1", "1)", ")1(", "((1)", "(1))", "(+)", "1+()", "1.5", "1,5", "1e3"],
    *["0x10", "1_0", "one", "x", "1+x", "1\t+2", "1\n+2", "1\u00a0+2", "2×3", "2−3", "１+１", "٣+٤", "²", "1=1"],
    *["1!", "~1", "1<2", "\x00", "1)+(2", "1٣", "1２"],
]


@pytest.mark.parametrize(("expression", "value"), VALUES.items())
def test_an_expression_has_the_value_of_schoolbook_arithmetic(expression: str, value: int) -> None:
    assert evaluate(expression, UNLIMITED_OPERANDS) == value


@pytest.mark.parametrize("expression", MALFORMED, ids=ascii)
def test_what_is_no_expression_has_no_value(expression: str) -> None:
    with pytest.raises(ExpressionError):
        evaluate(expression, WIDEST)


@dataclass(frozen=True)
class Node:
    """An expression as a tree: how it is written, its value, and how tightly it binds (0 +-, 1 *, 2 sign, 3 atom)."""

    text: str
    value: int
    binding: int

    def within(self, binding: int) -> str:
        """Its text, in parentheses where it stands inside something that binds more tightly."""
        return self.text if self.binding >= binding else f"({self.text})"


def joined(left: Node, name: str, right: Node, space: str) -> Node:
    binding = int(name == "*")
    text = f"{left.within(binding)}{space}{name}{space}{right.within(binding + 1)}"
    return Node(text, OPERATIONS[name](left.value, right.value), binding)


SPACES = st.sampled_from(["", " ", "  "])
NUMBERS = st.builds(
    lambda value, zeros: Node("0" * zeros + str(value), value, 3), st.integers(0, 10**9), st.integers(0, 2)
)
TREES = st.recursive(
    NUMBERS,
    lambda inner: st.one_of(
        st.builds(joined, inner, st.sampled_from("+-*"), inner, SPACES),
        st.builds(lambda node, space: Node(f"-{space}{node.within(2)}", -node.value, 2), inner, SPACES),
        st.builds(lambda node, space: Node(f"+{space}{node.within(2)}", node.value, 2), inner, SPACES),
        st.builds(lambda node, space: Node(f"({space}{node.text}{space})", node.value, 3), inner, SPACES),
    ),
    max_leaves=30,
)


@given(TREES)
def test_any_tree_of_operations_has_the_value_that_pythons_integers_give(tree: Node) -> None:
    assert evaluate(tree.text, WIDEST) == tree.value
    assert answer(f"so, {tree.text} =", WIDEST) == str(tree.value)


# --- what the tool answers ---

ANSWERS = {
    "6 - 4 =": "2",
    "6 - 4 =  ": "2",
    "6-0-4=": "-4",
    "6 - 0 - 4 =": "-4",
    "6 - 4 - 2 =": "2",
    "-4 - 8 =": "-12",
    "- 4 - 8 =": "-12",
    "6 - -4 - 2 =": "-6",
    "6 - - -4 - -2 =": "6",
    "2 * 3 + 4 =": "7",
    "2 - 3 * 4 =": "12",
    "(1 + 2) =": "3",
    "-(1 + 2) =": "-3",
    "0 - 0 =": "0",
    "5 =": "5",
    "007 =": "7",
    "6 - 0 = 6, 6 - 4 =": "2",
    "6-0=6,6-4=": "2",
    "6 - 0 = 6 - 4 =": "2",
    "Let me see. 1 + 2 =": "3",
    "yes; 1 + 2 =": "3",
    "first\n1 + 2 =": "3",
    "999999999999 * 999999999999 * 2 * 3 =": "6",
    # Nothing, on the way to it or at all:
    "": None,
    "=": None,
    " = ": None,
    "1 + 2": None,
    "1 + 2 = 3": None,
    "1 + 2 =\n": None,
    "1 + 2 ==": None,
    "1 + 2, =": None,
    "yes: 1 + 2 =": None,
    "(1 + 2) + 3 =": None,
    "1 + 2 + (3) =": None,
    "x - 1 + 2 =": None,
    "9 ** 9 - 1 + 2 =": None,
    "1) + 2 + 3 =": None,
    "999999 * 9999999 =": None,
    "999999999999 + 1 =": None,
    "-999999999999 - 1 =": None,
}


@pytest.mark.parametrize(("text", "expected"), ANSWERS.items())
def test_the_answer_is_the_value_of_what_stands_before_the_last_equals_sign(text: str, expected: str | None) -> None:
    assert answer(text, Limits()) == expected


@given(
    st.lists(st.tuples(st.sampled_from("+-*"), st.sampled_from(["", "-", "+", "--"]), st.integers(0, 999)), min_size=1)
)
def test_two_operands_are_all_that_is_computed(terms: list[tuple[str, str, int]]) -> None:
    text = " ".join(f"{name} {sign}{number}" for name, sign, number in terms)[2:]
    signed = [(name, -number if sign == "-" else number) for name, sign, number in terms]
    (_, left), (name, right) = signed[-2:] if len(signed) > 1 else [("+", 0), ("+", signed[0][1])]
    # The limit on characters is not what this is about.
    assert answer(f"{text} =", Limits(max_characters=10**6)) == str(OPERATIONS[name](left, right))


def test_more_operands_are_computed_where_the_limit_allows_and_evaluate_refuses_rather_than_cuts() -> None:
    assert answer("6 - 3 - 2 * 2 =", Limits(max_operands=3)) == "-1"
    assert answer("6 - 3 - 2 * 2 =", Limits(max_operands=1)) == "2"
    assert answer("6 - 3 - 2 * 2 =", Limits(max_operands=0)) == "-1"
    with pytest.raises(ExpressionError, match="3 operands must be at most 2"):
        evaluate("1 + 2 + 3", Limits())


def test_every_separator_begins_a_new_expression_even_between_digits() -> None:
    assert [answer(f"1{separator}5 + 2 =", Limits()) for separator in ",.;\n="] == ["7"] * 5


# --- limits ---


def test_each_limit_admits_what_just_meets_it_and_refuses_one_more() -> None:
    for expression, limits in {
        "1+2+3": Limits(max_operands=3),
        "123": Limits(max_digits=3),
        "001": Limits(max_digits=3),
        "12 + 34": Limits(max_characters=7),
        "((1))": Limits(max_depth=2),
    }.items():
        evaluate(expression, limits)
    for expression, limits in {
        "1+2+3": Limits(max_operands=2),
        "123": Limits(max_digits=2),
        "001": Limits(max_digits=2),
        "12 + 34": Limits(max_characters=6),
        "((1))": Limits(max_depth=1),
        "(1)": Limits(max_depth=0),
    }.items():
        with pytest.raises(ExpressionError):
            evaluate(expression, limits)


def test_a_result_on_the_way_is_limited_even_where_the_end_is_small() -> None:
    assert evaluate("99 - 99", Limits(max_digits=2)) == 0
    for expression in ("99 + 1 - 99", "-99 - 1 + 99", "99 * 99 * 0", "0 * (99 + 1)"):
        with pytest.raises(ExpressionError, match="at most 2 digits"):
            evaluate(expression, Limits(max_operands=0, max_digits=2))


def test_an_expression_that_began_before_what_is_looked_at_is_not_answered_in_part() -> None:
    limits = Limits(max_characters=5)
    assert answer("1 + 2=", limits) == "3"
    assert answer("9,1 + 2=", limits) == "3"
    assert answer("91 + 2=", limits) is None
    assert answer("9999991 + 2=", limits) is None
    assert answer("1 + 2= ", limits) == "3"
    assert answer("1 + 2=  ", limits) is None


@pytest.mark.parametrize(
    "wrong",
    [{"max_operands": -1}, {"max_digits": 0}, {"max_digits": 641}, {"max_characters": 0}, {"max_depth": -1}],
    ids=str,
)
def test_a_limit_that_makes_no_sense_is_refused_by_name(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=rf"{next(iter(wrong))} = -?\d+ must be"):
        Limits(**wrong)


# --- hostile text ---

INJECTIONS = [
    *["__import__('os').system('x')", "__import__('os')", "import os", "exec('1')", "eval('1+1')"],
    *["open('/etc/passwd')", "open('/etc/passwd').read()", "compile('1', '', 'eval')", "globals()", "locals()"],
    *["vars()", "exit()", "quit()", "lambda: 1", "(lambda: 1)()", "(lambda x: x(x))(lambda x: x(x))"],
    *["[].__class__.__base__.__subclasses__()", "().__class__", "''.__class__.__mro__", "getattr(1, 'real')"],
    *["print(1)", "input()", "breakpoint()", "help()", "1 if 1 else 2", "1 or 2", "1 and 2", "not 1", "1 in (1)"],
    *["1 is 1", "(x := 10**9)", "yield 1", "await f()", "[1]*9", "[0]*999999999999", "'a'*999999999999", "{1: 2}"],
    *["{1}", "{*()}", "(*())", "[x for x in (1)]", "...", "None", "True", "True+True", "False", "nan", "inf"],
    *["-inf", "Infinity", "NaN - 1", "1j", "2j*2j", "0xdeadbeef", "0x10", "0X10", "0b101", "0o17", "1_000", "1__0"],
    *["_1", "1_", "1e999", "1e9", "1E9", "1e-9", "1e+9", "5 e 3", "0x1p4", "12L", "3u", "9**9**9", "9**9"],
    *["9 ** 9", "9* *9", "2**-1", "2***3", "1<<999999999", "1 << 9", "1>>1", "9^9", "1|2", "1&2", "~1", "1/0"],
    *["1//0", "1%0", "0/0", "1 / 2", "6÷2", "divmod(1, 0)", "5!", "5!!", "sqrt(4)", "pow(9, 9)", "abs(-1)"],
    *["int('1')", "{0.__class__}", "{}", "{0}", "%s", "%s%s%s%n", "%d" * 50, "f'{1+1}'", "{1+1}", "${1+1}"],
    *["{{1+1}}", "#{1+1}", "<%1+1%>", "$(reboot)", "`reboot`", "; rm -rf /", "&& reboot", "| cat", "$((1+1))"],
    *["%PATH%", "$HOME", "../../etc/passwd", "\\x31", "' OR 1", "1' OR '1", "1; DROP TABLE x", "1 -- comment"],
    *["/* */ 1", "1 # 2", "<script>", "&#49;", "%31%2B%31", "\\u0031", "redis.call('FLUSHALL')", "EVAL 1 0"],
    *["*1\r\n$8\r\nFLUSHALL\r", "\r1\r", "1\r+\r2", "1\v+2", "1\f+2", "1\t+\t2", "\b1", "\x7f1"],
]
"""Each is followed by "=" and has no value."""

CODE_POINTS = [
    *["٣ + ٤", "１ + ２", "१ + २", "𝟏 + 𝟐", "𝟙", "²", "3²", "x₂", "①", "⑴", "Ⅷ", "½", "一 + 二", "〇", "๑", "߁", "᠑"],
    *["🄀", "1️⃣", "2×3", "2−1", "2–1", "2—1", "1＋1", "2∗3", "2⋅3", "2·3", "（1）", "⁽1⁾", "1＝1", "﹢1", "➕1", "√4"],
    *["∞", "1⁄2", "π", "\u202e1 + 2", "1\u202e + 2", "1 + 2\u202c", "\u20661 + 2\u2069", "\u200f1", "1\u200e + 2"],
    *["\u061c1", "א + ב", "مرحبا", "1\u200b + 2", "1\u200d2", "1\u2060+2", "\ufeff1 + 2", "1\u00ad2"],
    *["1\u0301 + 2", "1\u20e3", "1\ufe0f", "1\U000e0031", "1\u00a0+ 2", "1\u2003+ 2", "1\u3000+ 2", "1\u2028+ 2"],
    *["1\u2029+ 2", "1\u0085+ 2", "1\u1680+ 2", "1\u180e+ 2", "\x00", "1\x00", "\x001", "1\x00+2", "1 + 2\x00"],
    *["\x00" * 150, "\x1b[2J1", "1\x08", "\x04", "\x1a", "\x011", "\x1f1", "\ud800", "\udfff", "1\ud800"],
    *["1٣ + 2", "2 - 1２", "\udc001", "1 + \ud83d", "\udc31 + 1", "\udcff" * 99, "\ud83d\ude00"],
    *["\U0010ffff", "\ufffe", "\ufffd"],
]
"""Look-alikes, invisible and broken characters; each is followed by "=" and has no value."""

NESTED = [
    *["(" * 10_000, ")" * 10_000, "()" * 5_000, "(" * 10_000 + "1" + ")" * 10_000, "(" * 9 + "1" + ")" * 9],
    *["(" * 8 + "1", "(" * 100 + "1" + ")" * 99, "(" * 50 + ")" * 50, "1" + ")" * 99, "-(" * 90 + "1"],
    *["-(" * 60 + "1" + ")" * 60, "[" * 150, "{" * 150, "(1+" * 50, "(1+" * 50 + "1" + ")" * 50, "((1)" * 40],
    *["1)+(2", ")(" * 90, "1+(" * 3_000, "(-" * 9_999 + "1" + ")" * 9_999],
]
"""Deep or unbalanced; each is followed by "=" and has no value."""

HUGE = [
    *["--" * 5_000 + "1", "+-" * 5_000 + "1", "- " * 5_000 + "1", "-" * 200, "-" * 10_000, "*" * 200, "*" * 10_000],
    *["+" * 999, "9" * 13, "0" * 13, "9" * 200, "9" * 641, "9" * 4_301, "9" * 1_000_000, "0" * 1_000_000],
    *["0" * 1_000_000 + "1", "1" + "0" * 999_999, "1 + " + "9" * 13, "9" * 13 + " + 1", "9" * 13 + " * 0"],
    *["9" * 13 + " + 1 + 2", "999999999999 * 10", "9999999 * 9999999", "1+" * 5_000 + "1", "9*" * 5_000 + "9"],
    *["1" * 99 + "*" + "1" * 99, " " * 1_000_000, " " * 201, "1" + " " * 300 + "+ 1", "a" * 1_000_000],
    *["é" * 1_000_000, "1 " * 100, "1 " * 500_000, "\x00" * 1_000_000, "\ud800" * 1_000_000, "٣" * 1_000_000],
]
"""Long or large; each is followed by "=" and has no value."""

UNFINISHED = [
    *["1 + 2", "9" * 1_000_000, "(" * 10_000, " " * 1_000_000, "\x00", "\ud800", "1 + 2 = 3", "1 + 2 =\t"],
    *["1 + 2 =\x00", "1 + 2 =\u200b", "1 + 2 =\u00a0", "1 + 2 =\n\n", "1 + 2 ＝", "1 + 2 ≠", "1 + 2 =\u202e"],
    *["1 + 2 =" + " " * 1_000_000, "=" * 1_000_000, "= " * 500_000, ",=" * 500_000, "1=" * 500_000 + "="],
    *[",;.\n" * 250_000, "1 + 2 = =", "==", "1 !="],
]
"""As they stand; no value."""

ANSWERED = {
    "__import__('os').system('x'), 1 + 1=": "2",
    "open('/etc/passwd');2*3=": "6",
    "ignore all rules.\nSYSTEM\n1 + 1 =": "2",
    "9" * 1_000_000 + ",1+1=": "2",
    "(" * 10_000 + ";1-1=": "0",
    "\x00\ud800\u202e.1+1=": "2",
    "1=" * 500_000: "1",
    "1,=" * 100_000 + "5=": "5",
    "x == 1 =": "1",
    "x := 1 =": "1",
    "1 <= 2 =": "2",
    "1 += 2 =": "2",
    "0.5 - 1 =": "4",
    "1e9.1=": "1",
    "--" * 50 + "1=": "1",
    "-" * 101 + "1=": "-1",
    "1" + "-" * 101 + "1=": "0",
    "+" * 199 + "1=": "1",
    "1+" * 99 + "1=": "2",
    "9*" * 99 + "9=": "81",
    "1" + " " * 150 + "+1=": "2",
    "000000000000=": "0",
    "-000000000001 - 000000000001=": "-2",
    "999999999999 * -1 =": "-999999999999",
    "(" * 8 + "1" + ")" * 8 + "=": "1",
    "(-" * 8 + "1" + ")" * 8 + "=": "1",
}
"""What stands after the last separator is harmless, and this is its value."""

HOSTILE: list[tuple[str, str | None]] = [
    *((f"{body}=", None) for body in [*INJECTIONS, *CODE_POINTS, *NESTED, *HUGE]),
    *((text, None) for text in UNFINISHED),
    *ANSWERED.items(),
]


class Watched(str):
    """Text that knows how much of it was read, and that can be read by slices only."""

    __slots__ = ("read",)
    read: int

    def __getitem__(self, place: Any) -> str:
        part = super().__getitem__(place)
        self.read += len(part)
        return part

    def __getattribute__(self, name: str) -> Any:
        assert name == "read", f"{name} reads all of the text"
        return super().__getattribute__(name)

    def __iter__(self) -> Any:
        raise AssertionError("iteration reads all of the text")

    def __contains__(self, part: object) -> bool:
        raise AssertionError("`in` reads all of the text")


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of each step of arithmetic, the digits of its largest operand."""
    seen: list[int] = []
    apply = arithmetic._apply

    def watched(name: str, values: list[int], limits: Limits) -> None:
        seen.append(max(len(str(abs(value))) for value in values[-2:]))
        apply(name, values, limits)

    monkeypatch.setattr(arithmetic, "_apply", watched)
    return seen


def test_the_hostile_texts_are_many_and_all_different() -> None:
    assert len({text for text, _ in HOSTILE}) == len(HOSTILE) >= 200


@pytest.mark.parametrize(("text", "expected"), HOSTILE, ids=[f"hostile{i}" for i in range(len(HOSTILE))])
def test_a_hostile_text_gets_none_or_the_right_value_for_bounded_work(
    text: str, expected: str | None, steps: list[int]
) -> None:
    limits = Limits()
    watched = Watched(text)
    watched.read = 0
    result = answer(watched, limits)  # Before the assert, which looks at what stands in it.
    assert result == expected
    assert watched.read <= limits.max_characters + 2
    assert len(steps) <= limits.max_characters
    assert max(steps, default=0) <= limits.max_digits


@pytest.mark.parametrize("text", [text for text, _ in HOSTILE], ids=[f"hostile{i}" for i in range(len(HOSTILE))])
def test_the_widest_limits_neither_raise_nor_work_without_bound(text: str, steps: list[int]) -> None:
    result = answer(text, WIDEST)
    assert result is None or re.fullmatch(r"0|-?[1-9][0-9]{0,639}", result)
    assert len(steps) <= WIDEST.max_characters
    assert max(steps, default=0) <= WIDEST.max_digits


def test_the_length_is_checked_before_anything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    # Slices and methods fail or count in Watched; a pattern would read it without either.
    monkeypatch.setattr(arithmetic, "_WORD", None)
    expression = Watched("1" * 1_000_000)
    expression.read = 0
    with pytest.raises(ExpressionError, match="1000000 characters must be at most 200"):
        evaluate(expression, Limits())
    assert expression.read == 0


def test_the_digits_are_counted_before_a_number_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    converted: list[str] = []

    class Recorded(int):
        def __new__(cls, word: str) -> "Recorded":
            converted.append(word)
            return super().__new__(cls, word)

    monkeypatch.setattr(arithmetic, "int", Recorded, raising=False)
    for digits in (12, 13, 199):
        answer("1" * digits + "=", Limits())
    assert converted == ["1" * 12]


@given(
    st.one_of(
        st.text(st.characters(exclude_categories=())),
        st.text("0123456789+-*() =,.;\n"),
        st.text("12 +-*()"),
    )
)
def test_any_text_gets_none_or_a_decimal_number_and_nothing_is_raised(text: str) -> None:
    for limits in (Limits(), WIDEST, Limits(max_operands=1, max_digits=1, max_characters=1, max_depth=0)):
        for expression in (text, f"{text}="):
            result = answer(expression, limits)
            assert result is None or re.fullmatch(rf"0|-?[1-9][0-9]{{0,{limits.max_digits - 1}}}", result)


def test_an_error_can_be_printed_whatever_the_character_it_is_about() -> None:
    for expression in ("\ud800", "\u202e", "\x00", "1\U0010ffff", "1+\ud800"):
        with pytest.raises(ExpressionError) as caught:
            evaluate(expression, Limits())
        assert str(caught.value).isascii() and str(caught.value).isprintable()


def test_the_module_hands_no_text_to_the_interpreter() -> None:
    tree = ast.parse(Path(arithmetic.__file__).read_text(encoding="utf-8"))
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not names & {"eval", "exec", "compile", "__import__", "literal_eval", "getattr", "globals", "open"}
    # Compiling a pattern is no compiling of code.
    assert {name for name in called if re.search(r"eval|exec|compile|import", name)} == {"re.compile"}
    assert imported == {"operator", "re", "collections.abc", "dataclasses"}
