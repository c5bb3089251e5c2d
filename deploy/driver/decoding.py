"""Ways to choose strings other than drawing from the policy: what `tributary evaluate` and `sample` take as options."""

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from actors.behaviour import Behaviour
from actors.segments import Sampled
from buffer.errors import ConfigError
from buffer.types import AdapterFiles, AdapterVersion, Prompt
from deploy.artifacts.run_folder import RunFolder
from deploy.driver.check_model import ModelFiles, check_model
from deploy.driver.checked_adapter import checked_adapter
from deploy.driver.preflight import Checked
from deploy.driver.samples import Drawn, Samples, draw, score_each, scorer_of
from deploy.driver.worked_examples import behind_examples
from lm.beam_search import Beam, beam_search
from lm.load import device_of
from lm.merge_adapter import load_merged
from rewards.task import Sample


@dataclass(frozen=True, slots=True)
class Decoding:
    """How strings are chosen; as it is here they are samples of the policy."""

    temperature: float = 1.0
    """0 takes the likeliest token."""
    top_p: float = 1.0
    beams: int = 0
    """Width of a beam search; 0: none."""
    diverse_beams: int = 0
    """Groups of one beam each, in a diverse beam search; 0: none."""
    best_of: int = 1
    """Draws of which the one with the highest log R is kept."""
    shots: int = 0
    """Worked examples in front of each prompt."""
    max_tokens: int = 0
    """Actions after which a string ends; 0: as in training."""

    def __post_init__(self) -> None:
        searches = self.beams or self.diverse_beams
        if self.beams and self.diverse_beams:
            raise ConfigError("--beam and --diverse-beam are two searches: give one of them.")
        if searches and (self.temperature != 1.0 or self.top_p != 1.0 or self.best_of > 1):
            raise ConfigError("a beam search draws nothing: it takes none of --temperature, --top-p and --best-of.")
        if self.temperature == 0.0 and (self.top_p != 1.0 or self.best_of > 1):
            raise ConfigError("at temperature 0 all draws are alike: give neither --top-p nor --best-of.")

    @property
    def is_sampling(self) -> bool:
        """True where the strings are samples of the policy."""
        return self == Decoding()

    def words(self) -> str:
        """Such as "temperature 0.5, top-p 0.9"."""
        searches = {"beam search, width": self.beams, "diverse beam search, groups": self.diverse_beams}
        drawn = f"temperature {self.temperature:g}, top-p {self.top_p:g}"
        chosen = next((f"{name} {number}" for name, number in searches.items() if number), drawn)
        extras = {
            "best of": self.best_of if self.best_of > 1 else 0,
            "worked examples": self.shots,
            "at most tokens": self.max_tokens,
        }
        return ", ".join([chosen, *(f"{name} {number}" for name, number in extras.items() if number)])


def decode(
    checked: Checked,
    folder: RunFolder,
    prompts: Sequence[Prompt],
    n: int,
    decoding: Decoding,
    base_too: bool,
    seed: int,
    say: Callable[[str], None],
) -> list[Drawn]:
    """`n` strings of each prompt, from the base model (if `base_too`), then from the run's adapter; a beam search gives
    its likeliest `n`, at most as many as it is wide. `say` tells how far it is."""
    shown = behind_examples(checked, prompts, decoding.shots, seed)
    more = max(len(new.token_ids) - len(old.token_ids) for new, old in zip(shown, prompts, strict=True))
    checked = _longer(checked, decoding, more)
    if decoding.beams or decoding.diverse_beams:
        checked_adapter(folder)
        adapters = [None, folder.adapter_path] if base_too else [folder.adapter_path]
        return [_search(checked, shown, n, decoding, adapter, say) for adapter in adapters]
    behaviour = Behaviour("decoding", decoding.temperature, suppress_stop=False, top_p=decoding.top_p)
    adapter: tuple[AdapterVersion, AdapterFiles] = folder.version(), checked_adapter(folder)
    return draw(checked, shown, adapter, n * decoding.best_of, base_too, seed, say, behaviour)


def score_decoded(
    checked: Checked, prompts: Sequence[Prompt], drawn: Sequence[Drawn], decoding: Decoding, seed: int
) -> list[Samples]:
    """The strings of `decode` with log R, of each `best_of` the best one; those that can't be scored are omitted."""
    checked, rng = _longer(checked, decoding), np.random.default_rng(seed)
    scorer = scorer_of(checked)

    def best(prompt: Prompt, of_prompt: Sequence[Sampled]) -> list[Sample]:
        # An engine finishes short strings first: without the shuffle they would compete among themselves.
        shuffled = [of_prompt[k] for k in rng.permutation(len(of_prompt))]
        scored, size = score_each(checked, scorer, [prompt] * len(shuffled), shuffled), decoding.best_of
        groups = [[s for s in scored[k : k + size] if s is not None] for k in range(0, len(scored), size)]
        return [max(group, key=lambda s: s.log_reward) for group in groups if group]

    return [{prompt.id: best(prompt, of_model[prompt.id]) for prompt in prompts} for of_model in drawn]


def _longer(checked: Checked, decoding: Decoding, more: int = 0) -> Checked:
    """With strings of at most `max_tokens` actions, and room for them and for `more` tokens of a prompt. ConfigError
    where the strings are too short, or too long for the model."""
    spec, actors, tool = checked.spec, checked.config.actors, checked.task.tool
    if 0 < decoding.max_tokens < spec.min_actions:
        raise ConfigError(
            f"--max-tokens {decoding.max_tokens} is below the run's policy.min_actions = {spec.min_actions}."
        )
    actions = decoding.max_tokens or spec.max_actions
    more += max(actions - spec.max_actions, 0) * (1 + (tool.max_tokens if tool else 0))
    config = checked.config.model_copy(
        update={"actors": actors.model_copy(update={"max_model_len": actors.max_model_len + more})}
    )
    if more:
        try:
            check_model(config, ModelFiles.read(Path(spec.base_model)))
        except ConfigError as error:
            raise ConfigError(f"--shots {decoding.shots} or --max-tokens {decoding.max_tokens}: {error}") from error
    return replace(checked, config=config, spec=replace(spec, max_actions=actions))


def _search(
    checked: Checked,
    prompts: Sequence[Prompt],
    n: int,
    decoding: Decoding,
    adapter: Path | None,
    say: Callable[[str], None],
) -> Drawn:
    """The strings that a beam search finds for each prompt, under the adapter or the base model (None)."""
    if checked.task.tool is not None:
        raise ConfigError("a beam search can't use the task's tool: its text would cut into the beams. Draw samples.")
    if checked.spec.quantization != "none":
        raise ConfigError("a beam search needs whole base weights, and the run has model.quantization. Draw samples.")
    torch.set_num_threads(checked.config.evaluation.cores)
    learner = checked.config.learner
    model = load_merged(checked.spec, adapter).eval().to(device_of(learner.device, learner.gpus))
    width, groups = decoding.beams or decoding.diverse_beams, max(decoding.diverse_beams, 1)
    strings: dict[str, list[Sampled]] = {}
    for number, prompt in enumerate(prompts, start=1):
        beams = beam_search(model, checked.spec, prompt.token_ids, width, groups)
        strings[prompt.id] = [_sampled(beam) for beam in beams[:n]]
        say(f"{number:,} of {len(prompts):,} prompts searched")
    del model
    gc.collect()  # the next search loads another
    return strings


def _sampled(beam: Beam) -> Sampled:
    """A string of a search, in the form of an engine's; of log q(stop) the last entry alone is computed."""
    n = len(beam.token_ids)
    return Sampled(
        "beam",
        np.array(beam.token_ids, dtype=np.int32),
        np.array(beam.log_pf, dtype=np.float32),
        np.array([*[np.nan] * n, beam.log_stop], dtype=np.float32),
        np.ones(n, dtype=np.bool_),
        None,
    )
