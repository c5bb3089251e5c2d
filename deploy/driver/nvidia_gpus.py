"""The NVIDIA GPUs of this machine, as the driver reports them. Nothing is imported or started on them."""

import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

VISIBLE = "CUDA_VISIBLE_DEVICES"
_LIMIT_S = 10.0
_QUERIES = (
    "uuid,mig.mode.current,memory.total,driver_version,compute_cap,name",
    "uuid,memory.total,driver_version,name",
)
"""The name is last: it may contain a comma. Drivers before 510 don't know compute_cap."""
_CARD = re.compile(r"GPU \d+: .*\(UUID: (\S+)\)")
_INSTANCE = re.compile(r"(MIG \S*?(\d+)gb\S*)\s.*\(UUID: (\S+)\)")
"""Lines of `nvidia-smi -L`, such as `  MIG 3g.40gb     Device  0: (UUID: MIG-c6d4...)`."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One card, or one MIG instance of a card."""

    name: str
    memory: str
    """As the driver writes it, such as 81559 MiB; [N/A] where a GPU shares the machine's memory."""
    driver: str
    capability: str = ""
    """Such as 9.0; empty if the driver does not report it."""
    uuids: tuple[str, ...] = ()
    """Its own and its card's."""

    @property
    def memory_bytes(self) -> int | None:
        """Bytes of memory; None where the driver gives no number."""
        number, _, unit = self.memory.partition(" ")
        return int(number) * 2**20 if number.isdecimal() and unit == "MiB" else None


def find_gpus() -> list[Gpu]:
    """The GPUs that a process started here can use; empty without a driver, or where CUDA_VISIBLE_DEVICES hides all."""
    return usable(installed_gpus(), os.environ.get(VISIBLE))


def hiding_variable() -> str | None:
    """`CUDA_VISIBLE_DEVICES = '...'` where that hides all GPUs of this machine; None otherwise."""
    visible = os.environ.get(VISIBLE)
    if visible is None or usable(cards := installed_gpus(), visible) or not cards:
        return None
    return f"{VISIBLE} = {visible!r}"


def usable(cards: Sequence[Sequence[Gpu]], visible: str | None) -> list[Gpu]:
    """What CUDA shows of `cards`, each given by its MIG instances or by itself, with CUDA_VISIBLE_DEVICES = `visible`.

    Of a divided card it shows the first instance, or those that are named. A name that it does not know hides all that
    follow it.
    """
    if visible is None:
        return [parts[0] for parts in cards if parts]
    chosen: list[Gpu] = []
    for word in map(str.strip, visible.split(",")):
        if word.isdecimal():
            parts = cards[int(word)] if int(word) < len(cards) else ()
        else:
            parts = [gpu for parts in cards for gpu in parts if word and any(u.startswith(word) for u in gpu.uuids)]
        if not parts:
            break
        chosen.append(parts[0])
    return chosen


def installed_gpus() -> list[list[Gpu]]:
    """All cards of this machine, each as a list of itself or of its MIG instances; empty without a driver."""
    for query in _QUERIES:
        fields, output = query.split(","), _nvidia_smi(f"--query-gpu={query}", "--format=csv,noheader")
        if output is None:
            continue
        lines = [line.split(",", len(fields) - 1) for line in output.splitlines() if line.strip()]
        rows = [dict(zip(fields, map(str.strip, line), strict=True)) for line in lines if len(line) == len(fields)]
        divided = any(row.get("mig.mode.current") == "Enabled" for row in rows)
        instances = _instances(_nvidia_smi("-L") or "") if divided else {}
        return [_parts(row, instances) for row in rows]
    return []


def _parts(row: dict[str, str], instances: dict[str, list[tuple[str, int, str]]]) -> list[Gpu]:
    """A card as the driver describes it: itself, or its instances where it is divided."""
    driver, capability, uuid = row["driver_version"], row.get("compute_cap", ""), row["uuid"]
    if row.get("mig.mode.current") != "Enabled":
        return [Gpu(row["name"], row["memory.total"], driver, capability, (uuid,))]
    return [
        Gpu(f"{row['name']} {profile}", f"{mib} MiB", driver, capability, (own, uuid))
        for profile, mib, own in instances.get(uuid, [])
    ]


def _instances(listing: str) -> dict[str, list[tuple[str, int, str]]]:
    """uuid of a card -> (profile, MiB, uuid) of its MIG instances, by the output of `nvidia-smi -L`.

    The memory is that in the profile's name, of 10^9 bytes a GB: an instance has that or a little more.
    """
    found: dict[str, list[tuple[str, int, str]]] = {}
    card = ""
    for line in listing.splitlines():
        if match := _CARD.search(line):
            card = match[1]
        elif match := _INSTANCE.search(line):
            found.setdefault(card, []).append((match[1], int(match[2]) * 10**9 // 2**20, match[3]))
    return found


def _nvidia_smi(*arguments: str) -> str | None:
    """Its output; None without a driver."""
    try:
        return subprocess.run(
            ["nvidia-smi", *arguments], capture_output=True, text=True, timeout=_LIMIT_S, check=True
        ).stdout
    except (subprocess.SubprocessError, OSError):
        return None
