"""What stages depend on: notebooks without outputs, and a hash of the code below each, docstrings aside."""

import hashlib
import json
from pathlib import Path

from aasist_lib.base import files, provenance
from aasist_lib.base.errors import UserError

KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
ENGINE = "aasist_lib.pipeline.engine"  # runs every notebook
PROGRAMS = {  # stages that are no notebooks
    "corpus": ("aasist_lib.corpus.build", "aasist_lib.corpus.programs"),
    "report": ("aasist_lib.pipeline.report",),
}


def strip(text: str) -> str:
    """A notebook without outputs, counters, and metadata other than tags; cell ids stay.

    Parameters
    ----------
    text : str
        A notebook of format 4.5, as JSON.

    Returns
    -------
    str
        The same notebook in the layout JupyterLab saves, so that stripping what it saved gives back the same bytes.
    """
    notebook = json.loads(text)
    notebook["metadata"] = {"kernelspec": KERNEL}
    for cell in notebook["cells"]:
        cell["source"] = "".join(cell["source"]).splitlines(keepends=True)
        cell["metadata"] = {key: value for key, value in cell["metadata"].items() if key == "tags" and value}
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
    return json.dumps(notebook, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def copy_stripped(source: Path, target: Path) -> list[Path]:
    """Writes stripped copies of the notebooks of one folder to another, which may be the same.

    Parameters
    ----------
    source, target : pathlib.Path
        Folders; files whose stripped text would not differ are left alone.

    Returns
    -------
    list of pathlib.Path
        What was written.

    Raises
    ------
    UserError
        A file is no notebook.
    """
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
    """Writes for each stage which modules of the library it needs, with a hash of what each does.

    Parameters
    ----------
    notebooks : pathlib.Path
        Their folder; each is a stage, as are `PROGRAMS`.
    target : pathlib.Path
        Folder for a file `<stage>.json` each.

    Raises
    ------
    UserError
        A module is missing, or no Python.
    """
    code = dict(PROGRAMS)
    for path in notebooks.glob("*.ipynb"):
        cells = json.loads(path.read_text("utf-8"))["cells"]
        code[path.stem] = (ENGINE, *("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"))
    pins = hashlib.sha256((provenance.LIBRARY / "pins.env").read_bytes()).hexdigest()  # which kernels compute
    for stage, sources in code.items():
        try:
            modules = provenance.code_of(*sources) | {"pins.env": pins}
        except (OSError, SyntaxError) as error:
            raise UserError(f"{stage}: the code that it needs cannot be read: {error}") from None
        files.write_json(target / f"{stage}.json", modules)
