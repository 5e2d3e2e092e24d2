"""Peak memory of code in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# The peak that getrusage tells a new process is that of the process which started it, so it is asked elsewhere.
_STATUS = Path("/proc/self/status")
_BEFORE = """
def peak():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
"""


def run_measured(code: str, *arguments: object) -> list[str]:
    """Words that Python code prints; ``peak()`` in it is the most memory it has had so far, in MB."""
    if not _STATUS.exists():
        pytest.skip("peak memory is read from /proc, which this system does not have")
    command = [sys.executable, "-c", _BEFORE + code, *map(str, arguments)]
    return subprocess.run(command, check=True, timeout=300, capture_output=True, text=True).stdout.split()
