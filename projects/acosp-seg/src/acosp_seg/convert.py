"""``convert``: a published file of weights, as a model folder of ours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from acosp_seg.cli import parse_convert
from acosp_seg.config import Config, ModelConfig
from acosp_seg.loading import find_model, load_file
from acosp_seg.lowering import lower_file
from acosp_seg.model.checkpoint import LoadReport, OriginalFile, read_original
from acosp_seg.options import ConvertOptions
from acosp_seg.recognise import config_of, recognise
from acosp_seg.segmenter import Segmenter
from prunelab.errors import entry
from prunelab.hub import is_model_folder
from prunelab.util import human_names

NEW_NETWORK = {
    "trunk": ModelConfig(arch="psp", classes=150),
    "vgg16": ModelConfig(arch="segnet", layers=None, classes=19),
}
"""What initial weights are put into where no configuration says it: the network, new but for them."""


def convert(options: ConvertOptions) -> Path:
    """Read the source, say what it is and what it lacks, and write the destination (unless ``dry_run``).

    Raises:
        UserError: the source is missing, no weights, or of another network than the configuration's.
    """
    source, target = find_model(options.source), Path(options.destination)
    if is_model_folder(source):
        segmenter = Segmenter.from_pretrained(source)
        print(f"{source}: a model folder: {segmenter.config.model.arch}, {segmenter.layout}")
    else:
        file = read_original(source)
        cfg = configuration(file, options.config_file)
        segmenter, report = load_file(file, cfg, part=file.kind in NEW_NETWORK)
        print(f"{source}: {report.file}")
        print(summary(segmenter, report))
    if not options.dry_run:
        segmenter.save_pretrained(target)
        print(f"written: {target}")
    return target


def configuration(file: OriginalFile, config_file: str) -> Config:
    """The configuration that a file is read with: the one that is given, else what its tensors say."""
    if config_file:
        return lower_file(config_file, (), {"pretrained": ""})
    model = NEW_NETWORK.get(file.kind) or recognise(file.state, where=str(file.path))
    return config_of(model)


def summary(segmenter: Segmenter, report: LoadReport) -> str:
    """What came of a file, and which keys had no counterpart."""
    model, dataset = segmenter.config.model, segmenter.config.data.dataset
    parameters = sum(parameter.numel() for parameter in segmenter.model.parameters())
    lines = [
        f"recognised: {model.arch}, {model.classes} classes ({dataset}), {segmenter.layout}, "
        f"{parameters:,} parameters"
    ]
    for what, names in (("missing keys, left as they were", report.missing), ("unused keys", report.unused)):
        lines.append(f"{what}: {human_names(names)}")
    return "\n".join(lines)


@entry
def main(argv: Sequence[str] | None = None) -> None:
    """Run ``convert``."""
    convert(parse_convert(argv))


if __name__ == "__main__":
    main()
