"""A calculator for text that a language model wrote: exact integers, + - * and parentheses, nothing else.

"6 - 4 ="          "2"
"6 - 0 - 4 ="      "-4"    two operands are all it computes: 0 - 4 (the tool of Hu et al., arXiv 2310.04363)
"open('x') ="      None

The text is untrusted. A small parser reads it, never Python's; at most the last `max_characters` + 2 characters are
looked at, each gives at most one step, and no step sees a number of more than `max_digits` digits.
"""

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass

MOST_DIGITS = 640
"""Up to here Python converts between int and str whatever `sys.set_int_max_str_digits` says."""

_DIGITS = frozenset("0123456789")
_WORD = re.compile(r"[0-9]+|[^ ]")
_SEPARATORS = ",.;\n="
_OPENING = {"(": "(", "+": "plus", "-": "minus"}
_UNARY: dict[str, Callable[[int], int]] = {"plus": operator.pos, "minus": operator.neg}
_BINARY: dict[str, Callable[[int, int], int]] = {"+": operator.add, "-": operator.sub, "*": operator.mul}
_PRIORITY = {"(": 0, "+": 1, "-": 1, "*": 2, "plus": 3, "minus": 3}

Token = int | str
"""An operand, a parenthesis, "+", "-" or "*" between operands, "plus" or "minus" for a sign."""


class ExpressionError(ValueError):
    """The text is no expression that may be computed."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What an expression may cost.

    max_operands    numbers in it; 0 means no limit
    max_digits      of every number as it is written, leading zeros too, and of every result on the way
    max_characters  of the expression, spaces too
    max_depth       of parentheses inside parentheses; 0 means none
    """

    max_operands: int = 2
    max_digits: int = 12
    max_characters: int = 200
    max_depth: int = 8

    def __post_init__(self) -> None:
        """Raise ValueError for a limit that nothing could meet, or that bounds nothing."""
        if self.max_operands < 0:
            raise ValueError(f"max_operands = {self.max_operands} must be at least 0; 0 means no limit")
        if not 1 <= self.max_digits <= MOST_DIGITS:
            raise ValueError(f"max_digits = {self.max_digits} must be in 1..{MOST_DIGITS}; 12 is the default")
        if self.max_characters < 1:
            raise ValueError(f"max_characters = {self.max_characters} must be at least 1; 200 is the default")
        if self.max_depth < 0:
            raise ValueError(f"max_depth = {self.max_depth} must be at least 0; 0 allows no parentheses")


def evaluate(expression: str, limits: Limits) -> int:
    """The value; raise ExpressionError where `expression` is malformed or beyond `limits`."""
    tokens = _tokens(expression, limits)
    count = _operands(tokens)
    if limits.max_operands and count > limits.max_operands:
        raise ExpressionError(f"{count} operands must be at most {limits.max_operands}; write a shorter expression")
    return _compute(tokens, limits)


def answer(text: str, limits: Limits) -> str | None:
    """The value of the expression before the final "=" in decimal, such as "-6"; None if there is none.

    `text` is all that the model wrote so far. It ends with "=", maybe followed by spaces, which count as characters
    of the expression. The expression begins after the last one before it of , . ; newline and =. Of an expression
    with more than `max_operands` operands, the last ones are computed, each with its own signs and without the
    operator before them; where it has parentheses too, that would have no meaning, and the answer is None. What is
    cut off must be well-formed nevertheless. Raises nothing, whatever the text.
    """
    # The "=", the longest expression and what separates it from the rest: a long text costs no more than a short one.
    longest = limits.max_characters + 2
    tail = text[-longest:].rstrip(" ")
    if not tail.endswith("="):
        return None
    tail = tail[:-1]
    start = max(tail.rfind(separator) for separator in _SEPARATORS) + 1
    if start == 0 and len(text) > longest:
        return None  # It began even earlier.
    try:
        return str(_compute(_last_operands(_tokens(tail[start:], limits), limits.max_operands), limits))
    except ExpressionError:
        return None


def _tokens(expression: str, limits: Limits) -> list[Token]:
    """The tokens of a well-formed expression; raise ExpressionError for any other."""
    # First, so that nothing below sees more.
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
            # Escaped: it may be half a surrogate pair or turn the reading direction.
            raise ExpressionError(f"{word[:20]!a} must not stand there; write numbers, + - * and parentheses")
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
    """How many of the tokens are numbers."""
    return sum(isinstance(token, int) for token in tokens)


def _last_operands(tokens: list[Token], count: int) -> list[Token]:
    """The last `count` operands, their signs and what joins them; all tokens where there are no more or count is 0."""
    if not count or _operands(tokens) <= count:
        return tokens
    if "(" in tokens:
        raise ExpressionError(f"more than {count} operands must not have parentheses; write a shorter expression")
    start = [i for i, token in enumerate(tokens) if isinstance(token, int)][-count]
    while tokens[start - 1] in _UNARY:  # Ends: an operator comes before, since more operands do.
        start -= 1
    return tokens[start:]


def _compute(tokens: list[Token], limits: Limits) -> int:
    """The value of well-formed tokens, by two stacks; raise ExpressionError for a result that is too large."""
    values: list[int] = []
    waiting = ["("]
    # One more pair of parentheses around all brings the last operators in.
    for token in [*tokens, ")"]:
        if isinstance(token, int):
            values.append(token)
        elif token == ")":
            while (last := waiting.pop()) != "(":
                _apply(last, values, limits)
        else:
            # What binds as tightly goes first, left to right; a sign or a parenthesis begins an operand and waits.
            while token in _BINARY and _PRIORITY[waiting[-1]] >= _PRIORITY[token]:
                _apply(waiting.pop(), values, limits)
            waiting.append(token)
    return values.pop()


def _apply(name: str, values: list[int], limits: Limits) -> None:
    """Replace the last one or two of `values` by what the operator makes of them, if it is not too large."""
    right = values.pop()
    result = _UNARY[name](right) if name in _UNARY else _BINARY[name](values.pop(), right)
    if abs(result) >= 10**limits.max_digits:
        raise ExpressionError(f"a result must have at most {limits.max_digits} digits; use smaller numbers")
    values.append(result)
