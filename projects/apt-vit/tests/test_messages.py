"""What the original says beside a run, word by word, where no recording holds it."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest

from apt_vit import messages
from apt_vit.config import Config, RunOptions
from apt_vit.configs import CONFIGS
from apt_vit.lowering import lower_values


def said(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Messages without the time."""
    lines = capsys.readouterr().err.splitlines()
    return [re.sub(r"^\d\d/\d\d/\d{4} \d\d:\d\d:\d\d - ", "", line) for line in lines]


def test_progress_is_one_line_that_is_written_over() -> None:
    file = io.StringIO()
    text = messages.ProgressText(file)
    text.training()
    text.training(3, 10, 0.123456)
    text.validating()
    text.validating(2.5)
    text.close()
    assert file.getvalue().split("\r\033[K")[1:] == [
        "Training (X / X Steps) (loss=X.X)",
        "Training (3 / 10 Steps) (loss=0.12346)",
        "Validating... (loss=X.X)",
        "Validating... (loss=2.50000)\n",
    ]


def test_nothing_is_written_over_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    messages.ProgressText().training(1, 2, 0.5)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("name", CONFIGS)
def test_a_network_is_told_as_its_configuration_is(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    cfg = lower_values({"model_type": name, "preset": "faithful"})
    with messages.shown():
        messages.model(cfg, 85_812_345)
    out, err = capsys.readouterr()
    assert str(CONFIGS[name]()) in err
    assert "INFO - __main__ - Training parameters Namespace(name='apt', output_dir='output'" in err
    assert f"model_type='{name}'" in err
    assert "Total Parameter: \t85.8M" in err
    assert out == "85.812345\n"


def test_a_process_is_told_as_a_warning_and_resized_tables_by_their_own_logger(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with messages.shown():
        messages.process(Config(run=RunOptions(fp16=True)), "cpu")
        messages.resized(("load_pretrained: resized variant: A to B",), ("grid-size from 2 to 3",))
    out, err = capsys.readouterr()
    assert (
        "WARNING - __main__ - Process rank: -1, device: cpu, n_gpu: 0, distributed training: False, " in err
    )
    assert "16-bits training: True" in err
    assert "INFO - models.modeling - load_pretrained: resized variant: A to B" in err
    assert out == "grid-size from 2 to 3\n"


def test_messages_are_shown_inside_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with messages.shown():
        messages.saved(Path("output"))
    assert said(capsys) == ["INFO - __main__ - Saved model checkpoint to [DIR: output]"]
    assert not messages.log.handlers
    assert messages.log.propagate
