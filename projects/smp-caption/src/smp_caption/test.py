"""``test``: caption a split with a trained model and score the captions."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from prunelab import dist
from prunelab.caption.split import best_constant_caption
from prunelab.config import to_plain, yaml_text
from prunelab.errors import UserError, entry
from prunelab.report import result_table
from prunelab.seed import seed_all
from prunelab.util import write_json
from smp_caption.captioner import Captioner
from smp_caption.cli import parse_test
from smp_caption.config import Config, QuirksConfig
from smp_caption.data import open_data, open_records, references_of
from smp_caption.evaluate import decode_options, make_evaluator, write_evaluation
from smp_caption.files import original
from smp_caption.model import choose_caching
from smp_caption.options import TestOptions
from smp_caption.pruner import read_weights


def test(options: TestOptions) -> dict[str, float]:
    """Caption and score as asked; files lie beside the checkpoint or in ``options.output``.

    Returns:
        The scores; none for pictures without captions (the online test).

    Raises:
        UserError: no model, no data, or they do not fit each other.
    """
    if options.constant:
        return constant(options)
    place = checkpoint_of(options)
    cfg = configuration(options, place)
    if options.print_config:
        print(yaml_text(to_plain(cfg)))
        return {}
    device = dist.start(options.device)
    seed_all(cfg.run.seed)
    try:
        return _captioned(options, cfg, place, device)
    finally:
        dist.stop()


def _captioned(options: TestOptions, cfg: Config, place: Path, device: torch.device) -> dict[str, float]:
    captioner = original.load(place, device=device)
    if options.load_as_float16:
        _round_to_half(captioner, place)
    choose_caching(captioner.model, cfg.quirks)
    if options.compile:
        captioner.model.compile()
    cfg = original.fitted(cfg, captioner)
    folder = Path(options.output) if options.output else _run_of(place)
    data = open_data(cfg, folder / "fake_data", splits=(options.split,))
    beams = options.beam_size or cfg.decode.beam_size_test
    evaluator = make_evaluator(
        options.split,
        data.loader(options.split, captioner.tokenizer, rank=dist.rank(), world_size=dist.world_size()),
        data.references(options.split),
        captioner.tokenizer,
        decode_options(captioner.config, cfg.decode, beams, original=cfg.quirks.original_decoding),
        device=device,
        metrics=options.metrics,
        max_batches=options.max_steps,
    )
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=options.amp == "bf16")
    with captioner.model.prepared(), autocast:
        scores = dict(evaluator.run(captioner.model))
    online = options.mscoco_online_test and options.split == "test"
    target = write_evaluation(
        evaluator,
        folder,
        beams=beams,
        step=int(captioner.notes.get("step") or 0),
        suffix=options.eval_dir_suffix,
        online=itertools.chain.from_iterable(data.records.values()) if online else None,
    )
    if dist.is_main():
        title = f"{place}: {options.split}, {len(evaluator.predictions)} pictures, beam {beams}"
        _print(title, scores, target)
    return scores


def constant(options: TestOptions) -> dict[str, float]:
    """Score the one caption that fits the training pictures best; what a captioner must beat.

    Raises:
        UserError: no data set is named, or it is missing.
    """
    if options.dataset is None:
        raise UserError(
            "--constant needs --dataset, and --dataset_dir where its folder is not under PRUNELAB_DATA"
        )
    cfg = configuration(options, Path("no run"))
    records, _ = open_records(cfg)
    train, pictures = (references_of(records[split]) for split in ("train", options.split))
    caption, scores = best_constant_caption(train, pictures)
    title = f'"{caption}" said of {len(pictures)} pictures of {options.split}'
    result_table(title, list(scores), [list(scores.values())]).print()
    if options.output:
        target = Path(options.output)
        target.mkdir(parents=True, exist_ok=True)
        write_json(target / "constant.json", {"caption": caption, **scores})
    return scores


def checkpoint_of(options: TestOptions) -> Path:
    """The checkpoint that the flags mean: ``model_file`` in the run, or the best that the run has.

    Raises:
        UserError: nothing is there.
    """
    folder = Path(options.log_dir) / options.id if options.log_dir else Path(options.id)
    if options.model_file:
        inside = folder / options.model_file
        return original.find(inside if inside.exists() else Path(options.model_file))
    if not (options.log_dir or options.id):
        raise UserError("test needs a model: --log_dir RUN, --log_dir RUNS --id NAME, or --model_file FILE")
    pruned = [folder / name for name in ("pruned", original.SPARSE) if (folder / name).exists()]
    return original.find(pruned[0] if pruned else folder)


def configuration(options: TestOptions, place: Path) -> Config:
    """The configuration of the run that a checkpoint belongs to, with what was typed put over it."""
    cfg = original.run_config(_run_of(place))
    data = {
        name: getattr(options, name)
        for name in ("dataset", "dataset_dir")
        if getattr(options, name) is not None
    }
    data |= {"batch_size_eval": options.batch_size_eval, "num_workers": options.num_workers}
    cfg = replace(cfg, data=replace(cfg.data, **data, mscoco_online_test=options.mscoco_online_test))
    if options.preset is not None:
        cfg = replace(cfg, quirks=QuirksConfig.of(options.preset))
    return replace(cfg, run=replace(cfg.run, fake_data=options.fake_data))


def _run_of(place: Path) -> Path:
    """The run's folder that a file or a model folder lies in."""
    return place.parent


def _round_to_half(captioner: Captioner, place: Path) -> None:
    """Round the weights to half precision and keep a file of them, sparse ones as such.

    Computing stays in single precision.
    """
    state = {
        name: value.half() if value.is_floating_point() else value
        for name, value in read_weights(place).items()
    }
    target = place.with_name(f"{place.stem}_float16.pth")
    dist.on_main(lambda: original.write_state(target, state))
    captioner.model.load_original(state, str(target))


def _print(title: str, scores: dict[str, float], target: Path) -> None:
    columns = [name.partition("/")[2] for name in scores]
    if scores:
        result_table(title, columns, [list(scores.values())]).print()
    print(f"captions and scores: {target}")


@entry
def main(argv: Sequence[str] | None = None) -> None:
    """Run ``test``."""
    options = parse_test(argv)
    if options.dry_run:
        print(options)
        return
    test(options)


if __name__ == "__main__":
    main()
