"""Write DIR/PART.json for a part of first_hour.sh: exit code, seconds, result, and until then what there is so far.

    python deploy/gpu/part_result.py DIR PART BEGAN [EXIT]

BEGAN is the Unix time at which the part began [s]. Without EXIT the file is written every 10 s until this process is
killed, so that it is there however the part ends.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

PERIOD_S = 10.0


def objects(text: str) -> list[dict[str, Any]]:
    """The lines of `text` that are JSON objects."""
    found = []
    for line in text.splitlines():
        try:
            value = json.loads(line) if line.startswith("{") else None
        except ValueError:
            value = None
        if isinstance(value, dict):
            found.append(value)
    return found


def row(folder: Path, part: str, began: float, code: int | None) -> dict[str, Any]:
    """The contents of the file. The result of a part that succeeded is the last line of its log, a JSON object."""
    log = folder / f"{part}.log"
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()] if log.is_file() else []
    result = next(iter(objects(lines[-1])), None) if lines and code == 0 else None
    made: dict[str, Any] = {"part": part, "exit": code, "seconds": round(time.time() - began), "result": result}
    if result is None:
        steps = folder / f"{part}-run" / "metrics.jsonl"
        of_steps = objects(steps.read_text(errors="replace"))[-1:] if steps.is_file() else []
        made |= {"last_line": (lines or [""])[-1], "so_far": objects("\n".join(lines)) + of_steps}
    return made


def main() -> None:
    """Write once with an exit code, else for ever."""
    folder, part, began = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
    code = int(sys.argv[4]) if len(sys.argv) > 4 else None
    while True:
        made = row(folder, part, began, code)
        (folder / f".{part}.json").write_text(json.dumps(made, indent=1))
        (folder / f".{part}.json").replace(folder / f"{part}.json")
        if code is not None:
            shown = json.dumps(made["result"]) if made["result"] else made["last_line"]
            sys.stdout.write(f"   exit {code} after {made['seconds']} s: {shown[:200]}\n")
            return
        time.sleep(PERIOD_S)


if __name__ == "__main__":
    main()
