"""A calculator for text written by a language model: exact integers, + - * and parentheses, nothing else.

"6 - 4 ="          "2"
"6 - 0 - 4 ="      "-4"    with a limit of two operands: 0 - 4 (the tool of Hu et al., arXiv 2310.04363)
"open('x') ="      None

The text is untrusted, so Python's own parser never sees it. This parser reads at most the last `max_characters` + 2
characters, takes at most one step per character, and no step handles a number of more than `max_digits` digits.
(ast.parse accepts more, such as 1e3, 0x1 and 1_0, and less: not 007, nor a few thousand signs.)
"""

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass

MAX_DIGITS = 640
"""Python converts integers of up to 640 digits to and from str, whatever `sys.set_int_max_str_digits` is set to."""

_DIGITS = frozenset("0123456789")
_WORD = re.compile(r"[0-9]+|[^ ]")
_SEPARATORS = ",.;\n="
_OPENING = {"(": "(", "+": "plus", "-": "minus"}
_UNARY: dict[str, Callable[[int], int]] = {"plus": operator.pos, "minus": operator.neg}
_BINARY: dict[str, Callable[[int, int], int]] = {"+": operator.add, "-": operator.sub, "*": operator.mul}
_PRIORITY = {"(": 0, "+": 1, "-": 1, "*": 2, "plus": 3, "minus": 3}

Token = int | str
"""An operand; a parenthesis; "+", "-" or "*" between operands; "plus" or "minus" for a sign."""


class ExpressionError(ValueError):
    """The text is not an expression, or exceeds a limit."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of an expression.

    max_operands    number of operands; 0 means no limit
    max_digits      digits of every operand, leading zeros included, and of every intermediate result
    max_characters  characters, spaces included
    max_depth       nesting of parentheses; 0 allows none
    """

    max_operands: int = 2
    max_digits: int = 12
    max_characters: int = 200
    max_depth: int = 8

    def __post_init__(self) -> None:
        """Raise ValueError for a limit that no expression can meet, or that limits nothing."""
        if self.max_operands < 0:
            raise ValueError(f"max_operands = {self.max_operands} must be at least 0; 0 means no limit")
        if not 1 <= self.max_digits <= MAX_DIGITS:
            raise ValueError(f"max_digits = {self.max_digits} must be in 1..{MAX_DIGITS}; 12 is the default")
        if self.max_characters < 1:
            raise ValueError(f"max_characters = {self.max_characters} must be at least 1; 200 is the default")
        if self.max_depth < 0:
            raise ValueError(f"max_depth = {self.max_depth} must be at least 0; 0 allows no parentheses")


def evaluate(expression: str, limits: Limits) -> int:
    """The value; raise ExpressionError if `expression` is malformed or exceeds `limits`."""
    tokens = _tokens(expression, limits)
    count = _operands(tokens)
    if limits.max_operands and count > limits.max_operands:
        raise ExpressionError(f"{count} operands must be at most {limits.max_operands}; write a shorter expression")
    return _compute(tokens, limits)


def answer(text: str, limits: Limits) -> str | None:
    """The decimal value of the expression before the final "=", such as "-6"; None if there is no valid expression.

    `text` is everything that the model wrote so far. It must end with "=", perhaps followed by spaces, which count as
    characters of the expression. The expression begins after the last separator before it: , . ; newline or =. Of an
    expression with more than `max_operands` operands only the last ones are computed, with their signs but without the
    operator before them. The part cut off must be well-formed, too, and the expression must have no parentheses, or
    the result is None. Never raises, whatever the text.
    """
    # The "=", the longest expression and the separator before it: a long text costs no more than a short one.
    longest = limits.max_characters + 2
    tail = text[-longest:].rstrip(" ")
    if not tail.endswith("="):
        return None
    tail = tail[:-1]
    start = max(tail.rfind(separator) for separator in _SEPARATORS) + 1
    if start == 0 and len(text) > longest:
        return None  # the expression begins before the part that is read
    try:
        return str(_compute(_last_operands(_tokens(tail[start:], limits), limits.max_operands), limits))
    except ExpressionError:
        return None


def _tokens(expression: str, limits: Limits) -> list[Token]:
    """The tokens of a well-formed expression; raise ExpressionError for any other."""
    # Checked first, so that nothing below handles a longer text.
    if len(expression) > limits.max_characters:
        raise ExpressionError(f"{len(expression)} characters must be at most {limits.max_characters}; write fewer")
    tokens: list[Token] = []
    depth, wants_operand = 0, True
    for word in _WORD.findall(expression):
        if wants_operand and word[0] in _DIGITS:
            tokens.append(_number(word, limits))
            wants_operand = False
        elif wants_operand and word in _OPENING:
            tokens.append(_OPENING[word])
            depth += word == "("
        elif not wants_operand and (word in _BINARY or word == ")"):
            tokens.append(word)
            wants_operand = word != ")"
            depth -= word == ")"
        else:
            # !a escapes it: it may be half a surrogate pair or change the reading direction.
            raise ExpressionError(f"{word[:20]!a} is not allowed at this place; write numbers, + - * and parentheses")
        if not 0 <= depth <= limits.max_depth:
            raise ExpressionError(f"depth {depth} must be in 0..{limits.max_depth}; use fewer parentheses")
    if wants_operand or depth:
        raise ExpressionError(f"{expression!a} ends too early; complete it")
    return tokens


def _number(word: str, limits: Limits) -> int:
    """The value of a string of ASCII digits; raise ExpressionError if it is too long."""
    # Before int(), whose time grows with the square of the length.
    if len(word) > limits.max_digits:
        raise ExpressionError(f"a number of {len(word)} digits must have at most {limits.max_digits}; use smaller ones")
    return int(word)


def _operands(tokens: list[Token]) -> int:
    """The number of operands."""
    return sum(isinstance(token, int) for token in tokens)


def _last_operands(tokens: list[Token], count: int) -> list[Token]:
    """The last `count` operands with their signs and operators; all tokens if there are no more, or if count is 0."""
    if not count or _operands(tokens) <= count:
        return tokens
    if "(" in tokens:
        raise ExpressionError(f"more than {count} operands must not have parentheses; write a shorter expression")
    start = [i for i, token in enumerate(tokens) if isinstance(token, int)][-count]
    while tokens[start - 1] in _UNARY:  # ends, because an operand and an operator come before
        start -= 1
    return tokens[start:]


def _compute(tokens: list[Token], limits: Limits) -> int:
    """The value of well-formed tokens, by two stacks; raise ExpressionError for a result that is too large."""
    values: list[int] = []
    pending = ["("]
    # One more pair of parentheses around the whole expression applies the last operators.
    for token in [*tokens, ")"]:
        if isinstance(token, int):
            values.append(token)
        elif token == ")":
            while (last := pending.pop()) != "(":
                _apply(last, values, limits)
        else:
            # Pending operators that bind at least as tightly come first; a sign or "(" begins an operand and waits.
            while token in _BINARY and _PRIORITY[pending[-1]] >= _PRIORITY[token]:
                _apply(pending.pop(), values, limits)
            pending.append(token)
    return values.pop()


def _apply(name: str, values: list[int], limits: Limits) -> None:
    """Replace the last one or two of `values` by the operator's result; raise ExpressionError if it is too large."""
    right = values.pop()
    result = _UNARY[name](right) if name in _UNARY else _BINARY[name](values.pop(), right)
    if abs(result) >= 10**limits.max_digits:
        raise ExpressionError(f"a result must have at most {limits.max_digits} digits; use smaller numbers")
    values.append(result)
