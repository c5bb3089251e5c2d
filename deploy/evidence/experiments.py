"""The experiments of `tributary reproduce`: which contenders, and the figures that decide between them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from buffer.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Contender:
    """One line of a table: a way to train, or a way to decode."""

    name: str
    recipe: str
    overrides: tuple[str, ...] = ()
    """section.setting=value"""
    trains: bool = True
    """False: the base model, whose figures every run of the recipe has."""
    decoding: tuple[str, ...] = ()
    """Options of `tributary evaluate`; none: samples of the policy itself."""
    teaches: bool = False
    """Learn from the listed strings of the target instead of from samples."""


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
    published: Mapping[str, str] = field(default_factory=dict)
    """What a paper reports, in words, never mixed with ours."""


BALANCE = ("group_subtb", "subtb", "vargrad", "tb")
COMPARING = ("group_subtb", "vargrad")
"""Those that work with a shortest length: the others would not learn how strings that differ before it compare."""
ON_POLICY = ("learner.fresh_fraction=1.0", 'actors.behaviours=[{name="on_policy", weight=1.0}]')


def _trained(recipe: str, prefix: str = "", balance: tuple[str, ...] = BALANCE) -> tuple[Contender, ...]:
    """The objectives on one recipe."""
    return (
        *(Contender(prefix + name, recipe, (f"learner.objective={name}",)) for name in balance),
        *(Contender(prefix + name, recipe, (f"learner.objective={name}", *ON_POLICY)) for name in ("pg", "pg_kl")),
    )


def _decoded(recipe: str) -> tuple[Contender, ...]:
    """The base model under other ways to decode."""
    return (
        Contender("base model", recipe, trains=False),
        *(Contender(f"base model, T = {t}", recipe, (), False, ("--temperature", t)) for t in ("0.5", "1.5", "2")),
        Contender("base model, top-p 0.9", recipe, (), False, ("--top-p", "0.9")),
        Contender("base model, 10 worked examples", recipe, (), False, ("--shots", "10")),
    )


def _sft(recipe: str) -> Contender:
    return Contender("sft on all listed strings", recipe, ("learner.objective=sft",), teaches=True)


EXPERIMENTS: Mapping[str, Experiment] = {
    "integers": Experiment(
        "Integers from 0 to 100, all equally likely",
        (*_trained("demo"), _sft("demo"), *_decoded("demo")),
        {
            "gap": "gap, nats",
            "valid": "valid",
            "kl_uniform": "KL to uniform, nats",
            "distinct": "different integers of 101",
        },
        "smallest",
        6,
        {"Hu et al., ICLR 2024, figure 2 (6B)": "valid: base model 50.5 %, PPO 95.8 %, GFlowNet 100 %"},
    ),
    "solutions": Experiment(
        "All ways to write a number as a sum of two, all equally likely",
        (*_trained("solutions"), _sft("solutions"), *_decoded("solutions")),
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
}
"""By the name that `tributary reproduce` takes."""


def find_experiment(name: str) -> Experiment:
    """ConfigError for an unknown name."""
    if name not in EXPERIMENTS:
        raise ConfigError(f"{name!r} is not an experiment. Choose one of: {', '.join(EXPERIMENTS)}.")
    return EXPERIMENTS[name]
