"""The system on one page: starts the processes of all roles, connects them, polls them, kills them.

    RolloutActor ──trajectories──> RewardWorker ──scored──> ReplayBuffer (Redis) ──batches──> Learner
         ^                                                                                       |
         └─────────────────────────── AdapterStore  <──── adapter v+1 ───────────────────────────┘

loop           consumes             produces               waits for                unblocked by
RolloutActor   prompts, adapters    trajectories           first adapter, a slot    Learner, RewardWorker
RewardWorker   trajectories         scored trajectories    nothing                  RolloutActor
Learner        batches              adapters, priorities   data                     RewardWorker
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from buffer.errors import TributaryError
from buffer.named_wait import NamedWait
from buffer.types import AdapterFiles, AdapterVersion, FloatArray, Prompt, Trajectory
from deploy.cluster.actor_loops import ActorLoops
from deploy.cluster.actor_monitor import ActorMonitor
from deploy.cluster.actor_process import ActorProcess
from deploy.cluster.adapter_store import AdapterStore, AdapterStoreClient
from deploy.cluster.fan_out import PendingSamples, PendingScores, draw_samples, score_trajectories
from deploy.cluster.learner_process import LearnerProcess
from deploy.cluster.learners import Learners
from deploy.cluster.placement import free_now, remote
from deploy.cluster.process_events import ProcessEvent, ProcessEvents
from deploy.cluster.process_setup import Address
from deploy.cluster.ray_calls import Call, Handle, result_of, result_of_start
from deploy.cluster.reward_monitor import RewardMonitor
from deploy.cluster.reward_process import RewardProcess
from deploy.cluster.worker_group import WorkerGroup
from deploy.config import RunConfig

if TYPE_CHECKING:
    from actors.segments import Sampled

CLOSE_LIMIT_S = 2.0
RESUME_LIMIT_S = 2.0
ROLE_NOUNS = {"actor": "actors", "reward": "reward workers", "learner": "learners"}


@dataclass(frozen=True, slots=True)
class SystemReport:
    """The state of all processes at one moment."""

    rows: Sequence[dict[str, Any]]
    """New rows of the learner, as in `Learner.drain`."""
    actors: Sequence[dict[str, Any]]
    """Newest statuses of the actors, as in `RolloutActor.status`."""
    rewards: Sequence[dict[str, Any]]
    """Newest statuses of the reward workers, as in `RewardWorker.status`."""
    waits: Sequence[str]
    """All named waits and troubles, as sentences."""
    actor_names: Sequence[str]
    """The actors of the run, whether they answer or not: without those that were removed or given up."""


class System:
    """Handles of all processes of a run. All of them die with the driver: there are no detached actors."""

    def __init__(self, config: RunConfig, address: Address) -> None:
        """Start all processes; they load in parallel. See `wait_until_ready`."""
        self._config = config
        self._store = _start_store(address.adapter_store)
        self._store_client = AdapterStoreClient(self._store)
        self._events = ProcessEvents()
        self._rewards = WorkerGroup("reward", lambda k: _start_reward(config, k, address), config.rewards.workers)
        self._actors = WorkerGroup("actor", lambda k: _start_actor(config, k, address), config.actors.count)
        self._learners = Learners(
            lambda rank: remote(LearnerProcess, config.learner, max_concurrency=4).remote(address, rank),
            config.learner.ranks,
            config.learner.advanced.max_restarts,
            self._events,
        )
        self._loops = ActorLoops(self._actors, self._events, self._store_client.last_words)
        self._reward_monitor = RewardMonitor(
            config.rewards.time_limit_s, config.rewards.advanced.silent_limit_s, self._store_client, self._events
        )
        self._actor_monitor = ActorMonitor(config.actors.advanced.silent_limit_s, self._events)
        self._sampling = False

    def wait_until_ready(self, on_wait: Callable[[str], None], on_ready: Callable[[str, float], None]) -> None:
        """Wait until every process has loaded its model. Calls `on_wait` with the named wait about once a second, and
        `on_ready` with the role of each process and the seconds that it took."""
        names: dict[Call, str] = {self._store.newest.remote(): "adapter store"}  # first: the others need it
        names |= dict.fromkeys(self._actors.calls, "actors") | dict.fromkeys(self._rewards.calls, "reward workers")
        names |= dict.fromkeys(self._learners.load(), "learner")
        pending, began = list(names), time.monotonic()
        wait = NamedWait(
            "the run waits up to actors.advanced.start_limit_s for its processes to load",
            self._config.actors.advanced.start_limit_s,
            lambda: (
                f"{len(names) - len(pending)}/{len(names)} ready, loading: "
                f"{', '.join(sorted({names[call] for call in pending}))}; {free_now()}"
            ),
        )
        while pending:
            done, pending = ray.wait(pending, num_returns=len(pending), timeout=1.0)
            for call in done:
                result_of_start(call, names[call], next(iter(names)))
                on_ready(names[call], time.monotonic() - began)
            on_wait(wait.sentence() if pending else "")
            wait.check()
        self._poll_groups()

    def start(self, sampling: bool = True) -> None:
        """Start the loops; without `sampling` the actors stay idle until `sample` is called."""
        self._sampling = sampling
        if sampling:
            self._loops.start(self._actors.members)
        self._learners.run()

    @property
    def learner_is_back(self) -> bool:
        """True once a learner that died has loaded the newest checkpoint: it waits for `run_learner`."""
        return self._learners.is_back

    def run_learner(self) -> None:
        """Let a learner that is back go on."""
        self._learners.run()

    def poll(self, timeout_s: float) -> bool:
        """Wait up to `timeout_s` for a loop to end; True once all learners have. Raises what a loop raised."""
        learners = self._learners.calls
        done, _ = ray.wait([*learners, *self._loops.calls], timeout=timeout_s)
        for call in done:
            (self._learners if call in learners else self._loops).handle_end(call)
        if self._sampling:  # an actor that was ended because it did not stop stays away until `start_actors`
            self._loops.retry()
        self._poll_groups()
        return self._learners.is_done

    def report(self) -> SystemReport:
        """Collect new rows, statuses and waits from all processes."""
        health = self._store_client.health()
        if health and health.has_forgotten:
            self._events.add(ProcessEvent("restart", "adapter store", "the adapter store died and is back"))
            self._store_client.set_reward_workers(self._rewards.names())
            self._learners.publish_again()
        rows, learner_wait = self._learners.report()
        statuses, actor_waits = self._actor_monitor.report(self._loops.available)
        waits = [learner_wait, *actor_waits, *self._missing(), *self._events.troubles]
        waits += self._reward_monitor.troubles(self._rewards.members, health)
        for number, error in self._reward_monitor.gone.items():
            words = self._store_client.last_words(f"reward-{number}")
            self._events.add(ProcessEvent("trouble", "reward", self._rewards.drop(number, error, words)))
            self._store_client.set_reward_workers(self._rewards.names())
        sentences = [wait for wait in waits if wait]
        return SystemReport(rows, statuses, self._reward_monitor.statuses, sentences, self._actors.names())

    def resize(self, counts: Mapping[str, int]) -> None:
        """Change the number of requested processes of `actors`, `rewards` or both."""
        for name, group in (("rewards", self._rewards), ("actors", self._actors)):
            count = counts.get(name, group.requested)
            if count == group.requested:
                continue
            noun, running = ROLE_NOUNS[group.role], len(group.members)
            text = f"scaling {noun}: {running} running, {count} requested"
            self._events.add(ProcessEvent("scaled", group.role, text))
            drained = group.resize(count)
            if drained and group is self._rewards:
                self._store_client.set_reward_workers(group.names())

    @property
    def requested(self) -> dict[str, int]:
        """Role -> number of requested processes."""
        return {"actor": self._actors.requested, "reward": self._rewards.requested, "learner": len(self._learners)}

    @property
    def ready(self) -> dict[str, int]:
        """Role -> number of processes that work, by what the driver has seen so far: one that hangs does not."""
        return {
            "actor": len(self._actors.members) - self._loops.restarting - len(self._actor_monitor.hung),
            "reward": len(self._rewards.members.keys() - self._reward_monitor.down - self._reward_monitor.hung),
            "learner": self._learners.ready,
        }

    def events(self) -> list[ProcessEvent]:
        """The events since the last call."""
        return self._events.drain()

    def score(self, trajectories: Sequence[Trajectory]) -> PendingScores:
        """Start to score demonstrations and to add them to the buffer."""
        return score_trajectories(list(self._rewards.members.values()), trajectories, self._config.actors.push_size)

    def sample(self, prompts: Sequence[Prompt], n: int, use_base_model: bool) -> PendingSamples:
        """Start to draw n on-policy responses of each prompt and to score them. Not while the actors' loops run."""
        if not use_base_model:
            self.newest_adapter()  # raises where there is none
        actors = list(self._loops.available.values()) or list(
            self._actors.members.values()
        )  # a call waits for a restart
        parts = draw_samples(actors, prompts, n, use_base_model)
        return PendingSamples(prompts, parts, list(self._rewards.members.values()))

    def score_draws(self, prompts: Sequence[Prompt], drawn: "Mapping[str, Sequence[Sampled]]") -> PendingSamples:
        """Start to score responses that were drawn before; `drawn`: prompt id -> responses."""
        workers = list(self._rewards.members.values())
        shares = [{name: of[k :: len(workers)] for name, of in drawn.items()} for k in range(len(workers))]
        return PendingSamples(prompts, [ray.put(share) for share in shares], workers)

    def log_q(self, strings: Sequence[Trajectory], base_model: bool) -> FloatArray:
        """[N] log q(Z ⊤) of given strings, nats, under the learner's weights or the base model. Not while it trains."""
        return self._learners.log_q(strings, base_model)

    def stop_learner(self) -> None:
        """Ask the learner to end after its current step; `poll` then returns True."""
        self._learners.stop()

    def stop_actors(self) -> None:
        """End the actors' loops and wait for that, so that they can draw the final samples."""
        self._sampling = False
        self._loops.stop()

    def start_actors(self) -> None:
        """Start the loops again after `stop_actors`."""
        calls = [actor.resume.remote() for actor in self._actors.members.values()]
        ray.wait(calls, num_returns=len(calls), timeout=RESUME_LIMIT_S)  # a restarting one was never told to stop
        self._sampling = True
        self._loops.start(self._actors.members)

    def newest_adapter(self) -> tuple[AdapterVersion, AdapterFiles]:
        """The most recently published adapter."""
        newest = self._store_client.newest()
        if newest is None:  # the store may have died since
            result_of(self._learners.publish_again(), "learner")
            newest = self._store_client.newest()
        if newest is None:
            raise TributaryError(
                "no adapter was published: the learner ended before its first one. See its error above."
            )
        return newest

    def kill(self) -> None:
        """Kill every process; actors that answer within CLOSE_LIMIT_S remove their files first."""
        closing = [actor.close.remote() for actor in self._actors.members.values()]
        ray.wait(closing, num_returns=len(closing), timeout=CLOSE_LIMIT_S)
        for process in (
            *self._actors.all_handles(),
            *self._rewards.all_handles(),
            *self._learners.handles,
            self._store,
        ):
            ray.kill(process)

    def _poll_groups(self) -> None:
        """Put processes that have become ready to work, and kill those that are drained."""
        for group in (self._rewards, self._actors):
            joined, failures = group.poll()
            for number in joined:
                self._events.add(ProcessEvent("joined", group.role, f"{group.role}-{number} is ready"))
            for failure in failures:
                self._events.add(ProcessEvent("trouble", group.role, failure))
            if joined and group is self._rewards:
                self._store_client.set_reward_workers(group.names())
            if joined and group is self._actors and self._sampling:
                self._loops.start(joined)

    def _missing(self) -> list[str]:
        """One sentence for each role with fewer ready processes than requested."""
        ready, requested = self.ready, self.requested
        return [
            f"{ready[role]}/{count} {ROLE_NOUNS[role]} ready, {count - ready[role]} starting; {free_now()}"
            for role, count in requested.items()
            if ready[role] < count
        ]


def _start_store(name: str) -> Handle:
    """The AdapterStore, on the driver's node, so that the end of another node does not take it along."""
    driver_node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {"num_cpus": 0, "name": name, "max_concurrency": 1000, "scheduling_strategy": driver_node}
    return ray.remote(AdapterStore).options(**options, max_restarts=-1, max_task_retries=-1).remote()


def _start_reward(config: RunConfig, number: int, address: Address) -> Handle:
    restarts = _ray_restarts(config.rewards.advanced.max_restarts)
    options = {"name": f"reward-{number}", "max_restarts": restarts, "max_task_retries": restarts}
    return remote(RewardProcess, config.rewards, **options).remote(number, address)


def _ray_restarts(max_restarts: int) -> int:
    """Ray counts the restarts of a life; those of an hour the processes count, in `wait_after_deaths`."""
    return -1 if max_restarts else 0


def _start_actor(config: RunConfig, number: int, address: Address) -> Handle:
    actors = config.actors
    options: dict[str, Any] = {"max_concurrency": 4, "max_restarts": _ray_restarts(actors.advanced.max_restarts)}
    if actors.tensor_parallel > 1:
        options["num_gpus"] = actors.tensor_parallel * actors.gpus
    return remote(ActorProcess, actors, **options).remote(number, address)
