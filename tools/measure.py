"""Run what a project's `measured.yaml` lists, keep what came out in `results/`, fill the README's tables.

    measure.py P                  run every measurement of projects/P (or of packages/core, as prunelab)
    measure.py P --only NAME ...  run these alone
    measure.py P --tables         run nothing, fill the tables from results/
    measure.py --check            write nothing, fail where a README differs from its results

`measured.yaml` looks like this. Words in braces are replaced in commands and paths: `{out}` is the
measurement's own new folder, `{runs}` the folder of all of them, `{data}` the folder PRUNELAB_DATA::

    measurements:
      - name: dense                     # results/dense.json
        commands:
          - python -m smp_caption.train --preset fixed --seed 1 --output {out}
        preset: fixed
        seed: 1
        data: flickr1k                  # below PRUNELAB_DATA; leave it out for embedded data
        labels: {model: dense}          # plain columns of a table
        figures: {CIDEr: "{out}/test.json:CIDEr"}
        # FILE:KEY, also KEY.KEY and KEY.0; of a .jsonl file the last line that has the key. Or, instead of
        # figures, `rows: FILE` (or FILE:KEY): a JSON list of mappings, one a row of the table.
    tables:
      - name: measured                  # between <!-- measured:begin measured --> and its end
        from: [dense]
        columns: [{title: model, key: model}, {title: CIDEr, key: CIDEr, format: .3f}]
        # format: as Python writes numbers, or `bytes` for a size such as 1.55 MB

A measurement that has not run has no row: a number that was not run is not printed.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from prunelab.doors import read_yaml
from prunelab.errors import UserError, entry
from prunelab.util import human_bytes, read_json, write_json

ROOT = Path(__file__).resolve().parents[1]
MEASUREMENT_KEYS = {"name", "commands", "preset", "seed", "data", "labels", "figures", "rows"}
PACKAGES = ("torch", "torchvision", "numpy")
NOT_WHAT_IT_WRITES = (":/", ":!*/results/*", ":!*/README.md")
"""Paths whose changes count as uncommitted: all but those that measuring itself changes."""


def folder_of(name: str) -> Path:
    """The member's folder: a project, or the core as ``prunelab``.

    Raises:
        UserError: there is no such member, or it lists nothing to measure.
    """
    folder = ROOT / "packages" / "core" if name == "prunelab" else ROOT / "projects" / name
    if not (folder / "measured.yaml").is_file():
        known = ", ".join(p.parent.name for p in sorted(ROOT.glob("p*/*/measured.yaml")))
        raise UserError(f"{name!r} has no measured.yaml: expected one of {known}")
    return folder


def _member_name(folder: Path) -> str:
    return "prunelab" if folder.name == "core" else folder.name


def read_plan(folder: Path) -> dict[str, Any]:
    """Read ``measured.yaml`` and check its words.

    Raises:
        UserError: an unknown or missing key, a name twice, a table from a measurement that is not listed.
    """
    path = folder / "measured.yaml"
    plan = read_yaml(path) or {}
    plan = {"measurements": plan.get("measurements") or [], "tables": plan.get("tables") or []}
    names = [m.get("name") for m in plan["measurements"]]
    for measurement in plan["measurements"]:
        where = f"{path}: measurement {measurement.get('name')!r}"
        if unknown := measurement.keys() - MEASUREMENT_KEYS:
            raise UserError(f"{where}: unknown key {sorted(unknown)}, expected {sorted(MEASUREMENT_KEYS)}")
        if missing := {"name", "commands", "preset", "seed"} - measurement.keys():
            raise UserError(f"{where}: {sorted(missing)} must be given")
        if ("rows" in measurement) == ("figures" in measurement):
            raise UserError(f"{where}: expected either 'figures' or 'rows'")
    if len(set(names)) != len(names):
        raise UserError(f"{path}: a measurement's name is there twice among {names}")
    for table in plan["tables"]:
        if unknown := set(table["from"]) - set(names):
            raise UserError(
                f"{path}: table {table['name']!r} asks for {sorted(unknown)}, which is not listed"
            )
    return plan


# --- running ---


def run_measurement(folder: Path, measurement: Mapping[str, Any], *, again: bool) -> Path:
    """Run the commands of one measurement in the member's folder; returns the path of the result it wrote.

    Raises:
        UserError: an earlier run is there, data is missing, a command failed, or a figure is missing.
    """
    name = measurement["name"]
    runs = Path(os.environ.get("PRUNELAB_RUNS") or ROOT / "runs") / "measured" / _member_name(folder)
    out = runs / name
    if out.exists():
        if not again:
            raise UserError(
                f"{out} holds an earlier run: name another with --only, or replace it with --again"
            )
        shutil.rmtree(out)
    runs.mkdir(parents=True, exist_ok=True)
    words = {"{out}": str(out), "{runs}": str(runs), "{data}": _data_folder(measurement)}
    began = time.perf_counter()
    for command in measurement["commands"]:
        _run_command(folder, command, words)
    result = {
        "name": name,
        "commands": measurement["commands"],
        "preset": measurement["preset"],
        "seed": measurement["seed"],
        "data": measurement.get("data", "embedded"),
        "seconds": round(time.perf_counter() - began, 1),
        "commit": _git("rev-parse", "--short=10", "HEAD"),
        "uncommitted_changes": bool(
            _git("status", "--porcelain", "--untracked-files=no", "--", *NOT_WHAT_IT_WRITES)
        ),
        "machine": machine(),
        "versions": {p: metadata.version(p) for p in PACKAGES},
    }
    if "rows" in measurement:
        where = _replace(measurement["rows"], words)
        result["rows"] = read_json(Path(where)) if where.endswith(".json") else read_figure(where)
    else:
        figures = measurement["figures"].items()
        result["figures"] = {key: read_figure(_replace(where, words)) for key, where in figures}
    path = folder / "results" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    write_json(path, result)
    return path


def read_figure(where: str) -> Any:
    """Read one value from ``FILE:KEY``; ``KEY.KEY`` and ``KEY.0`` go into mappings and lists.

    Raises:
        UserError: the file or the key is not there.
    """
    name, _, key = where.rpartition(":")
    path = Path(name)
    if not path.is_file():
        raise UserError(f"{path}: no such file, expected one that holds {key!r}")
    if path.suffix == ".jsonl":
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        documents = [line for line in reversed(lines) if key in line]
    else:
        documents = [read_json(path)]
    value: Any = documents[0] if documents else {}
    for part in [key] if isinstance(value, dict) and key in value else key.split("."):
        try:
            value = value[int(part)] if isinstance(value, list) else value[part]
        except (KeyError, IndexError, ValueError, TypeError):
            raise UserError(f"{path}: no value {key!r}") from None
    return value


def machine() -> str:
    """The class of this machine in words: cores, processor, memory, accelerator."""
    model = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        "unnamed processor",
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = round(psutil.virtual_memory().total / 2**30)
    import torch

    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ", no GPU"
    return f"{cores} cores of {model}, {memory} GiB{gpu}"


def _lines(path: str) -> list[str]:
    file = Path(path)
    return file.read_text(encoding="utf-8").splitlines() if file.is_file() else []


def _data_folder(measurement: Mapping[str, Any]) -> str:
    root = os.environ.get("PRUNELAB_DATA", "")
    needed = measurement.get("data", "embedded")
    if needed != "embedded" and not (root and (Path(root) / needed).is_dir()):
        name = measurement["name"]
        raise UserError(
            f"{name!r} needs the data set {needed!r}: set PRUNELAB_DATA to the folder that holds it"
        )
    return root


def _run_command(folder: Path, command: str, words: Mapping[str, str]) -> None:
    arguments = shlex.split(_replace(command, words))
    if arguments[0] == "python":
        arguments[0] = sys.executable
    print(f"$ {command}", flush=True)
    ended = subprocess.run(arguments, cwd=folder, check=False)
    if ended.returncode:
        raise UserError(
            f"{command!r} ended with code {ended.returncode}: nothing is kept of this measurement"
        )


def _replace(text: str, words: Mapping[str, str]) -> str:
    for word, value in words.items():
        text = text.replace(word, value)
    return text


def _git(*arguments: str) -> str:
    ended = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return ended.stdout.strip()


# --- tables ---


def filled(folder: Path, text: str) -> str:
    """The README's text with every table between markers made anew from ``results/``.

    Raises:
        UserError: a table has no markers, or a result came from other commands than ``measured.yaml`` lists.
    """
    plan = read_plan(folder)
    commands = {m["name"]: m["commands"] for m in plan["measurements"]}
    for table in plan["tables"]:
        begin, end = (f"<!-- measured:{side} {table['name']} -->" for side in ("begin", "end"))
        if text.count(begin) != 1 or text.count(end) != 1 or text.index(end) < text.index(begin):
            raise UserError(f"{folder / 'README.md'}: expected {begin} and {end} once each, in this order")
        results = []
        for name in table["from"]:
            path = folder / "results" / f"{name}.json"
            if not path.is_file():
                continue
            results.append(read_json(path))
            if results[-1]["commands"] != commands[name]:
                raise UserError(f"{path}: came from other commands than measured.yaml lists; run it again")
        head, rest = text.split(begin)
        tail = rest.split(end)[1]
        text = f"{head}{begin}\n{_table(plan, table, results)}\n{end}{tail}"
    return text


def _table(plan: Mapping[str, Any], table: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> str:
    if not results:
        return "Not measured yet."
    labels = {m["name"]: m.get("labels", {}) for m in plan["measurements"]}
    columns = table["columns"]
    lines = [
        "| " + " | ".join(c["title"] for c in columns) + " |",
        "|" + "|".join("---:" if "format" in c else "---" for c in columns) + "|",
    ]
    for result in results:
        for row in result.get("rows") or [result["figures"]]:
            values = {**labels[result["name"]], **row, "seconds": result["seconds"]}
            lines.append("| " + " | ".join(_cell(values.get(c["key"]), c) for c in columns) + " |")
    notes = [
        f"- `{r['name']}`: {r['data']} data, preset {r['preset']}, seed {r['seed']}, {r['seconds']:.0f} s, "
        f"commit {r['commit']}{' with uncommitted changes' if r['uncommitted_changes'] else ''}."
        for r in results
    ]
    machines = sorted({f"{r['machine']}; torch {r['versions']['torch']}" for r in results})
    return "\n".join([*lines, "", f"Measured on {'; '.join(machines)}.", "", *notes])


def _cell(value: Any, column: Mapping[str, Any]) -> str:
    if value is None:
        return "–"
    match column.get("format"):
        case None:
            return str(value).replace("|", "\\|")
        case "bytes":
            return human_bytes(value)
        case how:
            return format(value, how)


def fill(folder: Path) -> bool:
    """Fill the tables of the member's README; True where the text changed."""
    readme = folder / "README.md"
    before = readme.read_text(encoding="utf-8")
    after = filled(folder, before)
    if after != before:
        readme.write_text(after, encoding="utf-8")
    return after != before


def stale_tables() -> list[str]:
    """One line for each README whose tables differ from its results."""
    found = []
    for path in sorted(ROOT.glob("p*/*/measured.yaml")):
        folder = path.parent
        text = (folder / "README.md").read_text(encoding="utf-8")
        try:
            if filled(folder, text) != text:
                found.append(
                    f"{folder / 'README.md'}: tables differ from results/: measure.py {folder.name} --tables"
                )
        except UserError as error:
            found.append(str(error))
    return found


@entry
def main(argv: Sequence[str] | None = None) -> None:
    """Measure, fill, or check."""
    parser = argparse.ArgumentParser(prog="measure.py", description="Measure what measured.yaml lists.")
    parser.add_argument("member", nargs="?", help="a project, or prunelab for the core")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="run these measurements alone")
    parser.add_argument("--again", action="store_true", help="replace the folder of an earlier run")
    parser.add_argument("--tables", action="store_true", help="run nothing, fill the tables from results/")
    parser.add_argument(
        "--check", action="store_true", help="run and write nothing, say which tables are stale"
    )
    options = parser.parse_args(argv)
    if options.check:
        if stale := stale_tables():
            raise UserError("; ".join(stale))
        print("every table agrees with its results")
        return
    if not options.member:
        raise UserError("which member is to be measured? expected a project, or prunelab")
    folder = folder_of(options.member)
    plan = read_plan(folder)
    names = [m["name"] for m in plan["measurements"]]
    if unknown := set(options.only or ()) - set(names):
        raise UserError(f"--only {' '.join(sorted(unknown))}: expected some of {', '.join(names)}")
    if not options.tables:
        for measurement in plan["measurements"]:
            if not options.only or measurement["name"] in options.only:
                print(f"kept {run_measurement(folder, measurement, again=options.again)}")
    print("README filled" if fill(folder) else "README was up to date")


if __name__ == "__main__":
    main()
