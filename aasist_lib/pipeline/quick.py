"""Runs the whole pipeline on the tiny corpus in a separate folder, for a first look and for tests."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from ruamel.yaml import YAML

from aasist_lib import params
from aasist_lib.base.errors import UserError
from aasist_lib.pipeline.run import cache_environment

# results and state of the copy, which an update must not overwrite
OWN = ("dvc.lock", "data.dvc", "metrics/", "reports/")
DATA = "deps:\n- path: corpus\n  hash: md5\nouts:\n- path: data\n  hash: md5\n"  # data/ is imported from corpus/


def quick(root: Path, folder: Path) -> int:
    """Copy the checkout, apply `experiments/tiny.yaml`, and run `dvc repro` there.

    A later run updates the copy and runs what has changed. Results of the checkout stay as they are.

    Parameters
    ----------
    root
        Top folder of the project, a git repository.
    folder
        Folder of the copy, relative to `root`; created if missing.

    Returns
    -------
    status
        Exit status of `dvc repro`.

    Raises
    ------
    UserError
        `root` is not a git repository, or `folder` holds something else or contains `root`.
    """
    folder = root / folder
    copy(root, folder)
    beside = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # stages call `python`
    downloads = os.environ.get("AASIST_DOWNLOADS", str(root / ".cache/downloads"))
    environment = os.environ | cache_environment(root) | {"PATH": beside, "AASIST_DOWNLOADS": downloads}
    status = subprocess.call([sys.executable, "-m", "dvc", "repro"], cwd=folder, env=environment)
    if status == 0:
        print(f"\nThe report of the tiny corpus (its numbers mean nothing): {folder / 'reports/index.html'}")
    return status


def copy(root: Path, folder: Path) -> None:
    """Update a copy of the project in `folder`: a DVC repository without git, with the settings of tiny.yaml."""
    manifest = folder / ".dvc" / "tmp" / "copied"
    around = root.resolve().is_relative_to(folder.resolve())
    if around or folder.exists() and any(folder.iterdir()) and not manifest.is_file():
        raise UserError(f"{folder} is not empty and no earlier quick run: name another folder")
    # tracked files, and new ones that are not ignored
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
    (folder / "metrics").mkdir(exist_ok=True)  # stages write into it, and it is not copied
    (folder / ".dvc/config.local").write_text("[core]\n    no_scm = true\n", encoding="utf-8")
    if not (folder / "data.dvc").exists():
        (folder / "data.dvc").write_text(DATA, encoding="utf-8")
    set_tiny(folder)


def set_tiny(folder: Path) -> None:
    """Write the settings of `experiments/tiny.yaml` into the project's params.yaml, keeping comments."""
    yaml = YAML()
    yaml.width = 1000  # do not rewrap long lines
    settings = yaml.load(folder / "params.yaml")
    for section, values in YAML(typ="safe").load(folder / "experiments/tiny.yaml").items():
        settings[section].update(values)
    with open(folder / "params.yaml", "w", encoding="utf-8") as file:
        yaml.dump(settings, file)
    params.load(folder / "params.yaml")
