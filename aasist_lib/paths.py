"""Where the project is."""

from pathlib import Path

from aasist_lib.errors import UserError


def root() -> Path:
    """Top folder of the project: the nearest one, here or above, that holds `dvc.yaml`.

    Stages run in it and JupyterLab runs notebooks in `notebooks/`; paths that start from `root()` work in both,
    and in the copies that `dvc exp run --temp` makes.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    UserError
        When no folder from the working directory upwards holds `dvc.yaml`.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "dvc.yaml").is_file():
            return folder
    raise UserError(f"no dvc.yaml in {here} or above it: change into the project's folder first")
