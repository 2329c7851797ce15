from __future__ import annotations

from prunelab.doors import did_you_mean, nearest


def test_an_unknown_name_is_answered_with_the_nearest_ones() -> None:
    names = ["lr_scheduler", "learning_rate", "batch_size", "batch_size_eval"]
    assert did_you_mean("lr_sheduler", names) == "did you mean lr_scheduler?"
    assert did_you_mean("--Batch-Size", names).startswith("did you mean batch_size or batch_size_eval")
    assert did_you_mean("eval", names) == "did you mean batch_size_eval?"
    assert did_you_mean("zzz", ["a", "b", "a"]) == "expected one of: a, b"
    assert did_you_mean("zzz", []) == "nothing is expected here"
    assert nearest("rate", names) == ["learning_rate"]
