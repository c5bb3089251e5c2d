"""The calculator as a tool: behind an "=" that the policy wrote stands what the calculation before it gives.

" 6 - 4 ="          " 2"
" 6 - 0 - 4 ="      " -4"    where two operands are all it computes (Hu et al., arXiv 2310.04363)
" the sum ="        nothing: the policy goes on by itself

Which text is answered, and that no text makes it do more than its limits say: arithmetic.py.
"""

import numpy as np
from tokenizers import Tokenizer

from buffer.types import IntArray
from rewards.tools.arithmetic import Limits, answer

NOTHING = np.zeros(0, dtype=np.int32)


class Calculator:
    """Meets buffer/tool.py: a pure function of the tokens so far."""

    def __init__(self, tokenizer: Tokenizer, limits: Limits | None = None) -> None:
        """ValueError for a vocabulary in which no token ends with "="."""
        self._tokenizer = tokenizer
        self._limits = limits or Limits()
        # Not a token such as "=-": there the policy itself went on behind the "=".
        self.triggers = frozenset(
            token for token in range(tokenizer.get_vocab_size()) if self._text([token]).endswith("=")
        )
        if not self.triggers:
            raise ValueError(
                'no token of the vocabulary ends with "=", so the calculator would never be asked: '
                "switch the tool off, or choose another base model"
            )
        # A space, a sign, digits; no tokenizer makes more tokens of them than there are characters.
        self.max_tokens = 2 + self._limits.max_digits

    def answer(self, token_ids: IntArray) -> IntArray:
        """A space and the value, as tokens; none where the text before the "=" is nothing that it computes."""
        value = answer(self._text(token_ids.tolist()), self._limits)
        if value is None:
            return NOTHING
        return np.array(self._tokenizer.encode(f" {value}", add_special_tokens=False).ids, dtype=np.int32)

    def _text(self, token_ids: list[int]) -> str:
        # Special tokens too: left out, they would let two numbers run into one.
        return str(self._tokenizer.decode(token_ids, skip_special_tokens=False))
