"""``create_study``: the 75 configurations of the CamVid study, from one template.

Sparsity by the epoch in which masks become hard (seed 1); five seeds at epoch 300, the row of the paper;
and the same seeds with a random choice of channels that is only cooled down (``annealed``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from acosp_seg.cli import parse_create_study
from acosp_seg.layout import find_config
from acosp_seg.options import StudyOptions
from prunelab.doors import did_you_mean
from prunelab.errors import UserError, entry
from prunelab.util import atomic_write

SPARSITIES = ("0", "0.5", "0.75", "0.875", "0.9375")
DURATIONS = (0, 50, 100, 200, 300, 400, 450)
SEEDS = (2, 3, 4, 5)
"""Seeds of the runs that repeat the one with seed 1."""
TABLE_DURATION = 300
"""Ending epoch of the runs in the paper's table."""
QUEUES = 9
"""Lines of ``bash_commands.txt``, one for each machine that the annealed runs are dealt to."""
SCORES = {
    "0": "55.49 +- 0.85 mIoU / 65.44 +- 1.01 mAcc",
    "0.5": "51.85 +- 0.83 mIoU / 61.86 +- 0.85 mAcc",
    "0.75": "50.10 +- 1.11 mIoU / 59.79 +- 1.49 mAcc",
    "0.875": "47.25 +- 1.18 mIoU / 56.87 +- 1.10 mAcc",
    "0.9375": "42.27 +- 1.95 mIoU / 51.25 +- 2.02 mAcc",
}
"""Rows of the paper's table, mean and standard deviation over five seeds."""


@dataclass(frozen=True, kw_only=True)
class StudyRun:
    """One run of the study."""

    sparsity: str
    """As it stands in file names."""
    duration: int
    """Epoch in which masks become hard."""
    seed: int = 1
    """Seed of everything random."""
    learnable: bool = True
    """Whether the choice of channels is learned."""

    @property
    def name(self) -> str:
        """Name of the run: ``segnet_0.5_300_seed2_annealed``."""
        seed = f"_seed{self.seed}" if self.seed != 1 else ""
        return f"segnet_{self.sparsity}_{self.duration}{seed}{'' if self.learnable else '_annealed'}"

    @property
    def expected(self) -> str:
        """What the file's first line says of the paper."""
        if self.duration != TABLE_DURATION or not self.learnable:
            return "no row of the paper's table, no expected score"
        return f"one of five seeds of a row of the paper, {SCORES[self.sparsity]}"

    def fill(self, template: str) -> str:
        """The template with its words replaced; SPARSITY before SPARSE, which it begins with."""
        words = {
            "EXPECTED": self.expected,
            "MODEL": self.name,
            "SPARSITY": self.sparsity,
            "DURATION": str(self.duration),
            "LEARNABLE": str(self.learnable),
            "SEED": str(self.seed),
            "SPARSE": str(float(self.sparsity) > 0),
        }
        for word, value in words.items():
            template = template.replace(word, value)
        return template


def runs() -> Iterator[StudyRun]:
    """All runs: 35 with seed 1, 20 with other seeds, 20 annealed."""
    for sparsity in SPARSITIES:
        for duration in DURATIONS:
            yield StudyRun(sparsity=sparsity, duration=duration)
    for learnable in (True, False):
        for sparsity in SPARSITIES:
            for seed in SEEDS:
                yield StudyRun(sparsity=sparsity, duration=TABLE_DURATION, seed=seed, learnable=learnable)


def create_study(options: StudyOptions) -> list[Path]:
    """Write the files, and ``bash_commands.txt`` with all of them; nothing with ``dry_run``.

    Returns:
        The configurations' paths.

    Raises:
        UserError: no template, or a name that is no run of the study.
    """
    template = find_config(options.template)
    if not template.is_file():
        raise UserError(f"{template}: no such file, expected the template of the study")
    text = template.read_text(encoding="utf-8")
    folder = Path(options.output) if options.output else template.parent / "study"
    chosen = {run.name: run for run in runs()}
    if options.name:
        if options.name not in chosen:
            raise UserError(f"{options.name!r} is no run of the study: {did_you_mean(options.name, chosen)}")
        chosen = {options.name: chosen[options.name]}
    files = {folder / f"camvid_{name}.yaml": run.fill(text) for name, run in chosen.items()}
    if not options.dry_run:
        for path, content in files.items():
            _write(path, content)
        if not options.name:
            _write(folder / "bash_commands.txt", bash_commands())
    return list(files)


def bash_commands() -> str:
    """The annealed runs, dealt to nine lines in turn; each line is one shell command after the other."""
    names = [run.name for run in runs() if not run.learnable]
    lines = [
        " && ".join(f"sh tool/train.sh camvid {name}" for name in names[queue::QUEUES])
        for queue in range(QUEUES)
    ]
    return "\n".join(lines) + "\n"


def _write(path: Path, content: str) -> None:
    with atomic_write(path, "w") as file:
        file.write(content)


@entry
def main(argv: Sequence[str] | None = None) -> None:
    """Run ``create_study``."""
    options = parse_create_study(argv)
    files = create_study(options)
    done = "would write" if options.dry_run else "wrote"
    print(f"{done} {len(files)} configuration{'s' if len(files) > 1 else ''} in {files[0].parent}")


if __name__ == "__main__":
    main()
