"""The process that runs the steps of a job, one after the other: ``python job_process.py FOLDER``.

It has a session of its own, so it outlives the server. It writes what the steps say to ``log.txt``, a file for each
step that is done, and at the end the exit code to ``exit.json``. It imports nothing of xaikit, so that it is small.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

INTERRUPTED = 130
FINE = (0, 3)  # 3: the model relies on the shortcut, which is a result


def run_steps(folder: Path) -> int:
    """Run each step of a job that is not done until one fails; the exit code of the last.

    Args:
        folder: of the job.
    """
    steps = sorted(folder.glob("step-*.json"))
    stopped = False

    def stop(*_: object) -> None:
        nonlocal stopped
        stopped = True

    signal.signal(signal.SIGINT, stop)  # it reaches the step too, which then ends as after Ctrl-C
    signal.signal(signal.SIGTERM, stop)
    _write(folder / "process.json", {"process": os.getpid(), "started": started_at(os.getpid())})
    code = 0
    with (folder / "log.txt").open("ab", buffering=0) as log:
        for number, step in enumerate(steps):
            finished = step.with_suffix(".done")
            if finished.exists():
                continue
            verb = json.loads(step.read_text(encoding="utf-8"))["verb"]
            _write(folder / "step.json", {"step": number + 1, "steps": len(steps), "step_verb": verb})
            log.write(f"\nstep {number + 1} of {len(steps)}: {verb}\n".encode())
            command = [sys.executable, "-m", "xaikit", "run", str(step), "--trust"]
            code = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log).wait()  # noqa: S603
            code = INTERRUPTED if stopped else code
            if code not in FINE:
                break
            _write(finished, {"code": code})
    _write(folder / "exit.json", {"code": code})
    return code


def started_at(process: int) -> str:
    """When a process began, in the system's ticks, so that its number is not taken for another's; empty elsewhere.

    Args:
        process: its number.
    """
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _write(path: Path, content: dict[str, object]) -> None:
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps(content) + "\n", encoding="utf-8")
    os.replace(partial, path)


if __name__ == "__main__":
    sys.exit(run_steps(Path(sys.argv[1])))
