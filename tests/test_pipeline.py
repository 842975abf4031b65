"""The runner, the stripping of notebooks, and `make quick`'s folder.

| what | test |
|---|---|
| a notebook gets its sections of params.yaml, the project's folder and package; twice: the same bytes | test_run |
| progress of a notebook and its children reaches whoever started it, and is not on record | test_run |
| only settings that the stage names in dvc.yaml go on record: other processes, same bytes | test_injected |
| another installation's kernelspec or JUPYTER_PATH changes nothing: the kernel is this Python | test_own_kernel |
| a failing cell: status 1, its own traceback, the notebook kept, the earlier one untouched | test_failing_cell |
| a dead kernel says so | test_dead_kernel |
| Ctrl-C: status 130, one line, no process left | test_interrupted |
| no such stage, a wrong setting, a strange parameters cell: one line, status 2 | test_mistakes |
| the last line of a stage that fails says what to do next | test_failing_stages |
| stripping undoes what JupyterLab saves, and nothing else | test_strip |
| the quick folder follows the checkout and keeps its own results | test_quick_folder |
| the project's root is found from its folders | test_root |
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from jupyter_client import KernelManager
from ruamel.yaml import YAML

from aasist_lib import params
from aasist_lib.base import paths
from aasist_lib.base.errors import UserError, exit_status
from aasist_lib.pipeline import quick, run, sources
from aasist_lib.pipeline.kernel import OwnKernel

ROOT = Path(__file__).parents[1]


def notebook(*cells, parameters='seed = params.read("seed")\nmodel = params.read("model")'):
    cells = ["from aasist_lib import params", parameters, *cells]
    cells = [nbformat.v4.new_code_cell(source, id=f"cell-{i}") for i, source in enumerate(cells)]
    cells[1].metadata["tags"] = ["parameters"]
    title = nbformat.v4.new_markdown_cell("# A stage", id="title")
    kernel = {"kernelspec": {"name": "somebodys-kernel", "display_name": "x", "language": "python"}}
    return nbformat.v4.new_notebook(cells=[title, *cells], metadata=kernel)


@pytest.fixture
def project(tmp_path):
    """A copy of the project as `dvc exp run --temp` makes one: what the pipeline needs, without installed package."""
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "aasist_lib", tmp_path / "aasist_lib", ignore=ignore)
    (tmp_path / "build/nb").mkdir(parents=True)
    return tmp_path


def again(stage):
    return f"{stage}: mend this and give the same command again\n"


@pytest.fixture
def command(project):
    def command(*arguments, stage=None, **options):
        if stage is not None:
            nbformat.write(stage, project / "build/nb/20_train.ipynb")
        environment = os.environ | {name: str(ROOT / folder) for name, folder in run.KEPT_INSIDE.items()}
        environment.pop("PYTHONPATH", None)
        environment.pop("PYTEST_CURRENT_TEST", None)  # a kernel would leave its children's error stream alone
        return subprocess.Popen(
            [sys.executable, "-m", "aasist_lib.pipeline", *(arguments or ("run", "20_train"))],
            cwd=project, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
            text=True, **options,
        )  # fmt: skip

    return command


CHILD = """
import time
from aasist_lib.base import progress
progress.FIRST = 0.1
with progress.progress(total=2, desc="in a child"):
    time.sleep(0.5)
"""


def test_run(project, command):
    stage = notebook(
        "import os, subprocess, sys, time, warnings\nfrom pathlib import Path\nimport aasist_lib\n"
        "from aasist_lib.base import progress\nprogress.FIRST = progress.EVERY = 0.1",
        "print(Path.cwd() == Path(aasist_lib.__file__).parents[1])\nprint(os.environ['PYTHONHASHSEED'])",
        "warnings.warn('for the person who watches')\nprint(seed, model['name'])",
        "for step in progress.progress(range(3), desc='listening'):\n    print(step)\n    time.sleep(0.3)",
        f"subprocess.run([sys.executable, '-c', {CHILD!r}]);",
        "Path('result.txt').write_text(str(model)); hash('text')",
    )
    executed, texts = project / "runs/20_train.ipynb", []
    for _ in range(2):
        done = command(stage=stage)
        out, err = done.communicate()
        assert done.returncode == 0, err
        assert re.fullmatch(
            r"20_train: started\n20_train: done in \d+ s: runs/20_train.ipynb\n", out.replace(os.sep, "/")
        )
        assert "listening: 1 of 3 steps, about " in err and "in a child: 0 of 2 steps, 0 s so far" in err
        assert "for the person who watches" in err and "Traceback" not in err and "encryption" not in err
        texts.append(executed.read_bytes())
    assert texts[0] == texts[1]
    cells = nbformat.reads(texts[0].decode("utf-8"), 4).cells
    injected = cells[3]
    assert injected.metadata["tags"] == ["injected-parameters"] and injected.id == "injected-parameters"
    assert re.fullmatch(r'# Parameters\nseed = \d+\nmodel = \{"name": "cnn_attention",.*\}\n', injected.source)
    outputs = [output for cell in cells if cell.cell_type == "code" for output in cell.outputs]
    assert [output.get("text") for output in outputs[:3]] == [
        "True\n0\n",
        f"{_seed(project)} cnn_attention\n",
        "0\n1\n2\n",
    ]
    assert all(output.get("name") != "stderr" for output in outputs)
    assert (project / "result.txt").read_text().startswith("{'name': 'cnn_attention'")
    assert b"papermill" not in texts[0] and b"iopub" not in texts[0]
    assert not (project / "runs/.failed/20_train.ipynb").exists()


def _seed(project):
    return re.search(r"^seed: (\d+)", (project / "params.yaml").read_text(), re.MULTILINE)[1]


def test_injected(monkeypatch):
    monkeypatch.chdir(ROOT)
    settings = params.load()
    extract = run.injected(ROOT / "notebooks/10_extract.ipynb", settings)
    assert list(extract) == ["corpus", "features", "extract"] and extract["features"] == settings["features"]
    assert list(extract["corpus"]) == ["format", "eval_format", "bonafide", "subset"]
    assert list(extract["extract"]) == ["content", "copies", "min_seconds", "max_bad_fraction"]
    code = (ROOT / "notebooks/10_extract.ipynb").read_text("utf-8").replace("\\", "")
    assert 'params.read("extract")["workers"]' in code  # not on record, so read where it is used
    settings["extract"]["workers"] += 1
    settings["corpus"]["workers"] += 1
    assert run.injected(ROOT / "notebooks/10_extract.ipynb", settings) == extract
    audit = run.injected(ROOT / "notebooks/52_adversarial.ipynb", settings)["audit"]
    assert audit == {name: settings["audit"][name] for name in ("bootstrap", "utterances", "fakes")}
    train = run.injected(ROOT / "notebooks/20_train.ipynb", settings)
    assert train == {name: settings[name] for name in ("seed", "threads", "model", "augment", "train")}
    assert run.injected(ROOT / "notebooks/00_overview.ipynb", settings) == {}  # no stage runs it


def test_own_kernel(tmp_path, monkeypatch, command):
    """Clusters set JUPYTER_PATH to another installation, with a kernelspec of the same name."""
    (tmp_path / "theirs/kernels/python3").mkdir(parents=True)
    foreign = {"argv": ["/bin/false", "{connection_file}"], "display_name": "Theirs", "language": "python"}
    (tmp_path / "theirs/kernels/python3/kernel.json").write_text(json.dumps(foreign))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "theirs"))
    assert KernelManager(kernel_name="python3").kernel_spec.argv[0] == "/bin/false"
    assert OwnKernel(kernel_name="python3").kernel_spec.argv[0] == sys.executable
    done = command(stage=notebook("import os, sys\nassert 'JUPYTER_PATH' not in os.environ\nprint(sys.executable)"))
    assert done.communicate()[1] == "" and done.returncode == 0
    executed = nbformat.read(tmp_path / "runs/20_train.ipynb", 4)
    assert executed.cells[-1].outputs[0].text == f"{sys.executable}\n"


def test_failing_cell(project, command):
    (project / "runs").mkdir()
    (project / "runs/20_train.ipynb").write_text("of the last good run")
    done = command(stage=notebook("ratio = 1\nratio / 0", "print('never')"))
    out, err = done.communicate()
    assert done.returncode == 1 and out == "20_train: started\n"
    assert "----> 2 ratio / 0" in err and "ZeroDivisionError: division by zero" in err
    assert "papermill" not in err.replace("aasist_lib.pipeline", "") and "\x1b" not in err
    kept = project / "runs/.failed/20_train.ipynb"
    assert "in cell [4] `ratio = 1`" in err and "runs/.failed/20_train.ipynb" in err and "dvc checkout --force" in err
    assert "undo the change and `dvc repro`" in err
    assert "ZeroDivisionError" in kept.read_text()
    assert (project / "runs/20_train.ipynb").read_text() == "of the last good run"


def test_dead_kernel(project, command):
    done = command(stage=notebook("import os\nos._exit(9)"))
    _, err = done.communicate()
    assert done.returncode == 1
    assert "its process died" in err and "`import os`" in err and "Traceback" not in err


def test_one_at_a_time(project, command):
    """A stage whose `dvc repro` was killed may go on; another must not write beside it."""
    write = "import time\nfrom pathlib import Path\nPath('here').touch()\ntime.sleep(100)"
    first = command(stage=notebook(write), start_new_session=True)
    while not (project / "here").exists():
        assert first.poll() is None
        time.sleep(0.1)
    second = command()
    out, err = second.communicate()
    assert second.returncode == 2 and out == ""
    assert err == (
        f"20_train is being run already, by process {first.pid}: wait until it is done, or stop it (kill {first.pid})\n"
        + again("20_train")
    )
    os.killpg(first.pid, signal.SIGINT)
    assert first.wait() == 130


def test_interrupted(project, command):
    write = "import os, time\nfrom pathlib import Path\nPath('pid').write_text(str(os.getpid()))\ntime.sleep(100)"
    process = command(stage=notebook(write), start_new_session=True)
    deadline = time.monotonic() + 60
    while not (project / "pid").exists() or not (project / "pid").read_text():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert re.fullmatch(r"\n20_train: stopped after \d+ s; the same command runs it again\n", err)
    kernel = int((project / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        for _ in range(50):
            os.kill(kernel, 0)
            time.sleep(0.1)


@pytest.mark.parametrize(
    "parameters, said",
    [
        ('seed = params.read("sede")', 'each line must be like `train = params.read("train")`'),
        ("seed = 3", "`seed = 3` in the parameters cell"),
        ('train = params.read("seed")', "with the name of a section"),
        ('trian = params.read("trian")', "with the name of a section"),
    ],
)
def test_strange_parameters(tmp_path, parameters, said):
    path = tmp_path / "x.ipynb"
    nbformat.write(notebook(parameters=parameters), path)
    with pytest.raises(UserError, match=re.escape(said)):
        run.sections(path)


def test_mistakes(project, command):
    done = command("run", "21_train", stage=notebook())
    said = "there is no build/nb/21_train.ipynb; there are: 20_train\n"
    assert done.communicate() == ("", said + again("21_train"))
    assert done.returncode == 2
    settings = project / "params.yaml"
    settings.write_text(settings.read_text().replace("  lr:", "  learning_rate:"))
    for arguments in (("run", "20_train"), ("check",)):
        done = command(*arguments)
        _, err = done.communicate()
        assert done.returncode == 2 and "train.learning_rate is not a setting" in err and "Traceback" not in err


def test_failing_stages(project, capsys):
    """Each command of dvc.yaml, without what it needs, and with a Python that lacks a package."""
    settings = project / "params.yaml"
    settings.write_text(settings.read_text().replace("  profile: default", "  profile: huge"))
    stages = YAML(typ="safe").load(project / "dvc.yaml")["stages"]
    kinds = {" ".join(stage["cmd"].split()[:4]): (name, stage["cmd"].split()) for name, stage in stages.items()}
    assert len(kinds) == 4
    (project / "notebooks").mkdir()
    (project / "notebooks/20_train.ipynb").write_text("<<<<<<< HEAD\n")
    lacking = [sys.executable, "-S"]  # without site-packages
    for name, (_, *command) in kinds.values():
        for python in ([sys.executable], lacking):
            done = subprocess.run([*python, *command], cwd=project, capture_output=True, text=True)
            assert done.returncode == 2 and "Traceback" not in done.stderr
            said = done.stderr.splitlines(keepends=True)
            assert said[-1] == again(command[-1] if "run" in command else name)
            assert (python == lacking) == said[-2].endswith(": activate the environment (. .venv/bin/activate)\n")
    assert exit_status(lambda: 1 // 0, "corpus") == 1
    assert capsys.readouterr().err.endswith("ZeroDivisionError: integer division or modulo by zero\n" + again("corpus"))


def test_strip(tmp_path):
    source = sources.strip(nbformat.writes(notebook("1 + 1")))
    assert json.loads(source)["metadata"]["kernelspec"]["name"] == "python3"
    assert sources.strip(source) == source
    ran = nbformat.reads(source, 4)
    for cell in ran.cells[1:]:
        cell.execution_count = 7
        cell.outputs = [nbformat.v4.new_output("stream", text="saved")]
        cell.metadata |= {"collapsed": True, "execution": {"iopub.status.busy": "now"}}
    ran.metadata["language_info"] = {"name": "python", "version": "3.11.2"}
    assert sources.strip(nbformat.writes(ran)) == source
    ran.cells[1].source += "\n2 + 2"
    assert sources.strip(nbformat.writes(ran)) != source
    nbformat.write(ran, tmp_path / "x.ipynb")
    assert sources.copy_stripped(tmp_path, tmp_path / "to") == [tmp_path / "to/x.ipynb"]
    assert sources.copy_stripped(tmp_path, tmp_path / "to") == []
    assert sources.copy_stripped(tmp_path, tmp_path) == [tmp_path / "x.ipynb"]
    assert (tmp_path / "x.ipynb").read_text() == (tmp_path / "to/x.ipynb").read_text()


def test_quick_folder(tmp_path):
    checkout, folder = tmp_path / "checkout", tmp_path / "checkout/build/quick"
    files = {
        ".gitignore": "/build/\n/data/\n", "dvc.yaml": "stages: {}\n", ".dvc/config": "[core]\n",
        "a.py": "1", "b.py": "2",
        "dvc.lock": "theirs", "metrics/eval.json": "theirs", "data/x": "theirs", "data.dvc": "theirs",
        "params.yaml": (ROOT / "params.yaml").read_text(),
        "experiments/tiny.yaml": (ROOT / "experiments/tiny.yaml").read_text(),
    }  # fmt: skip
    for name, text in files.items():
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_text(text)
    with pytest.raises(UserError, match="must be a git repository"):
        quick.copy(checkout, folder)
    subprocess.run(["git", "init", "--quiet"], cwd=checkout, check=True)
    subprocess.run(["git", "add", "a.py"], cwd=checkout, check=True)  # the rest is new and not ignored
    quick.copy(checkout, folder)
    assert (folder / "a.py").read_text() == "1" and (folder / "dvc.yaml").exists()
    assert not (folder / "dvc.lock").exists() and not (folder / "data").exists()
    assert not [*(folder / "metrics").iterdir()]
    assert "path: corpus" in (folder / "data.dvc").read_text()
    assert "profile: tiny" in (folder / "params.yaml").read_text()
    assert "no_scm = true" in (folder / ".dvc/config.local").read_text()

    (folder / "dvc.lock").write_text("its own")
    (folder / "data.dvc").write_text("its own")
    (checkout / "a.py").write_text("changed")
    (checkout / "b.py").unlink()
    quick.copy(checkout, folder)
    assert (folder / "a.py").read_text() == "changed" and not (folder / "b.py").exists()
    assert (folder / "dvc.lock").read_text() == (folder / "data.dvc").read_text() == "its own"
    with pytest.raises(UserError, match="no earlier quick run"):
        quick.copy(folder, folder)
    for wrong in (checkout, tmp_path, folder / "../.."):
        with pytest.raises(UserError, match="no earlier quick run"):
            quick.copy(checkout, wrong)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").touch()
    with pytest.raises(UserError, match="is not empty"):
        quick.copy(checkout, tmp_path / "other")


def test_root(tmp_path, monkeypatch):
    (tmp_path / "project/notebooks").mkdir(parents=True)
    (tmp_path / "project/dvc.yaml").touch()
    monkeypatch.chdir(tmp_path / "project/notebooks")
    assert paths.root() == tmp_path / "project"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no dvc.yaml"):
        paths.root()
