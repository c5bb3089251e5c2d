"""The experiments of `tributary reproduce`: which contenders, and the figures that decide between them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from buffer.errors import ConfigError
from rewards.task import TRAIN


@dataclass(frozen=True, slots=True)
class Contender:
    """One line of a table: a way to train, or a way to decode."""

    name: str
    recipe: str
    overrides: tuple[str, ...] = ()
    """section.setting=value"""
    trains: bool = True
    """False: the policy of another contender's run, or the base model, whose figures every run of the recipe has."""
    decoding: tuple[str, ...] = ()
    """Options of `tributary evaluate` that choose strings in another way; none: samples of the policy itself."""
    teaches: bool = False
    """Learn from the listed strings of the target instead of from samples."""
    like: str = ""
    """The contender whose policy it is; "" where it is the base model, or trains."""


@dataclass(frozen=True, slots=True)
class Experiment:
    """A table of contenders."""

    title: str
    contenders: tuple[Contender, ...]
    figures: Mapping[str, str]
    """Figure -> heading of its column. The first decides."""
    best: str
    """"largest" or "smallest": the better values of the first figure."""
    minutes: float
    """Time that one trained contender takes on two CPU cores, min."""
    splits: tuple[str, ...] = (TRAIN,)
    """Splits of the task that are judged. Of several, the figures have the split's name and a dot in front. Other ways
    to decode are judged on all but the simulated one."""
    judged: tuple[str, ...] = ()
    """Options of `tributary evaluate` for all contenders, where `splits` are not those of training."""
    published: Mapping[str, str] = field(default_factory=dict)
    """What a paper reports, in words, never mixed with ours."""


BALANCE = ("group_subtb", "subtb", "vargrad", "tb")
COMPARING = ("group_subtb", "vargrad")
"""Those that work with a shortest length: the others would not learn how strings that differ before it compare."""
POLICY_GRADIENTS = ("pg", "pg_kl")
ON_POLICY = ("learner.fresh_fraction=1.0", 'actors.behaviours=[{name="on_policy", weight=1.0}]')


def _trained(recipe: str, prefix: str = "", balance: tuple[str, ...] = BALANCE) -> tuple[Contender, ...]:
    """The objectives on one recipe."""
    return (
        *(Contender(prefix + name, recipe, (f"learner.objective={name}",)) for name in balance),
        *_policy_gradients(recipe, prefix),
    )


def _policy_gradients(recipe: str, prefix: str = "", changes: tuple[str, ...] = ()) -> tuple[Contender, ...]:
    """The baselines that learn from fresh samples alone."""
    return tuple(
        Contender(prefix + name, recipe, (f"learner.objective={name}", *ON_POLICY, *changes))
        for name in POLICY_GRADIENTS
    )


def _base(recipe: str, options: Mapping[str, str]) -> tuple[Contender, ...]:
    """The base model, then with each of the options of `tributary evaluate`, by name."""
    plain = Contender("base model", recipe, trains=False)
    return plain, *(
        Contender(f"base model, {name}", recipe, trains=False, decoding=tuple(words.split()))
        for name, words in options.items()
    )


OURS = "ours"
AS_MANY_STRINGS = ("learner.steps=190", "learner.reward_temperature_steps=130")
"""For the policy gradients on `solutions`: 64 fresh strings a step for 190 steps are the 12,000 that the others see."""
NOT_JUDGED = ("evaluation.samples=0",)
"""For an experiment whose splits are judged after training."""
TEMPERATURES = {f"T = {t}": f"--temperature {t}" for t in ("0.5", "1.5", "2")}
DECODERS = {**TEMPERATURES, "top-p 0.9": "--top-p 0.9", "10 worked examples": "--shots 10"}


def _sft(recipe: str) -> Contender:
    return Contender("sft on all listed strings", recipe, ("learner.objective=sft",), teaches=True)


EXPERIMENTS: Mapping[str, Experiment] = {
    "integers": Experiment(
        "Integers from 0 to 100, all equally likely",
        (*_trained("demo"), _sft("demo"), *_base("demo", DECODERS)),
        {
            "gap": "gap, nats",
            "valid": "valid",
            "kl_uniform": "KL to uniform, nats",
            "distinct": "different integers of 101",
        },
        "smallest",
        6,
        published={"Hu et al., ICLR 2024, figure 2 (6B)": "valid: base model 50.5 %, PPO 95.8 %, GFlowNet 100 %"},
    ),
    "solutions": Experiment(
        "All ways to write a number as a sum of two, all equally likely",
        (
            Contender("group_subtb", "solutions", ("learner.objective=group_subtb",)),
            *_policy_gradients("solutions", changes=AS_MANY_STRINGS),
            _sft("solutions"),
            *_base("solutions", DECODERS),
            Contender("vargrad", "solutions", ("learner.objective=vargrad",)),
        ),
        {
            "recall": "share of all answers drawn",
            "correct": "correct (pass@1)",
            "pass_at_8": "pass@8",
            "gap": "gap, nats",
        },
        "largest",
        12,
    ),
    "exactness": Experiment(
        "Toys whose strings are all listed, each with its probability",
        (
            *(c for toy in ("toy", "toy-tool") for c in _trained(toy, f"{toy}, ")),
            *_trained("toy-min", "toy-min, ", COMPARING),
        ),
        {"total_variation": "total variation", "gap": "gap, nats"},
        "smallest",
        3,
    ),
    "constrained": Experiment(
        "Text that meets a constraint, as likely as the base model finds it",
        (
            Contender(OURS, "constrained"),
            *_policy_gradients("constrained"),
            *_base("constrained", {"T = 0.5": "--temperature 0.5", "best of 8": "--best-of 8 --samples 50"}),
        ),
        {
            "gap": "gap, nats",
            "satisfied": "meets the constraint",
            "log_likelihood": "log-likelihood of those that do, nats",
            "distinct": "different strings, share",
        },
        "smallest",
        15,
    ),
    "continuation": Experiment(
        "Likely sentences that stay different, on prompts that were not trained on",
        (
            Contender(OURS, "continue", NOT_JUDGED),
            Contender(f"{OURS}, best of 5", "continue", NOT_JUDGED, False, ("--best-of", "5"), like=OURS),
            *_policy_gradients("continue", changes=NOT_JUDGED),
            *_base(
                "continue",
                {
                    "T = 0.8": "--temperature 0.8",
                    "T = 0.5": "--temperature 0.5",
                    "top-p 0.9": "--top-p 0.9",
                    "greedy": "--greedy --samples 1",
                    "beam search of 10": "--beam 10",
                    "diverse beam search of 10": "--diverse-beam 10",
                    "best of 5": "--best-of 5",
                    "beam search of 50": "--beam 50 --samples 50",
                    "diverse beam search of 50": "--diverse-beam 50 --samples 50",
                },
            ),
        ),
        {
            "max_log_likelihood": "log-likelihood of a prompt's likeliest string, nats",
            "log_likelihood": "mean, nats",
            "distinct": "different strings, share",
            "distinct_2": "different pairs of tokens, share",
            "tokens": "tokens",
        },
        "largest",
        20,
        splits=("test",),
        judged=("--samples", "10", "--prompts", "10"),
    ),
    "arithmetic": Experiment(
        "Steps before an answer, with a calculator, on questions that were not trained on",
        (
            Contender(OURS, "arithmetic", NOT_JUDGED),
            Contender("sft on the demonstrations", "arithmetic", ("learner.objective=sft", *NOT_JUDGED)),
            *_policy_gradients("arithmetic", changes=NOT_JUDGED),
            *_base("arithmetic", {f"{k} worked examples": f"--shots {k}" for k in (3, 5, 10)}),
        ),
        {
            "test3.accuracy_3": "right, 3 operands",
            "test4.accuracy_4": "right, 4 operands",
            "test5.accuracy_5": "right, 5 operands",
            "test3.single": "right by a single sample, 3 operands",
        },
        "largest",
        25,
        published={
            "Hu et al., ICLR 2024, table 4 (6B), 3, 4 and 5 operands": "few-shot 35.5, 21, 10.5 %; supervised 72.1, "
            "19.6, 12.8 %; PPO 30.6, 13.7, 5.6 %; GFlowNet 95.2, 75.4, 40.7 %"
        },
        splits=("test3", "test4", "test5"),
        judged=("--samples", "10", "--prompts", "50"),
    ),
    "infilling": Experiment(
        "The missing sentence of a story, on stories that were not trained on",
        (
            Contender(OURS, "infill", NOT_JUDGED),
            Contender("sft on the true sentences", "infill", ("learner.objective=sft", *NOT_JUDGED)),
            *_policy_gradients("infill", changes=(*NOT_JUDGED, "buffer.samples_per_insert=0.0")),
            *_base("infill", {"3 worked examples": "--shots 3", "best of 20": "--best-of 20"}),
        ),
        {
            "test.log_reward": "log R, nats",
            "test.bleu4": "BLEU-4",
            "test.gleu": "GLEU-4",
            "simulated.gap": "gap on simulated stories, nats",
        },
        "largest",
        30,
        published={
            "Hu et al., ICLR 2024, table 2 (774M)": "BLEU-4 1.3 to 4.2, GLEU-4 up to 4.2, BERTScore .081 to .184"
        },
        splits=("test", "simulated"),
        judged=("--samples", "10", "--prompts", "12"),
    ),
    "subjectivity": Experiment(
        "A rationale before a label, on reviews that were not trained on",
        (
            Contender(OURS, "subjectivity", NOT_JUDGED),
            *_policy_gradients("subjectivity", changes=NOT_JUDGED),
            *_base("subjectivity", {}),
        ),
        {
            "accuracy": "right label, by the mean of p(label) over rationales",
            "single": "right label after a single rationale",
            "log_score": "log p of the right label, nats",
            "predicted_subjective": "called subjective",
        },
        "largest",
        10,
        splits=("test",),
        judged=("--samples", "10", "--prompts", "70"),
    ),
}
"""By the name that `tributary reproduce` takes."""


def find_experiment(name: str) -> Experiment:
    """ConfigError for an unknown name."""
    if name not in EXPERIMENTS:
        raise ConfigError(f"{name!r} is not an experiment. Choose one of: {', '.join(EXPERIMENTS)}.")
    return EXPERIMENTS[name]
