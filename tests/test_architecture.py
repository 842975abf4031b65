"""The rooms of the library and the floors they stand on.

| what | test |
|---|---|
| no room imports from its own floor or from above; the core does without the rest | test_floors |
| at most 25 rooms | test_rooms |
| no module imports a private name of another | test_private_names |
"""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_floors():
    linter = shutil.which("lint-imports", path=Path(sys.executable).parent)
    done = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_rooms():
    rooms = [
        path for path in (ROOT / "aasist_lib").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    ]
    assert len(rooms) <= 25


def test_private_names():
    for path in (ROOT / "aasist_lib").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("aasist_lib"):
                private = [alias.name for alias in node.names if alias.name.startswith("_")]
                assert not private, f"{path} imports {private} of {node.module}"
