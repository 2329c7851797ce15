import os
import subprocess
import sys
import threading
from functools import partial

import psutil
import pytest

from prunelab.jobs import end_with, results


def counted(begun: list[int], value: int = 10) -> int:
    begun.append(value)
    return value


def added(shared: int, part: int) -> int:
    if part < 0:
        raise ValueError(f"part is {part}")
    return shared + part


def own_process(shared: int, part: int) -> tuple[int, int]:
    import torch

    return shared + part, torch.get_num_threads()


def test_one_job_does_its_parts_here_in_order():
    begun: list[int] = []
    made = results([3, 1, 2], partial(counted, begun), added)
    assert begun == []
    assert list(made) == [13, 11, 12]
    assert begun == [10]
    assert list(results([], partial(counted, begun), added, jobs=3)) == []


def test_several_jobs_make_the_same_results_with_one_thread_each():
    found = sorted(results([1, 2], partial(counted, []), own_process, jobs=2))
    assert found == [(11, 1), (12, 1)]


@pytest.mark.slow
def test_what_a_part_raises_comes_home():
    with pytest.raises(ValueError, match="part is -1"):
        list(results([1, -1, 2], partial(counted, []), added, jobs=2))


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
