"""Notebooks without what running them leaves behind, so that running one by hand makes no stage stale."""

import json
import os
from pathlib import Path

from aasist_lib.errors import UserError

KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}


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
    target.mkdir(parents=True, exist_ok=True)
    written = []
    for path in sorted(source.glob("*.ipynb")):
        copy = target / path.name
        try:
            stripped = strip(path.read_text(encoding="utf-8"))
        except (ValueError, KeyError) as error:
            raise UserError(f"{path} is no notebook ({error!r}): is a merge unfinished, or was it cut off?") from None
        if copy.is_file() and copy.read_text(encoding="utf-8") == stripped:
            continue
        beside = copy.with_suffix(".partial")
        beside.write_text(stripped, encoding="utf-8")
        os.replace(beside, copy)
        written.append(copy)
    return written
