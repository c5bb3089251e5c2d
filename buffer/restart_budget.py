"""How often a process may be started again: so many times within an hour."""

import time

RESTART_WINDOW_S = 3600.0
"""Restarts longer ago than this no longer count, s."""


class RestartBudget:
    """Of one process."""

    def __init__(self, limit: int) -> None:
        """`limit`: restarts within RESTART_WINDOW_S."""
        self.limit = limit
        self._recent: list[float] = []

    def spend(self) -> bool:
        """Count a restart; False, and it is not counted, where `limit` were made within the window."""
        now = time.monotonic()
        self._recent = [at for at in self._recent if now - at < RESTART_WINDOW_S]
        if len(self._recent) >= self.limit:
            return False
        self._recent.append(now)
        return True
