"""Time and peak memory of two ways to compute the same thing, in one run."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

Run = Callable[[], object]


def time_alternately(runs: dict[str, Run], repeats: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of every repeat; the order is reversed each time, so that no run always follows the other."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats):
        names = list(runs) if repeat % 2 == 0 else list(reversed(runs))
        for name in names:
            _wait(device)
            start = time.perf_counter()
            runs[name]()
            _wait(device)
            times[name].append(time.perf_counter() - start)
    return times


def peak_memory(run: Run, device: torch.device) -> int:
    """Largest number of bytes of tensors alive at once, beyond what was there before.

    On the CPU these are PyTorch's own records of what it allocates and frees; buffers inside its kernel libraries are
    not among them.
    """
    if device.type == 'cuda':
        _wait(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        _wait(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        run()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, 'trace.json')
        recorded.export_chrome_trace(str(path))
        events = json.loads(path.read_text())['traceEvents']
    changes = [(event['ts'], event['args']['Bytes']) for event in events if event['name'] == '[memory]']
    alive = peak = 0
    for _, change in sorted(changes, key=lambda entry: entry[0]):  # stable: equal times stay in the recorded order
        alive += change
        peak = max(peak, alive)
    return peak


def _wait(device: torch.device) -> None:
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
