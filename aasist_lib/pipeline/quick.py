"""The whole pipeline on the tiny corpus, in a folder of its own: a first look, and what tests run."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from ruamel.yaml import YAML

from aasist_lib import params
from aasist_lib.base.errors import UserError
from aasist_lib.pipeline.run import kept_inside

# the folder's own results and state, which a fresh copy of the project must not overwrite
OWN = ("dvc.lock", "data.dvc", "metrics/", "reports/")
DATA = "deps:\n- path: corpus\n  hash: md5\nouts:\n- path: data\n  hash: md5\n"  # corpus/ becomes data/


def quick(root: Path, folder: Path) -> int:
    """Copies the checkout, sets what `experiments/tiny.yaml` says, and runs `dvc repro` there.

    A second time it brings the copy up to date and runs what has changed. The checkout's own results stay as they are.

    Parameters
    ----------
    root : pathlib.Path
        Top folder of the project; a git repository.
    folder : pathlib.Path
        Where the copy goes; made if it does not exist.

    Returns
    -------
    int
        Exit status of `dvc repro`.

    Raises
    ------
    UserError
        As `copy`.
    """
    folder = root / folder
    copy(root, folder)
    beside = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # stages call `python`
    downloads = os.environ.get("AASIST_DOWNLOADS", str(root / ".cache/downloads"))
    environment = os.environ | kept_inside(root) | {"PATH": beside, "AASIST_DOWNLOADS": downloads}
    status = subprocess.call([sys.executable, "-m", "dvc", "repro"], cwd=folder, env=environment)
    if status == 0:
        print(f"\nThe report of the tiny corpus (its numbers mean nothing): {folder / 'reports/index.html'}")
    return status


def copy(root: Path, folder: Path) -> None:
    """Brings a copy of the project up to date: a DVC repository without git, set as `experiments/tiny.yaml` says.

    Parameters
    ----------
    root, folder : pathlib.Path
        As for `quick`; `folder` from where the process works.

    Raises
    ------
    UserError
        When `root` is not a git repository, or `folder` holds something else, of which `root` may be a part.
    """
    manifest = folder / ".dvc" / "tmp" / "copied"
    around = root.resolve().is_relative_to(folder.resolve())
    if around or folder.exists() and any(folder.iterdir()) and not manifest.is_file():
        raise UserError(f"{folder} is not empty and no earlier quick run: name another folder")
    # what git tracks, and what is new and not ignored
    listed = subprocess.run(["git", "ls-files", "-coz", "--exclude-standard"], cwd=root, capture_output=True, text=True)
    if listed.returncode:
        raise UserError(f"{root} must be a git repository, since git knows which files belong to the project")
    names = {
        name for name in listed.stdout.split("\0") if name and not name.startswith(OWN) and (root / name).is_file()
    }
    before = set(manifest.read_text(encoding="utf-8").splitlines()) if manifest.is_file() else set()
    for name in before - names:
        (folder / name).unlink(missing_ok=True)
    manifest.parent.mkdir(parents=True, exist_ok=True)
    manifest.write_text("".join(f"{name}\n" for name in sorted(names)), encoding="utf-8")
    for name in sorted(names):
        target = folder / name
        if not target.is_file() or target.read_bytes() != (root / name).read_bytes():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, target)
    (folder / "metrics").mkdir(exist_ok=True)  # stages write into it, and all that git has there stayed behind
    (folder / ".dvc/config.local").write_text("[core]\n    no_scm = true\n", encoding="utf-8")
    if not (folder / "data.dvc").exists():
        (folder / "data.dvc").write_text(DATA, encoding="utf-8")
    set_tiny(folder)


def set_tiny(folder: Path) -> None:
    """Sets in a project's params.yaml what its `experiments/tiny.yaml` says; comments stay.

    Parameters
    ----------
    folder : pathlib.Path
        The project's.

    Raises
    ------
    UserError
        When the settings are not valid then.
    """
    yaml = YAML()
    yaml.width = 1000  # lines stay as long as they are
    settings = yaml.load(folder / "params.yaml")
    for section, values in YAML(typ="safe").load(folder / "experiments/tiny.yaml").items():
        settings[section].update(values)
    with open(folder / "params.yaml", "w", encoding="utf-8") as file:
        yaml.dump(settings, file)
    params.load(folder / "params.yaml")
