"""The system on one page: build the four rooms, connect them, watch them, take them down.

    RolloutActor ──trajectories──> RewardWorker ──scored──> ReplayBuffer (Redis) ──batches──> Learner
         ^                                                                                       |
         └───────────────────────── AdapterBoard <──── adapter v+1 ──────────────────────────────┘

loop           consumes             produces               waits for                unblocked by
RolloutActor   prompts, adapters    trajectories           first adapter, room      Learner, RewardWorker
RewardWorker   trajectories         scored trajectories    nothing                  RolloutActor
Learner        batches              adapters, priorities   data                     RewardWorker
"""

import logging
import os
from collections.abc import Callable, Sequence
from typing import Any

import ray

from buffer.errors import ConfigError, TributaryError, WaitTimeout
from buffer.types import AdapterFiles, AdapterVersion, Prompt, Trajectory
from buffer.waiting import NamedWait
from deploy.board import AdapterBoard, BoardClient
from deploy.config import RunConfig
from deploy.processes import ActorProcess, Address, LearnerProcess, RewardProcess
from deploy.reward_watch import RewardWatch
from rewards.task import Sample

START_LIMIT_S = 600.0
STOP_LIMIT_S = 30.0
CLOSE_LIMIT_S = 2.0
ANSWER_LIMIT_S = 120.0
_LOGS = "What its process said last is in the logs folder of the Ray session (by default /tmp/ray/session_latest/logs)."


class System:
    """Handles of all processes of a run. Everything dies with the driver: no detached actors."""

    def __init__(self, config: RunConfig, address: Address) -> None:
        """Start all processes; they load side by side. See `wait_until_ready`."""
        self._config = config
        self._board = ray.remote(AdapterBoard).options(num_cpus=0, name=address.board).remote()
        self.board = BoardClient(self._board)
        reward_names = [f"reward-{number}" for number in range(config.rewards.workers)]
        retries = {"max_restarts": config.rewards.max_restarts, "max_task_retries": config.rewards.max_restarts}
        self.rewards = [
            _remote(RewardProcess, config.rewards, name=name, **retries).remote(number, address)
            for number, name in enumerate(reward_names)
        ]
        actor_options = {"max_concurrency": 4, "max_restarts": config.actors.max_restarts}
        self.actors = [
            _remote(ActorProcess, config.actors, **actor_options).remote(number, address, reward_names)
            for number in range(config.actors.count)
        ]
        self.learners = [
            _remote(LearnerProcess, config.learner, max_concurrency=4).remote(address, rank)
            for rank in range(config.learner.ranks)
        ]
        self._reward_watch = RewardWatch(self.rewards, config.rewards.time_limit_s)
        self._actor_runs: dict[Any, int] = {}
        self._learner_runs: list[Any] = []

    def wait_until_ready(self, on_wait: Callable[[str], bool]) -> bool:
        """True once every process has loaded its model.

        `on_wait` gets the named wait about once a second; where it answers False, waiting ends with False.
        """
        names = {a.ready.remote(): "actors" for a in self.actors} | {
            r.ready.remote(): "reward workers" for r in self.rewards
        }
        meeting_point = self.learners[0].meeting_point.remote()
        names |= {learner.ready.remote(meeting_point): "learner" for learner in self.learners}
        pending = list(names)
        wait = NamedWait(
            "the run waits for its processes to load",
            START_LIMIT_S,
            lambda: (
                f"{len(names) - len(pending)} of {len(names)} ready, missing: "
                + ", ".join(sorted({names[p] for p in pending}))
                + _unplaced(self._config)
            ),
        )
        while pending:
            done, pending = ray.wait(pending, num_returns=len(pending), timeout=1.0)
            for call in done:
                _get(call, names[call])
            if not on_wait(wait.sentence() if pending else ""):
                return False
            wait.check()
        return True

    def score(self, trajectories: Sequence[Trajectory]) -> Callable[[], bool]:
        """Start to have given strings scored and added to the buffer, in pieces of actors.push_size.

        Call the result until it is True; it raises what a reward worker raised.
        """
        size = self._config.actors.push_size
        pieces = [trajectories[begin : begin + size] for begin in range(0, len(trajectories), size)]
        calls = [self.rewards[k % len(self.rewards)].score.remote(piece) for k, piece in enumerate(pieces)]

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
        share = [n // len(self.actors) + (k < n % len(self.actors)) for k in range(len(self.actors))]
        threads = self._config.evaluation.threads
        drawing = [
            actor.sample.remote(prompts, k, use_base_model, threads)
            for actor, k in zip(self.actors, share, strict=True)
            if k
        ]
        scoring = [  # handed on by the store, without a stay here
            self.rewards[k % len(self.rewards)].rate.remote(prompts, drawn) for k, drawn in enumerate(drawing)
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
        if sampling:
            self._actor_runs = {actor.run.remote(): k for k, actor in enumerate(self.actors)}
        self._learner_runs = [learner.run.remote() for learner in self.learners]

    def poll(self, timeout_s: float) -> bool:
        """Wait up to `timeout_s` for something to end; True once all learners have. Raises what a loop raised.

        An actor whose process died is started again by Ray (actors.max_restarts times); its loop is started again here.
        """
        done, _ = ray.wait([*self._learner_runs, *self._actor_runs], timeout=timeout_s)
        for run in done:
            if run in self._learner_runs:
                _get(run, "learner")
                self._learner_runs.remove(run)
                continue
            number = self._actor_runs.pop(run)
            try:
                ray.get(run)
            except ray.exceptions.RayTaskError:
                raise  # the loop itself ended with an error: of its own, or one that a reward worker passed on
            except ray.exceptions.ActorUnavailableError:
                pass
            except ray.exceptions.ActorDiedError as error:
                raise TributaryError(
                    f"actor-{number} died more than actors.max_restarts = {self._config.actors.max_restarts} times. "
                    + _LOGS
                ) from error
            self._actor_runs[self.actors[number].run.remote()] = number
        return not self._learner_runs

    def report(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[str]]:
        """(new rows of rank 0, statuses of the actors that answer within 2 s, all named waits and troubles)."""
        rows, learner_wait = _get(self.learners[0].report.remote(), "learner")
        calls = [actor.status.remote() for actor in self.actors]
        answered, _ = ray.wait(calls, num_returns=len(calls), timeout=2.0)
        statuses = [status for call in answered if (status := _or_none(call))]
        waits = [learner_wait, *(s["waiting_for"] for s in statuses), *self._reward_watch.troubles()]
        return rows, statuses, [wait for wait in waits if wait]

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
        if not self._actor_runs:
            return
        for actor in self.actors:
            actor.stop.remote()
        done, pending = ray.wait(list(self._actor_runs), num_returns=len(self._actor_runs), timeout=STOP_LIMIT_S)
        ray.get(done)
        if pending:
            raise TributaryError(
                f"{len(pending)} of {len(self.actors)} actors did not stop within {STOP_LIMIT_S:.0f} s. {_LOGS}"
            )

    def newest_adapter(self) -> tuple[AdapterVersion, AdapterFiles]:
        """What hangs on the board."""
        _, newest = self.board.latest(-1)
        if newest is None:
            raise TributaryError(
                "no adapter was published: the learner ended before its first one. Its error is above."
            )
        return newest

    def kill(self) -> None:
        """End every process now; actors that answer at once remove their files first."""
        closing = [actor.close.remote() for actor in self.actors]
        ray.wait(closing, num_returns=len(closing), timeout=CLOSE_LIMIT_S)
        for process in (*self.actors, *self.rewards, *self.learners, self._board):
            ray.kill(process)


def start_ray() -> None:
    """Join the cluster of RAY_ADDRESS (set under `ray job submit`), else start Ray here, for this run only."""
    logging.getLogger("ray").setLevel(logging.ERROR)  # Ray says at every start that its token authentication is on
    address = os.environ.get("RAY_ADDRESS")
    local = {} if address else {"address": "local", "include_dashboard": False}
    try:
        ray.init(log_to_driver=False, logging_level="error", **local)
    except Exception as error:  # Ray has no class of its own for what can go wrong here
        where = (
            f"the cluster at RAY_ADDRESS = {address} can't be joined"
            if address
            else "Ray did not start on this machine"
        )
        raise TributaryError(
            f"{where}: {error}. On a loaded machine try again; else see the newest folder under /tmp/ray, "
            "and `tributary doctor`."
        ) from error


def check_placement(config: RunConfig) -> None:
    """Raise ConfigError where the cluster has not what the recipe reserves: Ray would wait for ever, silently."""
    have = ray.cluster_resources()
    for kind, resource in (("cpus", "CPU"), ("gpus", "GPU")):
        need = (
            config.actors.count * getattr(config.actors, kind)
            + config.rewards.workers * getattr(config.rewards, kind)
            + config.learner.ranks * getattr(config.learner, kind)
        )
        if need > have.get(resource, 0.0):
            raise ConfigError(
                f"the recipe reserves {need:g} {resource}s and the cluster has {have.get(resource, 0.0):g}. "
                f"Lower actors.count, or the {kind} of actors, rewards and learner, or add machines."
            )


def _remote(process: type, config: Any, **options: Any) -> Any:
    return ray.remote(process).options(num_cpus=config.cpus, num_gpus=config.gpus, **options)


def _get(call: Any, role: str) -> Any:
    """The result of a call; a process that died, or is silent for ANSWER_LIMIT_S, is named."""
    try:
        return ray.get(call, timeout=ANSWER_LIMIT_S)
    except ray.exceptions.RayTaskError:
        raise
    except ray.exceptions.GetTimeoutError as error:
        raise WaitTimeout(f"the {role} did not answer for {ANSWER_LIMIT_S:.0f} s. {_LOGS}") from error
    except ray.exceptions.RayActorError as error:
        raise TributaryError(
            f"the process of the {role} died; where memory is short, the system kills the largest (`dmesg`). {_LOGS}"
        ) from error


def _or_none(call: Any) -> Any:
    try:
        return ray.get(call)
    except ray.exceptions.RayActorError:
        return None  # it is being started again


def _unplaced(config: RunConfig) -> str:
    free = ray.available_resources()
    return f"; free now: {free.get('CPU', 0):g} CPUs, {free.get('GPU', 0):g} GPUs"
