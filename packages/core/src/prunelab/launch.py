"""The scripts that several projects declare: which project is meant?

Every project has a ``train``, a ``test`` and a ``demo``. In one environment the last one installed would win,
so each of these names points here in every project's ``[project.scripts]``::

    train = "prunelab.launch:train"

The name after the colon is the script's own name, with ``_`` for ``-`` (``data-generator`` points at
``prunelab.launch:data_generator``): any name works, so a project with a new script needs no change here. The
script then starts ``<distribution, - as _>.<script>:main`` of the project that is meant:

1. the one that the environment variable ``PRUNELAB_PROJECT`` names,
2. else the ``--package`` of the nearest ``uv run`` among the ancestors of this process,
3. else the one whose folder holds the working directory,
4. else the only one installed.

A project that is named but cannot be started is an error, never a reason to look further: a wrong guess would
train the wrong paper. Nothing is installed or written, so that starts in parallel cannot disturb each other.
"""

from __future__ import annotations

import functools
import importlib
import os
import re
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import metadata
from pathlib import Path, PurePath

import psutil

from prunelab.errors import EXIT_USER_ERROR, UserError

ENVIRONMENT_VARIABLE = "PRUNELAB_PROJECT"
_TARGET = "prunelab.launch:"


def __getattr__(name: str) -> Callable[[], None]:
    """Give the entry point of the script ``name``; any public name is one."""
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return functools.partial(start, name)


def start(script: str) -> None:
    """Run ``main()`` of ``script`` in the project that is meant; in doubt, one line and exit code 2."""
    try:
        project = which_project(script)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    module = importlib.import_module(f"{project.replace('-', '_')}.{script.replace('-', '_')}")
    module.main()


def which_project(script: str) -> str:
    """Find the project whose ``script`` the user means, by the order that the module's docstring gives.

    Returns:
        The normalised name of an installed distribution that declares ``script``.

    Raises:
        UserError: nothing says which project is meant, or what is named is not installed with this script.
    """
    installed = installed_projects(script)
    if not installed:
        raise UserError(
            f"no installed project declares the script {script!r}: install one with `uv sync --package NAME`"
        )
    if named := os.environ.get(ENVIRONMENT_VARIABLE):
        return _expect(named, script, installed, f"the environment variable {ENVIRONMENT_VARIABLE}")
    if named := package_of_uv_run(ancestor_commands(), script):
        return _expect(named, script, installed, "`uv run --package`")
    if named := project_of_folder(Path.cwd(), script):
        return _expect(named, script, installed, "the working directory")
    if len(installed) == 1:
        return installed[0]
    raise UserError(
        f"which {script!r} is meant? {', '.join(installed)} are installed: say "
        f"`uv run --package NAME {script}`, or set {ENVIRONMENT_VARIABLE}=NAME, "
        "or start it inside the project's folder"
    )


def installed_projects(script: str) -> list[str]:
    """The normalised names of the installed distributions whose ``script`` leads here, sorted."""
    points = metadata.entry_points(group="console_scripts")
    names = {p.dist.name for p in points if p.dist and _leads_here(script, p.name, p.value)}
    return sorted(map(_normalise, names))


def ancestor_commands() -> Iterator[list[str]]:
    """The command lines of this process's ancestors, the parent first, but for those that may not be read."""
    try:
        ancestors = psutil.Process().parents()
    except psutil.Error:
        return
    for process in ancestors:
        try:
            yield process.cmdline()
        except psutil.Error:
            continue


def package_of_uv_run(commands: Iterable[Sequence[str]], script: str) -> str | None:
    """The ``--package`` of the first ``uv run`` in ``commands``; None where it has none.

    A farther ``uv run`` does not count: the nearer one was started without ``--package`` on purpose, for
    example inside another project's folder.
    """
    for command in commands:
        if command and PurePath(command[0]).stem == "uv" and "run" in command:
            return _package_option(command[command.index("run") + 1 :], script)
    return None


def project_of_folder(folder: Path, script: str) -> str | None:
    """The project of the nearest ``pyproject.toml``, from ``folder`` upwards, that sends ``script`` here."""
    for candidate in (folder, *folder.parents):
        try:
            table = tomllib.loads((candidate / "pyproject.toml").read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
            continue
        project = table.get("project", {})
        scripts = project.get("scripts", {}).items()
        if "name" in project and any(_leads_here(script, name, str(value)) for name, value in scripts):
            return _normalise(project["name"])
    return None


def _package_option(arguments: Sequence[str], script: str) -> str | None:
    """Read ``--package`` among uv's own options, which end where the command begins.

    Without uv's list of the options that take a value, a word behind an option is taken for its value, unless
    it is the script itself; the next free word is the command, and what follows belongs to the command.
    """
    behind_option = False
    for position, argument in enumerate(arguments):
        if argument == "--":
            return None
        if argument == "--package":
            return next(iter(arguments[position + 1 :]), None)
        if argument.startswith("--package="):
            return argument.partition("=")[2]
        is_option = argument.startswith("-")
        if not is_option and (not behind_option or _same(PurePath(argument).stem, script)):
            return None
        behind_option = is_option and "=" not in argument
    return None


def _expect(named: str, script: str, installed: Sequence[str], source: str) -> str:
    name = _normalise(named)
    if name not in installed:
        raise UserError(
            f"{source} says {named!r}, which is not installed with a script {script!r}: expected one of "
            f"{', '.join(installed)} (`uv sync --package {name}` installs a project of this workspace)"
        )
    return name


def _leads_here(script: str, name: str, value: str) -> bool:
    """Whether an entry point is ``script`` and points at this module."""
    return _same(name, script) and value.startswith(_TARGET)


def _same(name: str, script: str) -> bool:
    """Whether two names of scripts are one, ``data-generator`` and ``data_generator``."""
    return _normalise(name) == _normalise(script)


def _normalise(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
