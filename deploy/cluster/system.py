"""The system on one page: build the four rooms, connect them, watch them, take them down.

    RolloutActor ──trajectories──> RewardWorker ──scored──> ReplayBuffer (Redis) ──batches──> Learner
         ^                                                                                       |
         └───────────────────────── AdapterStore    <──── adapter v+1 ──────────────────────────────┘

loop           consumes             produces               waits for                unblocked by
RolloutActor   prompts, adapters    trajectories           first adapter, room      Learner, RewardWorker
RewardWorker   trajectories         scored trajectories    nothing                  RolloutActor
Learner        batches              adapters, priorities   data                     RewardWorker
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from buffer.errors import TributaryError
from buffer.named_wait import NamedWait
from buffer.types import AdapterFiles, AdapterVersion, Prompt, Trajectory
from deploy.cluster.adapter_store import AdapterStore, AdapterStoreClient
from deploy.cluster.placement import free_now, remote
from deploy.cluster.ray_actors import ActorProcess, Address, LearnerProcess, RewardProcess
from deploy.cluster.ray_calls import LOGS, answer, answer_or_none
from deploy.cluster.reward_monitor import RewardWatch
from deploy.cluster.worker_group import WorkerGroup
from deploy.config import RunConfig
from rewards.task import Sample

START_LIMIT_S = 600.0
STOP_LIMIT_S = 30.0
CLOSE_LIMIT_S = 2.0
AGAIN_S = 1.0
"""Between two attempts to start the loop of an actor whose process is not back yet, s."""


class System:
    """Handles of all processes of a run. Everything dies with the driver: no detached actors."""

    def __init__(self, config: RunConfig, address: Address) -> None:
        """Start all processes; they load side by side. See `wait_until_ready`."""
        self._config = config
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        board = ray.remote(AdapterStore).options(
            num_cpus=0, name=address.board, max_concurrency=1000, scheduling_strategy=here
        )
        self._board = board.remote()  # beside the driver, so that no other node's end takes it along
        self.board = AdapterStoreClient(self._board)
        self.rewards = WorkerGroup("reward", lambda number: self._new_reward(number, address), config.rewards.workers)
        self.actors = WorkerGroup("actor", lambda number: self._new_actor(number, address), config.actors.count)
        self.learners = [
            remote(LearnerProcess, config.learner, max_concurrency=4).remote(address, rank)
            for rank in range(config.learner.ranks)
        ]
        self._reward_watch = RewardWatch(config.rewards.time_limit_s)
        self._actor_runs: dict[Any, int] = {}
        self._again: dict[int, float] = {}
        self._learner_runs: list[Any] = []
        self._sampling = False
        self._troubles: list[str] = []
        self._events: list[dict[str, Any]] = []

    def _new_reward(self, number: int, address: Address) -> Any:
        again = self._config.rewards.advanced.max_restarts
        options = {"name": f"reward-{number}", "max_restarts": again, "max_task_retries": again}
        return remote(RewardProcess, self._config.rewards, **options).remote(number, address)

    def _new_actor(self, number: int, address: Address) -> Any:
        actors = self._config.actors
        options: dict[str, Any] = {"max_concurrency": 4, "max_restarts": actors.advanced.max_restarts}
        if actors.tensor_parallel > 1:
            options["num_gpus"] = actors.tensor_parallel * actors.gpus
        return remote(ActorProcess, actors, **options).remote(number, address)

    def wait_until_ready(self, on_wait: Callable[[str], bool]) -> bool:
        """True once every process has loaded its model.

        `on_wait` gets the named wait about once a second; where it answers False, waiting ends with False.
        """
        names = dict.fromkeys(self.actors.calls, "actors") | dict.fromkeys(self.rewards.calls, "reward workers")
        meeting_point = self.learners[0].meeting_point.remote()
        names |= {learner.ready.remote(meeting_point): "learner" for learner in self.learners}
        pending = list(names)
        wait = NamedWait(
            "the run waits for its processes to load",
            START_LIMIT_S,
            lambda: (
                f"{len(names) - len(pending)} of {len(names)} ready, missing: "
                + ", ".join(sorted({names[p] for p in pending}))
                + f"; {free_now()}"
            ),
        )
        while pending:
            done, pending = ray.wait(pending, num_returns=len(pending), timeout=1.0)
            for call in done:
                answer(call, names[call])
            if not on_wait(wait.sentence() if pending else ""):
                return False
            wait.check()
        self.tend()
        return True

    def tend(self) -> None:
        """Let those that have become ready work, end those that have left."""
        for crew in (self.rewards, self.actors):
            joined, troubles = crew.tend()
            for number in joined:
                self._note("joined", f"{crew.role}-{number} is ready")
            for trouble in troubles:
                self._troubles = [*self._troubles[-9:], trouble]
                self._note("trouble", trouble)
            if joined and crew is self.rewards:
                self.board.set_reward_workers(crew.names())
            if joined and crew is self.actors and self._sampling:
                for number in joined:
                    self._actor_runs[crew.members[number].run.remote()] = number

    def resize(self, wanted: Mapping[str, int]) -> None:
        """Have so many processes of a role, `actors` or `rewards`, from now on."""
        for name, crew in (("rewards", self.rewards), ("actors", self.actors)):
            count = wanted.get(name, crew.wanted)
            if count == crew.wanted:
                continue
            self._note("scaled", f"{name}: {count} are to be there, {len(crew.members)} are")
            gone = crew.resize(count)
            if gone and crew is self.rewards:
                self.board.set_reward_workers(crew.names())

    @property
    def wanted(self) -> dict[str, int]:
        """Role -> processes that are to be there."""
        return {"actor": self.actors.wanted, "reward": self.rewards.wanted, "learner": len(self.learners)}

    @property
    def ready(self) -> dict[str, int]:
        """Role -> processes that can work, as far as is known."""
        return {
            "actor": len(self.actors.members) - len(self._again),
            "reward": len(self.rewards.members),
            "learner": len(self.learners),
        }

    def events(self) -> list[dict[str, Any]]:
        """What happened since the last call: at [Unix time, s], kind, text."""
        events, self._events = self._events, []
        return events

    def score(self, trajectories: Sequence[Trajectory]) -> Callable[[], bool]:
        """Start to have given strings scored and added to the buffer, in pieces of actors.push_size.

        Call the result until it is True; it raises what a reward worker raised.
        """
        size = self._config.actors.push_size
        pieces = [trajectories[begin : begin + size] for begin in range(0, len(trajectories), size)]
        workers = list(self.rewards.members.values())
        calls = [workers[k % len(workers)].score.remote(piece) for k, piece in enumerate(pieces)]

        def done() -> bool:
            if calls:
                finished, calls[:] = ray.wait(calls, num_returns=len(calls), timeout=0.5)
                ray.get(finished)
            return not calls

        return done

    def sample(
        self, prompts: Sequence[Prompt], n: int, use_base_model: bool
    ) -> Callable[[], dict[str, list[Sample]] | None]:
        """Start to draw n on-policy responses of each prompt, shared out among the actors, and to have them scored.

        Call the result until it is not None.
        """
        actors = [actor for number, actor in self.actors.members.items() if number not in self._again]
        workers = list(self.rewards.members.values())
        share = [n // len(actors) + (k < n % len(actors)) for k in range(len(actors))]
        threads = self._config.evaluation.threads
        drawing = [
            actor.sample.remote(prompts, k, use_base_model, threads)
            for actor, k in zip(actors, share, strict=True)
            if k
        ]
        scoring = [  # handed on by the store, without a stay here
            workers[k % len(workers)].score_samples.remote(prompts, drawn) for k, drawn in enumerate(drawing)
        ]

        def result() -> dict[str, list[Sample]] | None:
            _, pending = ray.wait(scoring, num_returns=len(scoring), timeout=0.5)
            if pending:
                return None
            samples: dict[str, list[Sample]] = {prompt.id: [] for prompt in prompts}
            for rated in ray.get(scoring):
                for prompt_id, some in rated.items():
                    samples[prompt_id] += some
            return samples

        return result

    def start(self, sampling: bool = True) -> None:
        """Let the loops run; without `sampling` the actors wait until they are asked for samples."""
        self._sampling = sampling
        if sampling:
            self._actor_runs = {actor.run.remote(): number for number, actor in self.actors.members.items()}
        self._learner_runs = [learner.run.remote() for learner in self.learners]

    def poll(self, timeout_s: float) -> bool:
        """Wait up to `timeout_s` for something to end; True once all learners have. Raises what a loop raised.

        An actor whose process died is started again by Ray (actors.advanced.max_restarts times), on another node if its
        own is gone; its loop is started again here.
        """
        done, _ = ray.wait([*self._learner_runs, *self._actor_runs], timeout=timeout_s)
        for run in done:
            if run in self._learner_runs:
                answer(run, "learner")
                self._learner_runs.remove(run)
            else:
                self._actor_ended(run, self._actor_runs.pop(run))
        now = time.monotonic()
        for number in [number for number, due in self._again.items() if due <= now]:
            del self._again[number]
            if number in self.actors.members:
                self._actor_runs[self.actors.members[number].run.remote()] = number
        self.tend()
        return not self._learner_runs

    def _actor_ended(self, run: Any, number: int) -> None:
        """Its loop came back: it leaves, or its process died, or its error ends the run."""
        if number not in self.actors.members:
            return
        try:
            ray.get(run)
        except ray.exceptions.RayTaskError:
            raise  # the loop itself ended with an error: of its own, or one that a reward worker passed on
        except ray.exceptions.ActorUnavailableError:
            if number not in self._again:
                self._note("restart", f"actor-{number} died and is started again")
        except ray.exceptions.ActorDiedError as error:
            raise TributaryError(
                f"actor-{number} died more than actors.advanced.max_restarts = "
                f"{self._config.actors.advanced.max_restarts} times. " + LOGS
            ) from error
        self._again[number] = time.monotonic() + AGAIN_S

    def report(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[str]]:
        """(new rows of rank 0, statuses of the actors that answer within 2 s, all named waits and troubles)."""
        rows, learner_wait = answer(self.learners[0].report.remote(), "learner")
        calls = [actor.status.remote() for number, actor in self.actors.members.items() if number not in self._again]
        answered, _ = ray.wait(calls, num_returns=len(calls), timeout=2.0)
        statuses = [status for call in answered if (status := answer_or_none(call))]
        waits = [learner_wait, *(s["waiting_for"] for s in statuses), *self._missing(), *self._troubles]
        waits += self._reward_watch.troubles(self.rewards.members)
        return rows, statuses, [wait for wait in waits if wait]

    def _missing(self) -> list[str]:
        """One sentence for each role of which some are not there."""
        sentences = []
        for role, there in self.ready.items():
            if there < self.wanted[role]:
                sentences.append(f"{there} of {self.wanted[role]} {role}s are there, the others start; {free_now()}")
        return sentences

    def _note(self, kind: str, text: str) -> None:
        self._events.append({"at": time.time(), "kind": kind, "text": text})

    @property
    def reward_statuses(self) -> list[dict[str, Any]]:
        """What the reward workers said last of themselves, as in `RewardWorker.status`."""
        return self._reward_watch.statuses

    def stop_learner(self) -> None:
        """Ask the learner to end after the step under way; `poll` then returns True."""
        for learner in self.learners:
            learner.stop.remote()

    def stop_actors(self) -> None:
        """End the actors' loops and wait for it, so that they can draw the final samples."""
        self._sampling = False
        if not self._actor_runs:
            return
        for actor in self.actors.members.values():
            actor.stop.remote()
        done, pending = ray.wait(list(self._actor_runs), num_returns=len(self._actor_runs), timeout=STOP_LIMIT_S)
        for run in done:
            answer_or_none(run)  # a process that dies now was not needed any more
        if pending:
            raise TributaryError(
                f"{len(pending)} of {len(self.actors.members)} actors did not stop within {STOP_LIMIT_S:.0f} s. {LOGS}"
            )

    def newest_adapter(self) -> tuple[AdapterVersion, AdapterFiles]:
        """What hangs on the board."""
        self.board.sync()
        _, newest = self.board.latest(-1)
        if newest is None:
            raise TributaryError(
                "no adapter was published: the learner ended before its first one. Its error is above."
            )
        return newest

    def kill(self) -> None:
        """End every process now; actors that answer at once remove their files first."""
        closing = [actor.close.remote() for actor in self.actors.members.values()]
        ray.wait(closing, num_returns=len(closing), timeout=CLOSE_LIMIT_S)
        for process in (*self.actors.all_handles(), *self.rewards.all_handles(), *self.learners, self._board):
            ray.kill(process)
