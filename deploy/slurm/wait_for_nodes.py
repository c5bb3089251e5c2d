"""Wait until the nodes of a Slurm job have joined Ray: `wait_for_nodes.py NUMBER`, with RAY_ADDRESS set.

The driver refuses a recipe that reserves more than the cluster has, so it must not start before all are there.
"""

import sys
import time

import ray

LIMIT_S = 300.0


def main() -> None:
    """End with a message and code 1 where nodes are missing after LIMIT_S."""
    wanted, deadline = int(sys.argv[1]), time.monotonic() + LIMIT_S
    while (joined := _joined()) < wanted:
        if time.monotonic() > deadline:
            sys.exit(f"{joined} of {wanted} nodes joined Ray within {LIMIT_S:g} s. What srun said is above.")
        time.sleep(2.0)


def _joined() -> int:
    """Living nodes; 0 while the head does not answer."""
    try:
        ray.init(log_to_driver=False, logging_level="critical")
    except Exception as error:  # Ray has no class of its own for what can go wrong here
        sys.stderr.write(f"Ray does not answer yet: {type(error).__name__}\n")
        return 0
    try:
        return sum(node["Alive"] for node in ray.nodes())
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
