"""A reward worker in its own process, for tests in which a user's function ends the process.

usage: python -m tests.support.reward_process URL NAME HOW

Scores the strings 1, 2 and 3; at 2 it does HOW, which ends the process if it is one of WAYS. Prints the number of added strings and the reason
of each rejection.
"""

import ctypes
import os
import sys
from collections.abc import Sequence

import numpy as np

from buffer.config import BufferConfig
from buffer.poison_strings import PoisonStrings
from buffer.replay import ReplayBuffer
from buffer.server.connect import connect
from buffer.types import IntArray, Prompt, given_trajectory
from rewards import time_limit
from rewards.config import RewardConfig
from rewards.task import BaseLogProbs, Task, Terms
from rewards.worker import RewardWorker

PROMPT = Prompt("p", "x", np.array([1], np.int32))
time_limit.GRACE_S = 0.5
WAYS = {
    "exits": lambda: os._exit(0),
    "crashes": lambda: ctypes.string_at(0),
    "loops in C": lambda: sum(range(10**15)),
    "is killed": lambda: os.kill(os.getpid(), 9),
}


class Deadly(Task):
    """Ends the process at the string 2."""

    needs_base_model = False

    def __init__(self, how: str) -> None:
        self._how = how

    def prompts(self, split: str = "train") -> Sequence[Prompt]:
        return [PROMPT]

    def log_reward(self, prompt: Prompt, token_ids: IntArray, base_scores: Sequence[BaseLogProbs]) -> Terms:
        if token_ids.tolist() == [2]:
            WAYS.get(self._how, lambda: None)()
        return {"r": np.zeros(len(token_ids) + 1)}


def main() -> None:
    url, name, how = sys.argv[1:]
    client = connect(url)
    buffer = ReplayBuffer(client, BufferConfig(), name)
    worker = RewardWorker(
        "reward-0",
        "deadly",
        Deadly(how),
        None,
        buffer,
        PoisonStrings(client, name, "reward-0"),
        RewardConfig(time_limit_s=0.5),
    )
    added = worker.score([given_trajectory(PROMPT, np.array([k], np.int32), "test") for k in (1, 2, 3)])
    sys.stdout.write(", ".join([f"added {added.added}", *(entry.reason for entry in buffer.quarantined())]) + "\n")


if __name__ == "__main__":
    main()
