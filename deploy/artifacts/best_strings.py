"""best_strings.jsonl: for some prompts, the strings with the highest rewards that a run's buffer held at its end."""

import heapq
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from buffer.types import IntArray, Trajectory, total_log_reward
from deploy.artifacts.json_files import read_lines, write_lines

NAME = "best_strings.jsonl"
KEPT = 200
"""Strings of each prompt."""


def write_best_strings(
    folder: Path,
    trajectories: Iterable[Trajectory],
    prompt_ids: Collection[str],
    weights: Mapping[str, float],
    tokenizer: Tokenizer,
) -> None:
    """Keep the KEPT best strings of each of these prompts: prompt, text, token_ids, log_reward [nats, T = 1]."""
    best: dict[str, list[tuple[float, tuple[int, ...]]]] = {prompt_id: [] for prompt_id in prompt_ids}
    for trajectory in trajectories:
        heap = best.get(trajectory.prompt_id)
        if heap is None:
            continue
        entry = float(total_log_reward(trajectory, weights)[-1]), tuple(trajectory.token_ids.tolist())
        if len(heap) < KEPT:
            heapq.heappush(heap, entry)
        else:
            heapq.heappushpop(heap, entry)
    rows = [
        {
            "prompt": prompt_id,
            "text": tokenizer.decode(token_ids, skip_special_tokens=False),
            "token_ids": token_ids,
            "log_reward": log_reward,
        }
        for prompt_id, heap in best.items()
        for log_reward, token_ids in sorted(heap, reverse=True)
    ]
    write_lines(folder / NAME, rows)


def read_best_strings(folder: Path) -> Iterator[tuple[str, IntArray, float]]:
    """(prompt id, token ids [T], log R [nats]) of each; nothing where the file is missing."""
    for row in read_lines(folder / NAME):
        yield row["prompt"], np.array(row["token_ids"], dtype=np.int32), float(row["log_reward"])
