"""Wait until the nodes of a Slurm job have joined Ray: `wait_for_nodes.py NUMBER`, with RAY_ADDRESS set.

The driver refuses a recipe that reserves more than the cluster has, so it must start after all nodes have joined.
"""

import sys
import time

import ray

LIMIT_S = 300.0


def main() -> None:
    """Exit with a message and code 1 if nodes are missing after LIMIT_S."""
    expected, deadline = int(sys.argv[1]), time.monotonic() + LIMIT_S
    while (joined := _joined()) < expected:
        if time.monotonic() > deadline:
            sys.exit(f"{joined}/{expected} nodes joined Ray within {LIMIT_S:g} s. See the output of srun above.")
        time.sleep(2.0)


def _joined() -> int:
    """Number of live nodes; 0 while the head does not answer."""
    try:
        ray.init(log_to_driver=False, logging_level="critical")
    except Exception as error:  # Ray has no common class for these errors
        sys.stderr.write(f"Ray does not answer yet: {type(error).__name__}\n")
        return 0
    try:
        return sum(node["Alive"] for node in ray.nodes())
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
