"""Time and peak memory of two ways to compute the same thing, in one run."""

from __future__ import annotations

import ctypes
import gc
import json
import re
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


def peak_process_memory(run: Run) -> int | None:
    """Largest number of bytes that the process holds in memory during a run, beyond what it held before.

    Whoever allocates: PyTorch, NumPy and native libraries. None where Linux with glibc does not offer it.
    """
    try:
        gc.collect()
        ctypes.CDLL('libc.so.6').malloc_trim(0)  # or else the run finds memory that was freed but not given back
        Path('/proc/self/clear_refs').write_text('5')  # the peak starts anew
    except OSError:
        return None
    before = _resident('VmRSS')
    run()
    return max(_resident('VmHWM') - before, 0)


def _resident(name: str) -> int:
    found = re.search(rf'^{name}:\s+(\d+) kB$', Path('/proc/self/status').read_text(), re.MULTILINE)
    if found is None:
        raise OSError(f'/proc/self/status does not say {name}')
    return 1024 * int(found[1])


def _wait(device: torch.device) -> None:
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
