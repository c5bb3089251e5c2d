"""Word overlap of a text with a reference: BLEU-4 and GLEU, in percent.

Hu et al. (arXiv 2310.04363) report both for story infilling. Their code splits at white space and is case-sensitive;
here punctuation is separate from words and case is ignored. Compare runs with each other, not with their table.
"""

import re

from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from nltk.translate.gleu_score import sentence_gleu

_WORD = re.compile(r"\w+|[^\w\s]")


def words(text: str) -> list[str]:
    """Lower-case words and single punctuation characters: "Don't go." -> don ' t go ."""
    return _WORD.findall(text.lower())


def bleu4(hypothesis: str, reference: str) -> float:
    """Sentence BLEU up to 4-grams with one reference, 0..100 (Papineni et al., 2002).

    An n-gram order without a match counts 0.1 matches (smoothing method 1 of Chen and Cherry, 2014), so that only texts
    without a common word get 0. A text of fewer than four words has no 4-gram to match, so that even an equal reference
    gives less than 100.
    """
    smoothing = SmoothingFunction().method1
    return 100.0 * float(sentence_bleu([words(reference)], words(hypothesis), smoothing_function=smoothing))


def gleu(hypothesis: str, reference: str) -> float:
    """The minimum of precision and recall over all 1- to 4-grams, 0..100 (Wu et al., arXiv 1609.08144).

    It suits single sentences and needs no smoothing. Equal texts get 100, an empty text gets 0.
    """
    return 100.0 * float(sentence_gleu([words(reference)], words(hypothesis)))
