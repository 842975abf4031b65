"""Runs a stage's notebook: settings in, executed notebook and files out, and a readable account of what went wrong."""

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

# What Jupyter, IPython, matplotlib, numba and DVC would else keep in the home directory. The Makefile says the same.
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
    """Executes `build/nb/<stage>.ipynb` into `runs/<stage>.ipynb`.

    The settings that `injected` names go into it, after its cell tagged `parameters`. The notebook is written to
    `runs/.failed/` while it runs and stays there when it fails, so that `runs/` holds finished ones only.

    Parameters
    ----------
    stage : str
        Name of the notebook, for example `20_train`.

    Returns
    -------
    int
        Exit status: 0, or 1 when a cell failed.

    Raises
    ------
    UserError
        When params.yaml is not valid, the notebook does not exist, its parameters cell is not understood, or another
        process runs it.
    KeyboardInterrupt
        When the person stops it, or SIGTERM does; the kernel is gone then.
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

    # imported late: a mistake in params.yaml is told at once
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.engines import papermill_engines

    from aasist_lib.pipeline.engine import Engine
    from aasist_lib.pipeline.kernel import OwnKernel

    # no entry point: papermill would load the engine while the engine's module is still importing papermill
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
    """Settings that an executed notebook has on record: of the sections that it reads, what dvc.yaml names.

    Those decide the stage's results. Another, like the number of processes, would make other bytes of the same results.

    Parameters
    ----------
    notebook : pathlib.Path
        `<stage>.ipynb`, run by the stage whose command ends with `run <stage>`.
    settings : dict
        All of params.yaml, by section.

    Returns
    -------
    dict
        By section: its value, or those of its keys that dvc.yaml names.

    Raises
    ------
    UserError
        As `sections`.
    """
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
    """Sections of params.yaml that a notebook reads, from its cell tagged `parameters`.

    Parameters
    ----------
    notebook : pathlib.Path

    Returns
    -------
    list of str

    Raises
    ------
    UserError
        When the cell holds anything but imports and lines like `train = params.read("train")`.

    Examples
    --------
    >>> _section(ast.parse('train = params.read("train")').body[0])
    'train'
    """
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
    """Environment variables of a stage.

    The package comes from the project that runs (`dvc exp run --temp` works in a copy), hashes and the number of
    threads are pinned because results depend on them, nothing is written to the home directory, and nothing is sent.

    Parameters
    ----------
    root : pathlib.Path
        Top folder of the project.
    threads : int
        For numerical libraries; torch's own number is set by the library from the same setting.

    Returns
    -------
    dict of str to str
    """
    pools = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    above = os.environ.get("PYTHONPATH")
    return {
        "PYTHONPATH": os.pathsep.join([str(root), *([above] if above else [])]),
        "PYTHONHASHSEED": "0",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        **{pool: str(threads) for pool in pools},
        "OPENBLAS_NUM_THREADS": "1",  # it takes no more than there are cores, and sums otherwise with others
        **kept_inside(root),
        "AASIST_TERMINAL": os.ttyname(2) if os.isatty(2) else progress.LOG,
    }


def kept_inside(root: Path) -> dict[str, str]:
    """Folders for what tools keep between runs, in the project unless somebody has chosen others.

    Parameters
    ----------
    root : pathlib.Path
        Top folder of the project.

    Returns
    -------
    dict of str to str
        By environment variable; the folders exist.
    """
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
    """The last cell that ran, as JupyterLab numbers it, and its first line."""
    cells = json.loads(unfinished.read_text(encoding="utf-8"))["cells"]
    ran = [cell for cell in cells if cell["metadata"].get("papermill", {}).get("start_time")]
    if not ran:
        return "before its first cell"
    number, first = ran[-1]["execution_count"], "".join(ran[-1]["source"]).strip().partition("\n")[0]
    return f"in cell {'' if number is None else f'[{number}] '}`{first[:80]}`"


def _plain(text: str) -> str:
    """Without colours, unless a terminal shows them."""
    return text if sys.stderr.isatty() else re.sub(r"\x1b\[[0-9;]*m", "", text)
