"""The arithmetic task: its questions and splits, its calculator, what R is made of, and how answers are judged."""

from collections import Counter

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from buffer.tool import actions_of
from buffer.types import IntArray, PolicySpec
from rewards.base_model import BaseModel
from rewards.judging.bootstrap import Interval
from rewards.task import TRAIN, Judges, Sample, check_terms
from rewards.tasks.arithmetic import ArithmeticTask
from rewards.tasks.arithmetic_questions import EXAMPLES, TEST_OPERANDS, Sum, check_disjoint, make_splits
from rewards.tools import arithmetic
from rewards.tools.arithmetic import Limits
from rewards.tools.calculator import Calculator

MERGES = [("Ġ", "="), ("Ġ", "-"), ("=", "="), ("=", "-")]
SPECIAL = "<|end|>"
SMALL = {"train3": 6, "train4": 6, "test": 5, "demonstrations": 4}


def byte_tokenizer(merges: list[tuple[str, str]] = MERGES, use_regex: bool = True) -> Tokenizer:
    """Every byte is a token, as are the merged pairs: any text survives the way there and back."""
    symbols = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(pair) for pair in merges)]
    tokenizer = Tokenizer(models.BPE(vocab={symbol: i for i, symbol in enumerate(symbols)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([SPECIAL])
    return tokenizer


TOKENIZER = byte_tokenizer()


def ids(text: str) -> IntArray:
    return np.array(TOKENIZER.encode(text, add_special_tokens=False).ids, dtype=np.int32)


def text_of(token_ids: IntArray) -> str:
    return str(TOKENIZER.decode(token_ids.tolist(), skip_special_tokens=False))


@pytest.fixture(scope="module")
def task() -> ArithmeticTask:
    return ArithmeticTask(TOKENIZER, **SMALL)


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> PolicySpec:
    """A tiny model with random weights over the bytes."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("byte-model")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=TOKENIZER.get_vocab_size(), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, max_position_embeddings=512, initializer_range=0.3, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    allowed = tuple(int(token) for token in {*ids("0123456789, +-="), *ids(" - =")})
    return PolicySpec(str(folder), "float32", 4, 4, ("q_proj",), int(ids(".")[0]), 40, allowed_token_ids=allowed)


# --- questions ---


def test_a_chain_is_worked_step_by_step_and_ends_in_the_value() -> None:
    sums = [question for split in make_splits(3, 4, {3: 40, 4: 40}, 40).values() for question in split]
    for question in sums:
        steps = [step.split(" = ") for step in question.chain.removeprefix(" ").split(", ")]
        assert len(steps) == len(question.digits) - 1
        results = [str(arithmetic.evaluate(left, Limits())) for left, _ in steps]
        assert results == [right for _, right in steps]
        assert int(results[-1]) == question.value == arithmetic.evaluate(question.canonical, Limits(max_operands=0))


def test_every_question_of_three_operands_can_be_asked_once_and_no_more() -> None:
    total = 10**3 * 2**2
    splits = make_splits(0, 0, {3: total - 100}, 100)
    canonical = {question.canonical for split in (TRAIN, "test3") for question in splits[split]}
    assert len(canonical) == total
    with pytest.raises(ValueError, match=f"train3 = {total - 99} need more than the {total} questions"):
        make_splits(0, 0, {3: total - 99}, 100)


def test_splits_share_no_question_and_hold_none_twice() -> None:
    splits = make_splits(0, 6, {3: 1000, 4: 1000}, 500)
    everything = [question.canonical for split in splits.values() for question in split]
    assert len(set(everything)) == len(everything) == 6 + 2000 + 3 * 500
    for n in TEST_OPERANDS:
        assert {len(question.digits) for question in splits[f"test{n}"]} == {n}
    assert Counter(len(question.digits) for question in splits[TRAIN]) == {3: 1000, 4: 1000}
    assert Counter(len(question.digits) for question in splits[EXAMPLES]) == {3: 3, 4: 3}


def test_a_question_that_stands_in_two_splits_or_twice_in_one_is_refused_by_name() -> None:
    one, other = Sum((1, 2, 3), "+-"), Sum((1, 2, 4), "+-")
    check_disjoint({"train": [one], "test3": [other]})
    with pytest.raises(ValueError, match="'1 \\+ 2 - 3' of split 'test3' is in 'train' too"):
        check_disjoint({"train": [other, one], "test3": [one]})
    with pytest.raises(ValueError, match="'1 \\+ 2 - 3' of split 'train' is in 'train' too"):
        check_disjoint({"train": [one, other, one]})


def test_the_seed_alone_decides_what_is_tested() -> None:
    few, many = make_splits(0, 3, {3: 5, 4: 5}, 50), make_splits(0, 3, {3: 500, 4: 900}, 50)
    assert all(few[f"test{n}"] == many[f"test{n}"] != make_splits(1, 3, {3: 5}, 50)[f"test{n}"] for n in TEST_OPERANDS)


# --- the calculator ---


def test_the_calculator_waits_for_the_tokens_that_end_in_an_equals_sign() -> None:
    assert {text_of(np.array([token])) for token in Calculator(TOKENIZER).triggers} == {"=", " =", "=="}


def test_a_vocabulary_that_can_not_ask_the_calculator_is_refused() -> None:
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "=-": 1}, unk_token="a"))
    with pytest.raises(ValueError, match='no token of the vocabulary ends with "="'):
        Calculator(tokenizer)


@pytest.mark.parametrize(
    ("text", "written"),
    {
        " 6 - 0 =": " 6",
        " 6 - 0 = 6, 6 - 4 =": " 2",
        " 2 - 8=": " -6",
        " -6 - 8 =": " -14",
        " 6 - 0 - 4 - 8 =": " -4",
        " 999999 + 0 =": " 999999",
        " 999999 + 1 =": "",
        " 1 ==": "",
        " the sum =": "",
        "=": "",
        f" 1{SPECIAL}2 =": "",
        " \N{SUPERSCRIPT TWO} + 1 =": "",
    }.items(),
)
def test_what_the_calculator_writes_behind_a_text(text: str, written: str) -> None:
    assert text_of(Calculator(TOKENIZER, Limits(max_digits=6)).answer(ids(text))) == written


def test_no_answer_is_longer_than_the_calculator_says() -> None:
    calculator = Calculator(TOKENIZER, Limits(max_digits=6))
    longest = calculator.answer(ids(" -999999 - 0 ="))
    assert 0 < len(longest) <= calculator.max_tokens


def test_any_tokens_get_an_answer_within_the_limit_and_the_same_again() -> None:
    calculator, again = Calculator(TOKENIZER), Calculator(byte_tokenizer())
    rng = np.random.default_rng(0)
    likely = np.concatenate([ids(" 1234567890+-*()=,"), rng.integers(TOKENIZER.get_vocab_size(), size=4)])
    for _ in range(300):
        token_ids = np.append(rng.choice(likely, size=rng.integers(30)), ids("=")).astype(np.int32)
        answer = calculator.answer(token_ids)
        assert len(answer) <= calculator.max_tokens and answer.tolist() == again.answer(token_ids).tolist()


def test_in_a_replayed_chain_exactly_the_results_are_the_calculators() -> None:
    chain = Sum((6, 0, 4, 8), "---").chain
    assert chain == " 6 - 0 = 6, 6 - 4 = 2, 2 - 8 = -6"
    acted = actions_of(ids(chain), Calculator(TOKENIZER))
    assert text_of(ids(chain)[acted]) == " 6 - 0 =, 6 - 4 =, 2 - 8 ="
    with pytest.raises(ValueError, match="the tool writes"):
        actions_of(ids(" 6 - 0 = 7"), Calculator(TOKENIZER))


# --- the task ---


def test_demonstrations_are_chains_of_train_questions_that_acting_leads_to(task: ArithmeticTask) -> None:
    by_id = {prompt.id: prompt for prompt in task.prompts()}
    assert len(task.demonstrations()) == SMALL["demonstrations"]
    for name, chain in task.demonstrations():
        assert not actions_of(ids(chain), task.tool).all()
        assert task.labels(by_id[name], ids(chain)) == {"right": 1.0, "parsed": 1.0}


def test_ids_are_unique_over_all_splits_and_only_the_frozen_model_sees_examples(task: ArithmeticTask) -> None:
    prompts = [prompt for split in task.splits for prompt in task.prompts(split)]
    assert tuple(task.splits) == (TRAIN, "test3", "test4", "test5")
    assert len({prompt.id for prompt in prompts}) == len(prompts) == 6 + 6 + 3 * 5
    for prompt in prompts:
        assert prompt.text == text_of(prompt.token_ids) == f"Question: {prompt.id} = ? Answer:"
        (request,) = task.score_requests(prompt)
        examples, *rest = text_of(request.context).rsplit("\n", 1)
        assert rest == [prompt.text] and examples.count("Question: ") == examples.count("The answer is ") == 3
        assert f"Question: {prompt.id} =" not in examples
        assert text_of(request.target) == f". The answer is {prompt.fields['value']}."


def test_without_the_tool_the_policy_writes_all_of_a_chain() -> None:
    task = ArithmeticTask(TOKENIZER, **SMALL, tool=False)
    assert task.tool is None and all(actions_of(ids(chain), task.tool).all() for _, chain in task.demonstrations())


@pytest.mark.parametrize("masked", [False, True])
def test_log_r_of_every_prefix_equals_a_plain_pass_over_its_text(spec: PolicySpec, masked: bool) -> None:
    from transformers import AutoModelForCausalLM

    task = ArithmeticTask(TOKENIZER, **SMALL, masked=masked)
    model = AutoModelForCausalLM.from_pretrained(spec.base_model, dtype=torch.float32).eval()
    prompt, response = task.prompts()[0], ids(task.demonstrations()[0][1])
    (request,) = task.score_requests(prompt)
    base_scores = BaseModel(spec, torch.device("cpu")).score([request], [response])
    log_r = check_terms(task.log_reward(prompt, response, base_scores), len(response), "arithmetic").sum(0)
    outside = np.ones(TOKENIZER.get_vocab_size(), dtype=bool)
    outside[[*(spec.allowed_token_ids or ()), spec.stop_token_id]] = False
    for i in range(len(response) + 1):
        whole = np.concatenate([request.context, response[:i], request.target])
        with torch.no_grad():
            logits = model(torch.from_numpy(whole)[None].long()).logits[0]
        if masked:
            logits[len(request.context) - 1 : len(request.context) - 1 + i, torch.from_numpy(outside)] = -torch.inf
        log_p = logits.log_softmax(-1)[torch.arange(len(whole) - 1), whole[1:]]
        assert log_r[i] == pytest.approx(float(log_p[len(request.context) - 1 :].sum()), abs=1e-3)


# --- judging ---


def judged(task: ArithmeticTask, samples: dict[str, list[str]]) -> dict[str, float]:
    drawn = {name: [Sample(ids(text), 0.0, 0.0) for text in texts] for name, texts in samples.items()}
    figures = task.evaluate(drawn, Judges())
    assert set(figures) <= set(task.explanations)
    return {name: value.value if isinstance(value, Interval) else value for name, value in figures.items()}


@pytest.mark.parametrize(
    ("text", "parsed"),
    {
        " 1 + 1 = {}": 1.0,
        " {} = {}": 1.0,
        "=  {} ": 1.0,
        " {}": 0.0,
        "": 0.0,
        " 1 + 1 =": 0.0,
        " 1 + 1 = {},": 0.0,
        " 1 + 1 = {} {}": 0.0,
        " 1 + 1 = {}, 1 =": 0.0,
        " = - {}": 0.0,
        " = {}.0": 0.0,
        " = {}x": 0.0,
        f" = {'9' * 5000}": 0.0,
        " = \N{ARABIC-INDIC DIGIT THREE}": 0.0,
    }.items(),
)
def test_an_answer_is_the_number_behind_the_last_equals_sign_and_nothing_else(
    task: ArithmeticTask, text: str, parsed: float
) -> None:
    prompt = task.prompts()[0]
    chain = text.replace("{}", str(prompt.fields["value"]))
    assert task.labels(prompt, ids(chain)) == {"right": parsed, "parsed": parsed}


def test_a_failed_parse_equals_no_number_not_even_minus_one() -> None:
    task = ArithmeticTask(TOKENIZER, train3=500, train4=0, test=1)
    prompt = next(prompt for prompt in task.prompts() if prompt.fields["value"] == -1)
    assert judged(task, {prompt.id: ["what?"] * 3}) == {
        "accuracy_3": 0.0, "single": 0.0, "unparsed": 1.0, "tool": 1.0, "samples": 3.0,
    }  # fmt: skip


def test_the_majority_answers_for_each_number_of_operands_and_the_unparsed_do_not_vote(task: ArithmeticTask) -> None:
    three, five = task.prompts("test3")[0], task.prompts("test5")[0]
    right3, right5 = f"= {three.fields['value']}", f"= {five.fields['value']}"
    figures = judged(task, {three.id: [right3, "= 99", right3, "", "", ""], five.id: [right5, "= 99", "= 99", "= 98"]})
    assert figures["accuracy_3"] == 1.0 and figures["accuracy_5"] == 0.0 and "accuracy_4" not in figures
    assert figures["single"] == pytest.approx((2 / 6 + 1 / 4) / 2)
    assert figures["unparsed"] == pytest.approx((3 / 6 + 0) / 2)
    assert figures["samples"] == 6 + 4


# --- what is refused ---


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train3": -1}, "train3 = -1 must be at least 0"),
        ({"train3": 0, "train4": 0, "demonstrations": 0}, r"train3 \+ train4 = 0 must be at least 1"),
        ({"demonstrations": 13}, "demonstrations = 13"),
        ({"max_operands": 1}, "max_operands = 1 lets the calculator compute nothing"),
        ({"test": 3999}, "more than the 4000 questions of 3 operands"),
    ],
)
def test_options_that_make_no_sense_are_refused_by_name(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ArithmeticTask(TOKENIZER, **{**SMALL, **options})


def test_a_tokenizer_that_joins_the_last_digit_and_the_target_is_refused() -> None:
    joining = byte_tokenizer([(digit, ".") for digit in "0123456789"], use_regex=False)
    with pytest.raises(ValueError, match="the tokenizer merges"):
        ArithmeticTask(joining, **SMALL)
