"""Runs a stage's notebook: injects settings, executes it, and reports errors in readable form."""

import ast
import json
import os
import re
import signal
import sys
import time
from pathlib import Path

from ruamel.yaml import YAML

from aasist_lib import params
from aasist_lib.base import paths, progress
from aasist_lib.base.errors import UserError

SOURCES, EXECUTED, UNFINISHED = Path("build/nb"), Path("runs"), Path("runs/.failed")

# Else these tools write to the home directory. The Makefile sets the same.
KEPT_INSIDE = {
    "JUPYTER_CONFIG_DIR": ".cache/jupyter/config",
    "JUPYTER_DATA_DIR": ".cache/jupyter/data",
    "JUPYTER_RUNTIME_DIR": ".cache/jupyter/runtime",
    "IPYTHONDIR": ".cache/ipython",
    "MPLCONFIGDIR": ".cache/matplotlib",
    "NUMBA_CACHE_DIR": ".cache/numba",
    "DVC_SITE_CACHE_DIR": ".cache/dvc",
}


def run(stage: str) -> int:
    """Execute `build/nb/<stage>.ipynb` into `runs/<stage>.ipynb`.

    Settings are injected after the cell tagged `parameters`. An unfinished or failed notebook is in `runs/.failed/`, so
    that `runs/` holds finished ones only.

    Parameters
    ----------
    stage
        Name of the notebook, such as `20_train`.

    Returns
    -------
    status
        Exit status: 0, or 1 if a cell failed.

    Raises
    ------
    UserError
        params.yaml is not valid, the notebook does not exist, its parameters cell is not understood, or another process
        runs it.
    KeyboardInterrupt
        Ctrl-C or SIGTERM; the kernel has ended.
    """
    root = paths.root()
    os.chdir(root)
    source = SOURCES / f"{stage}.ipynb"
    if not source.is_file():
        there = ", ".join(sorted(path.stem for path in SOURCES.glob("*.ipynb"))) or "none: run `dvc repro sources`"
        raise UserError(f"there is no {source}; there are: {there}")
    settings = params.load()
    values = injected(source, settings)
    os.environ.update(environment(root, settings["threads"]))
    signal.signal(signal.SIGTERM, signal.default_int_handler)

    # imported late, so that a mistake in params.yaml is reported at once
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.engines import papermill_engines

    from aasist_lib.pipeline.engine import Engine
    from aasist_lib.pipeline.kernel import OwnKernel

    # no entry point: papermill would load the engine while the engine's module still imports papermill
    papermill_engines.register("aasist", Engine)
    unfinished, executed = UNFINISHED / source.name, EXECUTED / source.name
    unfinished.parent.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    try:
        with paths.alone(unfinished.with_suffix(".lock")):
            print(f"{stage}: started", flush=True)
            papermill.execute_notebook(
                source, unfinished, values, engine_name="aasist", kernel_name="python3", progress_bar=False,
                kernel_manager_class=OwnKernel,
            )  # fmt: skip
    except papermill.PapermillExecutionError as error:
        trace = "\n".join(error.traceback) or f"{error.ename}: {error.evalue}"
        print(_plain(trace), file=sys.stderr)
        return _failed(stage, _where(unfinished), unfinished, start)
    except DeadKernelError:
        where = f"{_where(unfinished)}, where its process died (out of memory?),"
        return _failed(stage, where, unfinished, start)
    except KeyboardInterrupt:
        took = f"{time.monotonic() - start:.0f} s"
        print(f"\n{stage}: stopped after {took}; the same command runs it again", file=sys.stderr, flush=True)
        raise
    os.replace(unfinished, executed)
    print(f"{stage}: done in {time.monotonic() - start:.0f} s: {executed}", flush=True)
    return 0


def injected(notebook: Path, settings: dict) -> dict:
    """Settings to inject: of the sections that the notebook reads, the keys that dvc.yaml names for its stage."""
    # other settings, such as the number of processes, would change the notebook's bytes but no result
    stages = YAML(typ="safe").load(paths.root() / "dvc.yaml")["stages"].values()
    ours = [stage for stage in stages if str(stage.get("cmd")).endswith(f" run {notebook.stem}")]
    named = [key for stage in ours for key in stage.get("params", [])]
    chosen = {}
    for section in sections(notebook):
        value = settings[section]
        if section in named:
            chosen[section] = value
        elif isinstance(value, dict) and (part := {key: value[key] for key in value if f"{section}.{key}" in named}):
            chosen[section] = part
    return chosen


def sections(notebook: Path) -> list[str]:
    """Sections of params.yaml that a notebook reads in its cell tagged `parameters`; UserError for other code there."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    tagged = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    if len(tagged) > 1:
        raise UserError(f"{notebook}: more than one cell is tagged `parameters`")
    lines = ast.parse("".join(tagged[0]["source"])).body if tagged else []
    names = []
    for line in lines:
        if isinstance(line, ast.Import | ast.ImportFrom):
            continue
        name = _section(line)
        if name not in params.Params.model_fields:
            raise UserError(
                f"{notebook}: `{ast.unparse(line)}` in the parameters cell: each line must be like "
                '`train = params.read("train")`, with the name of a section of params.yaml'
            )
        names.append(name)
    return names


def _section(line: ast.stmt) -> str | None:
    match line:
        case ast.Assign(
            targets=[ast.Name(id=name)],
            value=ast.Call(
                func=ast.Attribute(value=ast.Name(id="params"), attr="read"), args=[ast.Constant(value=section)]
            ),
        ) if name == section:
            return name
    return None


def environment(root: Path, threads: int) -> dict[str, str]:
    """Environment variables of a stage: pinned for reproducibility, with nothing written to the home directory."""
    # PYTHONPATH: `dvc exp run --temp` works in a copy of the project, which must import its own package
    pools = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    above = os.environ.get("PYTHONPATH")
    return {
        "PYTHONPATH": os.pathsep.join([str(root), *([above] if above else [])]),
        "PYTHONHASHSEED": "0",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        **{pool: str(threads) for pool in pools},
        "OPENBLAS_NUM_THREADS": "1",  # it uses at most one thread per core, and results depend on the number
        **cache_environment(root),
        "AASIST_TERMINAL": os.ttyname(2) if os.isatty(2) else progress.LOG,
    }


def cache_environment(root: Path) -> dict[str, str]:
    """Create cache folders in the project (unless the user has set others); return them by environment variable."""
    folders = {name: os.environ.get(name, str(root / folder)) for name, folder in KEPT_INSIDE.items()}
    for folder in folders.values():
        Path(folder).mkdir(parents=True, exist_ok=True)
    return folders


def _failed(stage: str, where: str, unfinished: Path, start: float) -> int:
    print(
        f"{stage}: failed {where} after {time.monotonic() - start:.0f} s; the notebook up to there: {unfinished}\n"
        f"{stage}: undo the change and `dvc repro` brings back the results of the last good run\n"
        f"{stage}: or, those of the last commit: git checkout -- dvc.lock metrics && dvc checkout --force",
        file=sys.stderr,
        flush=True,
    )
    return 1


def _where(unfinished: Path) -> str:
    """The last cell that ran, with JupyterLab's number and its first line."""
    cells = json.loads(unfinished.read_text(encoding="utf-8"))["cells"]
    ran = [cell for cell in cells if cell["metadata"].get("papermill", {}).get("start_time")]
    if not ran:
        return "before its first cell"
    number, first = ran[-1]["execution_count"], "".join(ran[-1]["source"]).strip().partition("\n")[0]
    return f"in cell {'' if number is None else f'[{number}] '}`{first[:80]}`"


def _plain(text: str) -> str:
    """Remove colours unless a terminal shows them."""
    return text if sys.stderr.isatty() else re.sub(r"\x1b\[[0-9;]*m", "", text)
