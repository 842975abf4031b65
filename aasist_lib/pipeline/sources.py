"""Dependencies of stages: notebooks without outputs, and hashes of the code that each needs, without docstrings."""

import hashlib
import json
from pathlib import Path

from aasist_lib.base import files, provenance
from aasist_lib.base.errors import UserError

KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
ENGINE = "aasist_lib.pipeline.engine"  # runs every notebook
PROGRAMS = {  # stages without a notebook
    "corpus": ("aasist_lib.corpus.build", "aasist_lib.corpus.programs"),
    "report": ("aasist_lib.pipeline.report",),
}


def strip(text: str) -> str:
    """Remove outputs, counters and metadata (but tags and cell ids) of a notebook, in JupyterLab's JSON layout."""
    notebook = json.loads(text)
    notebook["metadata"] = {"kernelspec": KERNEL}
    for cell in notebook["cells"]:
        cell["source"] = "".join(cell["source"]).splitlines(keepends=True)
        cell["metadata"] = {key: value for key, value in cell["metadata"].items() if key == "tags" and value}
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
    return json.dumps(notebook, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def copy_stripped(source: Path, target: Path) -> list[Path]:
    """Write stripped notebooks from one folder to another (or the same); return those that changed."""
    written = []
    for path in sorted(source.glob("*.ipynb")):
        copy = target / path.name
        try:
            stripped = strip(path.read_text(encoding="utf-8"))
        except (ValueError, KeyError) as error:
            raise UserError(f"{path} is no notebook ({error!r}): is a merge unfinished, or was it cut off?") from None
        if copy.is_file() and copy.read_text(encoding="utf-8") == stripped:
            continue
        files.write(copy, stripped)
        written.append(copy)
    return written


def write_code(notebooks: Path, target: Path) -> None:
    """Write, for each stage, hashes of the library modules that it needs.

    Parameters
    ----------
    notebooks
        Folder of notebooks; each is a stage, as are `PROGRAMS`.
    target
        Folder of the files `<stage>.json`.

    Raises
    ------
    UserError
        A module is missing or not valid Python.
    """
    code = dict(PROGRAMS)
    for path in notebooks.glob("*.ipynb"):
        cells = json.loads(path.read_text("utf-8"))["cells"]
        code[path.stem] = (ENGINE, *("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"))
    pins = hashlib.sha256((provenance.LIBRARY / "pins.env").read_bytes()).hexdigest()  # decides which kernels compute
    for stage, sources in code.items():
        try:
            modules = provenance.code_of(*sources) | {"pins.env": pins}
        except (OSError, SyntaxError) as error:
            raise UserError(f"{stage}: the code that it needs cannot be read: {error}") from None
        files.write_json(target / f"{stage}.json", modules)
