"""What stands around a run's steps: evaluations, model folders, the original's files, the last table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from apt_vit import messages
from apt_vit.classifier import Classifier
from apt_vit.data import Batch
from apt_vit.evaluate import Answer, Evaluator, Scores, summarise
from apt_vit.files import original
from apt_vit.files.loading import find_model
from apt_vit.job import STREAMS, Job
from apt_vit.layout import checkpoint_file, output_folder
from apt_vit.lowering import notes
from apt_vit.summary import summarise_models
from prunelab import dist
from prunelab.run import Run


def begin(run: Run, job: Job) -> None:
    """Before the first step: say what is trained, and what the original says."""
    cfg, loaded = job.cfg, job.loaded
    for line in [*notes(cfg), *([] if run.resumed else [job.data.how, *loaded.notes])]:
        if line:
            run.say(line)
    if job.told is None:
        return
    messages.process(cfg, run.device)
    messages.resized(loaded.logged, loaded.printed)
    messages.model(cfg, sum(p.numel() for p in job.model.parameters()))
    messages.begin(cfg)


def validate(run: Run, job: Job) -> bool:
    """Evaluate every stream; under ``faithful`` say and write what the original does. Collective.

    Returns:
        Whether the network is the best so far: by its pruned accuracy, or the plain one where nothing prunes.
    """
    found: dict[str, float] = {}
    for stream in job.streams:
        with run.evaluating(job.model):
            scores = evaluate_stream(job, stream)
        if job.told is not None:
            messages.results(scores, STREAMS[stream], run.updates)
            job.told.evaluated(stream, scores.accuracy, run.updates)
            # The original's best accuracy begins at 0, and only what is better is kept.
            if run.is_best(f"stream {STREAMS[stream]}", scores.accuracy, scores.accuracy > 0):
                write_original(job, run, stream)
        found |= figures_of(stream, scores, job)
    told = [name for name in found if name.endswith(("accuracy", "loss", "macs"))]
    run.report(found.items(), tell=told)
    return run.is_best("accuracy", found[f"{job.streams[-1]}/accuracy"])


def evaluate_stream(job: Job, stream: str) -> Scores:
    """Evaluate on the pictures that choose the best network."""
    cfg = job.cfg
    mode = "plain" if stream == "plain" else "masked" if cfg.run.preset == "faithful" else "dropped"
    evaluator = Evaluator(job.model, job.rule, mode, amp=cfg.run.amp, channels_last=cfg.run.channels_last)
    batches: Iterable[Batch] = job.validation
    answers = evaluator.answers(batches)
    if job.told is not None:
        size = cfg.data.eval_batch_size
        messages.validation(-(-job.data.sizes["val"] // size), size)
        answers = _shown(answers, job.told.text)
    return summarise(evaluator, answers, cfg.quirks)


def _shown(answers: Iterable[Answer], text: messages.ProgressText) -> Iterator[Answer]:
    text.validating()
    for answer in answers:
        text.validating(float(answer.loss))
        yield answer


def figures_of(stream: str, scores: Scores, job: Job) -> dict[str, float]:
    """Figures of an evaluation, by the names under which they are logged."""
    found = {"accuracy": scores.accuracy, "loss": scores.loss, "macs": scores.macs}
    if stream != "plain":
        found |= {f"tokens_{layer}": n for layer, n in zip(job.model.agents, scores.tokens, strict=True)}
    return {f"{stream}/{name}": value for name, value in found.items()}


def classifier(job: Job, run: Run) -> Classifier:
    """The network as it is now, with all that a picture needs to get its class."""
    return Classifier(
        model=job.model,
        preprocess=job.data.preprocess,
        class_names=job.data.class_names,
        rule=job.rule,
        dataset=job.cfg.data.dataset,
        notes={"updates": run.updates, "preset": job.cfg.run.preset},
    )


def write_original(job: Job, run: Run, stream: str) -> None:
    """Write the original's checkpoint of a stream, and say so."""
    cfg = job.cfg
    state, facts = job.model.state_dict(), classifier(job, run).facts()
    dist.on_main(lambda: original.write(checkpoint_file(cfg, STREAMS[stream]), state, facts))
    messages.saved(output_folder(cfg))


def save(run: Run, job: Job, *, best: bool) -> None:
    """Write a checkpoint and the model folders ``last/`` and, for the best network, ``best/``."""

    def write(spot: Path) -> None:
        classifier(job, run).save_pretrained(spot)

    run.save(best=best, model_folder=write)


def end(run: Run, job: Job) -> None:
    """After the last step: the original's last words, else the table of the best network. Collective."""
    if job.told is not None:
        best = [run.best.get(f"stream {number}", {"value": 0.0})["value"] for number in STREAMS.values()]
        messages.end(*best)
        return
    place = find_model(run.cfg.dir)
    quiet = run.cfg.quiet or job.cfg.run.tour  # a tour prints the table with its own words
    summarise_models(place, job.cfg, job.data, device=run.device, folder=run.cfg.dir, quiet=quiet)
