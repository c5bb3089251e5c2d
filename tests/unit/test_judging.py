"""Judges: each gives what a hand, a double loop or one text at a time gives."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, BertModel

from buffer.errors import ModelError
from rewards.judging import bert_score, embedding
from rewards.judging.bert_score import bert_score_f1
from rewards.judging.binomial import binomial_share
from rewards.judging.bootstrap import Interval, bootstrap_mean
from rewards.judging.diversity import distinct_n, diversity
from rewards.judging.embedding import Encoder, SentenceEmbedder
from rewards.judging.majority_vote import majority_vote
from rewards.judging.overlap import bleu4, gleu, words

WORDS = ["the", "cat", "sat", "on", "a", "mat", "while", "dogs", "ran", "far", "away"]
TEXTS = ["the cat sat", "a cat", "dogs ran far away while the cat sat on a mat", "the the the", "", "far away", "a cat"]


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a BERT with four layers and eleven words, whose tokenizer.json asks for padding and cuts at 8."""
    folder = tmp_path_factory.mktemp("bert")
    vocabulary = {word: k for k, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    tokenizer.enable_padding(length=8)
    tokenizer.enable_truncation(8)
    tokenizer.save(str(folder / "tokenizer.json"))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=24,
        initializer_range=0.5,  # states that differ
    )
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Texts fall into several batches, pairs into several groups."""
    monkeypatch.setattr(embedding, "BATCH_TOKENS", 20)
    monkeypatch.setattr(bert_score, "PAIRS", 2)
    yield


def states_of(text: str, folder: Path, layer: int = -1) -> torch.Tensor:
    """[T, D] of one text alone, with [CLS] and [SEP] around it."""
    ids = [2, *(4 + WORDS.index(word) for word in text.split()), 3]
    model = BertModel.from_pretrained(folder).eval()
    with torch.no_grad():
        return model(torch.tensor([ids]), output_hidden_states=True).hidden_states[layer][0]


# votes


def test_the_most_frequent_answer_wins() -> None:
    assert majority_vote(["4", "5", "5", "4", "5"]) == "5"


def test_of_equally_frequent_answers_the_first_seen_wins() -> None:
    assert majority_vote([7, 3, 3, 7]) == 7
    assert majority_vote([3, 7, 7, 3]) == 3


def test_no_answer_never_outvotes_an_answer() -> None:
    assert majority_vote([None, None, None, "4"]) == "4"
    assert majority_vote([None, None]) is None
    assert majority_vote([]) is None


# bootstrap


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        (2000, 2000, 0.025 ** (1 / 2000), 1.0),
        (0, 10, 0.0, 1 - 0.025 ** (1 / 10)),
        (1, 2, 1 - 0.975**0.5, 0.975**0.5),
        (5, 10, 0.18709, 0.81291),
        (81, 100, 0.71930, 0.88156),
    ],
    ids=["all", "none", "half of two, in closed form", "half of ten, as in tables", "as in tables"],
)
def test_a_share_has_the_exact_interval(successes: int, trials: int, low: float, high: float) -> None:
    share = binomial_share(successes, trials)
    assert (share.value, share.low, share.high) == pytest.approx((successes / trials, low, high), abs=1e-5)


def test_the_interval_of_a_share_holds_every_truth_at_least_as_often_as_it_says() -> None:
    n = 20
    intervals = [binomial_share(k, n, level=0.9) for k in range(n + 1)]
    for p in np.linspace(0.001, 0.999, 200):
        held = [k for k in range(n + 1) if intervals[k].low <= p <= intervals[k].high]
        assert sum(math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in held) >= 0.9


def test_no_trial_has_no_share() -> None:
    none = binomial_share(0, 0)
    assert math.isnan(none.value) and math.isnan(none.low) and math.isnan(none.high)


def test_a_constant_has_no_interval() -> None:
    for constant in ([3.0], [1.0] * 20):
        interval = bootstrap_mean(constant, np.random.default_rng(0))
        assert interval.value == constant[0] and math.isnan(interval.low) and math.isnan(interval.high)


def test_no_value_has_no_mean() -> None:
    assert math.isnan(bootstrap_mean([], np.random.default_rng(0)).value)


def test_the_interval_of_a_coin_is_that_of_the_binomial() -> None:
    """100 values, half of them 1: their resampled sum is Binomial(100, 1/2), whose central 95 % are 40..60."""
    interval = bootstrap_mean([0.0, 1.0] * 50, np.random.default_rng(0), resamples=20_000)
    assert interval == Interval(0.5, 0.4, 0.6)


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    samples = rng.uniform(size=(1000, 60))
    for level, error in ((0.95, 0.007), (0.5, 0.016)):  # standard error of the share of a thousand
        intervals = [bootstrap_mean(list(sample), rng, resamples=500, level=level) for sample in samples]
        covered = np.mean([interval.low <= 0.5 <= interval.high for interval in intervals])
        assert abs(covered - level) < 3 * error
        assert all(interval.low <= interval.value <= interval.high for interval in intervals)


# overlap


def test_words_are_lower_case_and_punctuation_stands_alone() -> None:
    assert words("Don't GO, über_x.") == ["don", "'", "t", "go", ",", "über_x", "."]


def test_a_text_has_all_overlap_with_itself() -> None:
    text = "Jane bought a new dress for the party."
    assert bleu4(text, text) == gleu(text, text) == pytest.approx(100.0)
    assert gleu("Hi.", "hi .") == pytest.approx(100.0)


def test_bleu_is_the_geometric_mean_of_the_precisions() -> None:
    """the cat sat on a mat | the cat sat on the mat: 5 of 6, 3 of 5, 2 of 4, 1 of 3."""
    expected = 100 * (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25
    assert bleu4("The cat sat on a mat", "the cat sat on the mat") == pytest.approx(expected)


def test_an_order_without_a_match_counts_a_tenth_of_one() -> None:
    """a b x c d | a b y c d: 4 of 5, 2 of 4, 0 of 3, 0 of 2."""
    expected = 100 * (4 / 5 * 2 / 4 * 0.1 / 3 * 0.1 / 2) ** 0.25
    assert bleu4("a b x c d", "a b y c d") == pytest.approx(expected)


def test_a_short_text_pays_the_brevity_penalty() -> None:
    """4 words of 6, all of them right: e^(1 − 6/4)."""
    assert bleu4("the cat sat on", "the cat sat on the mat") == pytest.approx(100 * math.exp(1 - 6 / 4))


def test_gleu_is_the_smaller_of_precision_and_recall() -> None:
    """a b has the 1- to 4-grams a, b, ab; a b c has a, b, c, ab, bc, abc: 3 in common of 6."""
    assert gleu("a b", "a b c") == gleu("a b c", "a b") == pytest.approx(50.0)


@pytest.mark.parametrize(("hypothesis", "reference"), [("", "a b c d"), ("a b c d", ""), ("", ""), ("a b", "c d")])
def test_texts_without_a_common_word_have_no_overlap(hypothesis: str, reference: str) -> None:
    assert bleu4(hypothesis, reference) == gleu(hypothesis, reference) == 0.0


# diversity


def test_diversity_is_that_of_the_double_loop() -> None:
    rows = np.random.default_rng(0).normal(size=(9, 5)) + 0.5
    cosines = [
        a @ b / np.linalg.norm(a) / np.linalg.norm(b) for i, a in enumerate(rows) for j, b in enumerate(rows) if i < j
    ]
    assert diversity(rows) == pytest.approx(1 - np.mean(cosines))
    assert diversity(rows.astype(np.float32)) == pytest.approx(1 - np.mean(cosines), abs=1e-6)


def test_equal_texts_have_no_diversity_and_orthogonal_ones_have_one() -> None:
    assert diversity(np.ones((4, 3))) == pytest.approx(0.0)
    assert diversity(3 * np.eye(4)) == pytest.approx(1.0)
    assert diversity(np.array([[1.0, 0.0], [-2.0, 0.0]])) == pytest.approx(2.0)
    assert diversity(np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 0.0]])) == pytest.approx(2 / 3)


def test_one_text_has_no_diversity_to_speak_of() -> None:
    assert math.isnan(diversity(np.ones((1, 3)))) and math.isnan(diversity(np.ones((0, 3))))


def test_distinct_n_is_the_share_of_different_n_grams() -> None:
    """a b a b has ab, ba, ab; a b c has ab, bc: three kinds among five."""
    texts = [["a", "b", "a", "b"], ["a", "b", "c"], ["a"]]
    assert distinct_n(texts, 2) == pytest.approx(3 / 5)
    assert distinct_n(texts, 1) == pytest.approx(3 / 8)
    assert distinct_n([[1, 2, 3]], 3) == 1.0
    assert math.isnan(distinct_n(texts, 5))
    with pytest.raises(ValueError, match="n = 0"):
        distinct_n(texts, 0)


# embedding


def test_an_embedding_is_the_mean_state_of_its_text_alone(tiny_bert: Path, small_batches: None) -> None:
    vectors = SentenceEmbedder(tiny_bert).embed(TEXTS)
    expected = np.stack([states_of(text, tiny_bert).mean(0).numpy() for text in TEXTS])
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-5)


def test_the_order_of_texts_does_not_matter(tiny_bert: Path, small_batches: None) -> None:
    embedder = SentenceEmbedder(tiny_bert)
    order = np.random.default_rng(0).permutation(len(TEXTS))
    np.testing.assert_allclose(embedder.embed([TEXTS[k] for k in order]), embedder.embed(TEXTS)[order], atol=1e-5)


def test_no_batch_is_larger_than_allowed_and_no_text_is_left_out(tiny_bert: Path, small_batches: None) -> None:
    batches = list(Encoder(tiny_bert).encode(TEXTS))
    assert sorted(k for batch in batches for k in batch.indices) == list(range(len(TEXTS)))
    assert len(batches) > 1 and all(batch.present.numel() <= 20 for batch in batches)
    assert sum(int(batch.content.sum()) for batch in batches) == sum(len(text.split()) for text in TEXTS)


def test_no_text_has_no_embedding(tiny_bert: Path) -> None:
    assert SentenceEmbedder(tiny_bert).embed([]).shape == (0, 16)


@pytest.mark.parametrize(("max_tokens", "kept"), [(6, 4), (256, 22)])
def test_a_long_text_is_cut_where_asked_or_where_positions_end(tiny_bert: Path, max_tokens: int, kept: int) -> None:
    text = "cat dogs " * 20
    vectors = SentenceEmbedder(tiny_bert, max_tokens).embed([text, " ".join(text.split()[:kept])])
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)


def test_a_text_without_tokens_is_zeros(tiny_bert: Path, tmp_path: Path) -> None:
    for file in tiny_bert.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    bare = Tokenizer(WordLevel({"[UNK]": 1}, unk_token="[UNK]"))
    bare.save(str(tmp_path / "tokenizer.json"))
    vectors = SentenceEmbedder(tmp_path).embed(["", "x"])
    assert not vectors[0].any() and np.linalg.norm(vectors[1]) == pytest.approx(1.0)
    assert not SentenceEmbedder(tmp_path).embed([""]).any()


def test_a_folder_that_is_no_encoder_is_told_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"lacks tokenizer\.json, \*\.safetensors.*tributary model get"):
        SentenceEmbedder(tmp_path)


# BERTScore


def test_bert_score_is_greedy_matching_after_three_quarters_of_the_layers(tiny_bert: Path, small_batches: None) -> None:
    references = ["the cat sat on a mat", "dogs ran", "a cat sat", "the cat", "a", "far", "a cat"]
    expected = []
    for hypothesis, reference in zip(TEXTS, references, strict=True):
        mine, its = ([s / s.norm() for s in states_of(text, tiny_bert, layer=3)] for text in (hypothesis, reference))
        if not hypothesis:
            expected.append(0.0)
            continue
        precision = np.mean([max(float(a @ b) for b in its) for a in mine[1:-1]])
        recall = np.mean([max(float(a @ b) for b in mine) for a in its[1:-1]])
        expected.append(2 * precision * recall / (precision + recall))
    np.testing.assert_allclose(bert_score_f1(TEXTS, references, tiny_bert), expected, atol=1e-5)


def test_a_text_matches_itself_in_full_and_nothing_matches_no_text(tiny_bert: Path) -> None:
    f1 = bert_score_f1(["the cat", "a mat", "", ""], ["the cat", "", "a mat", ""], tiny_bert)
    np.testing.assert_allclose(f1, [1.0, 0.0, 0.0, 0.0], atol=1e-6)
    assert bert_score_f1([], [], tiny_bert).shape == (0,)


def test_each_hypothesis_needs_its_reference(tiny_bert: Path) -> None:
    with pytest.raises(ValueError, match="2 hypotheses and 1 references"):
        bert_score_f1(["a", "b"], ["a"], tiny_bert)
