"""The options of `tributary evaluate` and `tributary sample` that choose strings in another way than training did."""

from typing import TYPE_CHECKING, Annotated

import typer

from buffer.errors import ConfigError

if TYPE_CHECKING:
    from deploy.driver.decoding import Decoding

Temperature = Annotated[
    float,
    typer.Option(
        "--temperature",
        metavar="T",
        min=0.0,
        max=2.0,  # actors.config.MAX_TEMPERATURE
        help="Temperature of the sampling; 0 takes the likeliest token.",
    ),
]
TopP = Annotated[
    float,
    typer.Option(
        "--top-p",
        metavar="P",
        min=0.01,
        max=1.0,
        help="Draw among the likeliest tokens whose probabilities add up to P.",
    ),
]
Greedy = Annotated[bool, typer.Option("--greedy", help="The same as --temperature 0.")]
Beam = Annotated[
    int, typer.Option("--beam", metavar="N", min=0, help="Beam search of this width; it gives at most N strings.")
]
DiverseBeam = Annotated[
    int,
    typer.Option(
        "--diverse-beam", metavar="N", min=0, help="Diverse beam search in N groups of one beam (arXiv 1610.02424)."
    ),
]
BestOf = Annotated[
    int, typer.Option("--best-of", metavar="N", min=1, help="Keep the one of N draws with the highest log R.")
]
Shots = Annotated[
    int,
    typer.Option(
        "--shots",
        metavar="N",
        min=0,
        help="Put N worked examples in front of each prompt: demonstrations, or strings that the task lists.",
    ),
]
MaxTokens = Annotated[
    int,
    typer.Option(
        "--max-tokens", metavar="N", min=0, help="End strings after N tokens. Default: policy.max_actions of the run."
    ),
]


def decoding_of(
    temperature: float,
    top_p: float,
    greedy: bool,
    beam: int,
    diverse_beam: int,
    best_of: int,
    shots: int,
    max_tokens: int,
    option: str,
) -> "Decoding":
    """The options as one value. ConfigError where they contradict, or where `option` needs samples of the policy."""
    from deploy.driver.decoding import Decoding

    if greedy and temperature != 1.0:
        raise ConfigError("--greedy is --temperature 0: give one of them.")
    temperature = 0.0 if greedy else temperature
    decoding = Decoding(temperature, top_p, beam, diverse_beam, best_of, shots, max_tokens)
    if option and not decoding.is_sampling:
        raise ConfigError(f"{option} needs samples of the policy, not another way to decode ({decoding.words()}).")
    return decoding
