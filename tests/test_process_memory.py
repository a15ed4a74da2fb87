"""The allocator keeps what a step on the CPU frees."""

import subprocess
import sys


def test_on_a_cpu_a_step_finds_the_memory_that_the_one_before_freed():
    """In a process of its own, for it cannot be undone; in a thread, as the engine is. 64 MiB are 16,384 pages."""
    steps = """
import resource, threading
import torch
from sd_space.process_memory import tune_malloc
assert tune_malloc()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        [torch.ones(16 * 2**20) for _ in range(2)]
    print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 10)
thread = threading.Thread(target=lambda: (faults(), faults()))
thread.start()
thread.join()
"""
    printed = subprocess.run([sys.executable, "-c", steps], check=True, capture_output=True, text=True).stdout.split()
    assert int(printed[-1]) < 100
