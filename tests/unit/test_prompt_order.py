"""Actors that share one counter of turns cover the prompts together, pass by pass."""

from collections import Counter
from collections.abc import Iterator
from itertools import islice

import numpy as np
import pytest

from actors.prompt_order import prompt_order
from buffer.types import Prompt
from deploy.cluster.actor_process import life_seed

PROMPTS = [Prompt(str(k), f"prompt {k}", np.array([k], np.int32)) for k in range(1000)]


class Turns:
    """The counter of buffer/actor_counters.py, in memory."""

    def __init__(self) -> None:
        self.next = 0

    def __call__(self, n: int) -> int:
        self.next += n
        return self.next - n


def start_actor(turns: Turns, samples_per_prompt: int = 8, seed: int = 0) -> Iterator[Prompt]:
    return prompt_order(PROMPTS, seed, samples_per_prompt, turns)


def visited(order: Iterator[Prompt], n: int) -> Counter[str]:
    """Prompt id -> trajectories among the next n."""
    return Counter(prompt.id for prompt in islice(order, n))


@pytest.mark.parametrize("n_actors", [1, 4, 16])
def test_any_number_of_actors_visits_each_prompt_once_per_pass(n_actors: int) -> None:
    turns, counts = Turns(), Counter[str]()
    actors = [start_actor(turns) for _ in range(n_actors)]
    for _ in range(8000 // (n_actors * 20)):
        for actor in actors:
            counts += visited(actor, 20)
    assert len(counts) >= 980
    assert max(counts.values()) <= 16, "a prompt of the second pass at most"


def test_actors_that_restart_go_on_where_the_run_is() -> None:
    turns, counts = Turns(), Counter[str]()
    for _ in range(10):  # lives of an actor, each of 800 trajectories; a claim holds two turns
        counts += visited(start_actor(turns), 800)
    assert len(counts) >= 980


def test_a_fast_actor_takes_more_prompts_and_an_added_actor_takes_its_share() -> None:
    turns = Turns()
    slow, fast = start_actor(turns), start_actor(turns)
    counts = visited(slow, 1000) + visited(fast, 3000)
    added = start_actor(turns)
    counts += visited(slow, 1000) + visited(added, 2000)
    assert len(counts) == 875 and set(counts.values()) == {8}


def test_each_pass_has_an_order_of_its_own_that_follows_from_the_seed() -> None:
    def ids(seed: int) -> list[str]:
        return [prompt.id for prompt in islice(start_actor(Turns(), samples_per_prompt=1, seed=seed), 2000)]

    first, second = ids(0)[:1000], ids(0)[1000:]
    in_file_order = [prompt.id for prompt in PROMPTS]
    assert sorted(first) == sorted(second) == sorted(in_file_order)
    assert len({tuple(order) for order in (in_file_order, first, second, ids(1)[:1000])}) == 4
    assert ids(0) == ids(0)


def test_a_prompt_comes_samples_per_prompt_times_in_a_row() -> None:
    order = [prompt.id for prompt in islice(start_actor(Turns(), samples_per_prompt=3), 300)]
    assert all(len(set(order[k : k + 3])) == 1 for k in range(0, 300, 3)) and len(set(order)) == 100


def test_a_claim_reserves_turns_for_about_sixteen_trajectories() -> None:
    for samples_per_prompt, expected in ((1, 16), (8, 2), (16, 1), (100, 1)):
        turns = Turns()
        next(start_actor(turns, samples_per_prompt))
        assert turns.next == expected


def test_seeds_differ_between_actors_lives_and_runs() -> None:
    seeds = [life_seed(*key) for key in np.ndindex(4, 64, 8)]
    assert len(set(seeds)) == len(seeds) and min(seeds) >= 0 and max(seeds) < 2**31
