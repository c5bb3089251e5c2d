"""Alert rules on processes and machines."""

from deploy.telemetry.alerts import RUN, SERIES, VALUE, AlertInputs, Finding, Query, RuleSet, growth

MAX_VERSIONS_BEHIND = 25
CANARY_WINDOW_S = 1800
MAX_CANARIES_EXCEEDED = 1
"""In the window. Rounding makes one exceedance in thousands of versions."""
SILENT_S = 10.0
RESTART_WINDOW_S = 1800
MAX_RESTARTS = 1
MAX_MEMORY_SHARE = 0.92
MIN_FREE_BYTES = 2e9

rule = RuleSet()


@rule(
    "target_down",
    "critical",
    Query(
        "TributaryTargetDown",
        'up{job="ray"} == 0',
        "{{ $labels.instance }} does not answer Prometheus: the node, or Ray on it, is gone.",
        hold="2m",
    ),
)
def _target_down(inputs: AlertInputs) -> Finding:
    """A node does not answer. Prometheus only: the dashboard does not scrape nodes."""
    return None


@rule(
    "members_missing",
    "critical",
    Query(
        "TributaryMembersMissing",
        f"sum by (run, role) ({SERIES['run.members.ROLE']}) < sum by (run, role) ({SERIES['run.members_wanted.ROLE']})",
        f"{RUN}: {{{{ $value }}}} processes of role {{{{ $labels.role }}}} are alive, fewer than wanted.",
        hold="3m",
    ),
)
def _members_missing(inputs: AlertInputs) -> Finding:
    """Fewer processes than requested. Prometheus only: a snapshot lists processes that answer, and `silent` reports
    those that no longer do."""
    return None


@rule("silent", "critical")
def _silent(inputs: AlertInputs) -> Finding:
    """An actor does not answer. Dashboard only: Prometheus sees no gauge of a silent process, and reports it as a
    missing member."""
    silent = {name: inputs.now - at for name, at in inputs.last_reply.items() if inputs.now - at > SILENT_S}
    if not silent:
        return None
    name, seconds = max(silent.items(), key=lambda pair: pair[1])
    return (
        f"{name} has not answered for {seconds:.0f} s ({len(silent)} silent in all).",
        "Its process died and is being started again, or its engine hangs.",
        "Look at Events for restarts and at Ray's logs; `Killed` there is often memory.",
    )


@rule(
    "restarts",
    "warning",
    Query(
        "TributaryRestarts",
        f"sum by (run, role) (\n  {growth(SERIES['run.restarts.ROLE'], RESTART_WINDOW_S)}\n) >= {MAX_RESTARTS + 1}",
        f"{RUN}: processes of role {{{{ $labels.role }}}} died {VALUE} times in {RESTART_WINDOW_S // 60} minutes.",
        comment="A counter appears with its first count, so `increase` would not see that one: hence the difference.",
    ),
)
def _restarts(inputs: AlertInputs) -> Finding:
    """Processes die again and again. The dashboard counts actors of all names, whose clocks show a restart."""
    restarts = inputs.increase("restarts", RESTART_WINDOW_S)
    if restarts <= MAX_RESTARTS:
        return None
    return (
        f"Actors died {restarts:.0f} times in {RESTART_WINDOW_S // 60} minutes.",
        "Memory, an error of the GPU, or an engine bug. After actors.advanced.max_restarts an hour it is left out.",
        "Read the end of the actor's log; `Killed` there is often memory.",
    )


@rule(
    "waits",
    "warning",
    Query(
        "TributaryWaits",
        f"max by (run) ({SERIES['run.waits']}) > 0",
        f"{RUN}: {{{{ $value }}}} named waits for 5 minutes. Its log says who waits for what.",
        hold="5m",
    ),
)
def _waits(inputs: AlertInputs) -> Finding:
    """A wait lasts. Prometheus only: the dashboard shows every wait with its sentence as soon as there is one."""
    return None


@rule(
    "staleness",
    "warning",
    Query(
        "TributaryActorStale",
        f"max by (run) ({SERIES['learner.version']})\n"
        f"- on (run) group_right () max by (run, process) ({SERIES['actor.NAME.version']})"
        f" > {MAX_VERSIONS_BEHIND}",
        f"{RUN}: {{{{ $labels.process }}}} serves an adapter {{{{ $value }}}} versions old.",
        hold="2m",
    ),
)
def _staleness(inputs: AlertInputs) -> Finding:
    """An actor falls behind."""
    behind = {a["name"]: inputs.version - a["version"] for a in inputs.actors if a["version"] >= 0}
    name, most = max(behind.items(), key=lambda pair: pair[1], default=("", 0))
    if most <= MAX_VERSIONS_BEHIND:
        return None
    return (
        f"{name} is {most} versions behind the newest.",
        "The learner publishes faster than the actor can take adapters: it takes one when its engine has a free slot.",
        "Raise learner.publish_every, lower actors.max_in_flight, or give actors more threads.",
    )


@rule(
    "canary",
    "warning",
    Query(
        "TributaryCanaryDrift",
        f"sum by (run) (\n  {growth(SERIES['actor.NAME.canaries_exceeded'], CANARY_WINDOW_S)}\n)"
        f" >= {MAX_CANARIES_EXCEEDED + 1}",
        f"{RUN}: {VALUE} canaries or first samples differed by more than the tolerance in "
        f"{CANARY_WINDOW_S // 60} minutes.",
    ),
)
def _canary(inputs: AlertInputs) -> Finding:
    """Engine and learner, or an engine's samples and scores, disagree more often than rounding explains."""
    exceeded = inputs.increase("canaries_exceeded", CANARY_WINDOW_S)
    if exceeded <= MAX_CANARIES_EXCEEDED:
        return None
    tolerance = inputs.limits.get("canary_tolerance", 0.0)
    worst = max((a["canary_difference_max"] for a in inputs.actors), default=0.0)
    return (
        f"{exceeded:.0f} canaries or first samples in {CANARY_WINDOW_S // 60} minutes exceeded the tolerance of "
        f"{tolerance:.2g} nats, by up to {worst:.2g}; three in a row of either end the run.",
        "Engine and learner round differently, or the engine serves weights that are not quite those published.",
        "Check that engine and learner have the same model.dtype and quantization. Don't raise the tolerance first.",
    )


@rule(
    "memory",
    "warning",
    Query(
        "TributaryMemoryShort",
        f"max by (instance) (ray_node_mem_used / ray_node_mem_total) > {MAX_MEMORY_SHARE:g}",
        "{{ $labels.instance }}: {{ $value | humanizePercentage }} of its memory is used.",
        hold="2m",
    ),
)
def _memory(inputs: AlertInputs) -> Finding:
    """A node is short of memory. Prometheus only: the dashboard sees one machine, Ray measures all."""
    return None


@rule(
    "disk",
    "warning",
    Query(
        "TributaryDiskShort",
        f"min by (instance) (ray_node_disk_free) < {MIN_FREE_BYTES:g}",
        "{{ $labels.instance }}: {{ $value | humanize1024 }}B free on Ray's disk.",
        hold="2m",
    ),
)
def _disk(inputs: AlertInputs) -> Finding:
    """A disk is nearly full: of the run's folder on the dashboard, of Ray's session folder in Prometheus."""
    if inputs.free_bytes is None or inputs.free_bytes >= MIN_FREE_BYTES:
        return None
    return (
        f"{inputs.free_bytes / 1e9:.2f} GB are free on the disk of the run's folder.",
        "Checkpoints, the buffer's log and this history are written there.",
        "Free some space: on a full disk the run waits for four minutes at most.",
    )
