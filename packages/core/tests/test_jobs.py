import operator
import os
import subprocess
import sys
import threading
from functools import partial

import psutil
import pytest
import torch

from prunelab.jobs import end_with, results


def counted(begun: list[int], value: int = 10) -> int:
    begun.append(value)
    return value


def test_one_job_does_its_parts_here_in_order():
    begun: list[int] = []
    made = results([3, 1, 2], partial(counted, begun), operator.add)
    assert begun == []
    assert list(made) == [13, 11, 12]
    assert begun == [10]
    assert list(results([], partial(counted, begun), operator.add, jobs=3)) == []


def test_several_jobs_make_the_same_results_with_one_thread_each():
    # Functions that a new process finds, wherever these tests lie; what is shared is its number of threads.
    assert sorted(results([1, 2], torch.get_num_threads, operator.add, jobs=2)) == [2, 3]


@pytest.mark.slow
def test_what_a_part_raises_comes_home():
    with pytest.raises(ZeroDivisionError):
        list(results([1, 0, 2], torch.get_num_threads, operator.floordiv, jobs=2))


def test_a_worker_ends_when_its_parent_has():
    ended = threading.Event()
    sentinel, parent = os.pipe()
    end_with(sentinel, lambda _: ended.set())
    assert not ended.wait(0.05)
    os.close(parent)
    assert ended.wait(10)
    os.close(sentinel)


WORKER = """
import multiprocessing, os, time
from prunelab.jobs import end_with
def work():
    end_with(multiprocessing.parent_process().sentinel)
    print(os.getpid(), flush=True)
    time.sleep(600)
if __name__ == "__main__":
    multiprocessing.get_context("spawn").Process(target=work).start()
"""


@pytest.mark.slow
def test_a_killed_parent_takes_its_workers_along(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(WORKER)
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    worker.wait(30)
