# `make repro` on a bare clone makes everything, environment included; `make` lists what there is.
PYTHON := $(or $(PYTHON),$(shell command -v python3))
BIN := $(CURDIR)/.venv/bin
READY := .venv/ready

# stages and notebooks call `python`, `dvc` and `jupyter`: those of the environment
export PATH := $(BIN):$(PATH)
# nothing is written outside the checkout and pip's own cache (aasist_lib/pipeline/run.py says the same), nothing sent
export JUPYTER_CONFIG_DIR := $(CURDIR)/.cache/jupyter/config
export JUPYTER_DATA_DIR := $(CURDIR)/.cache/jupyter/data
export JUPYTER_RUNTIME_DIR := $(CURDIR)/.cache/jupyter/runtime
export IPYTHONDIR := $(CURDIR)/.cache/ipython
export MPLCONFIGDIR := $(CURDIR)/.cache/matplotlib
export NUMBA_CACHE_DIR := $(CURDIR)/.cache/numba
export DVC_SITE_CACHE_DIR := $(CURDIR)/.cache/dvc
export DVC_NO_ANALYTICS := 1
# nor does another installation bring its kernels and page templates
unexport JUPYTER_PATH
include aasist_lib/pins.env

.PHONY: help install repro quick select leaderboard tune test faults processors bench lint lab serve load fuzz strip readme compare experiments verify lock clean

help:                ## list of targets
	@sed -n 's/^\([a-z]*\):.*## /make \1\t/p' Makefile | expand -t 20

install: $(READY)    ## the environment, .venv; every other target makes it when needed

repro: $(READY)      ## the default corpus, all stages and reports/index.html; runs what is not up to date
	dvc repro
	@echo "The report: $(CURDIR)/reports/index.html"

quick: $(READY)      ## the same on a tiny corpus, in build/quick: minutes, for a first look
	python -m aasist_lib.pipeline quick

select: $(READY)     ## trains the candidates of experiments/selection.yaml without attacks and sources left out in turn
	python -m aasist_lib.studies select

leaderboard: $(READY) ## trains and measures the systems of experiments/leaderboard.yaml; goes on; AGAIN=1: anew
	python -m aasist_lib.studies leaderboard $(if $(AGAIN),--again)

tune: $(READY)       ## searches for better settings as experiments/tune.yaml says; goes on where it was stopped
	python -m aasist_lib.studies tune

test: $(READY)       ## all tests
	python -m pytest -n 2 --dist loadfile

faults: $(READY)     ## kills stages at random moments, 20 times each (FAULTS=3: so often), and looks at what comes of it
	python -m pytest -s -m faults tests/test_faults.py

processors: $(READY) ## compares results with those of emulated processors (Debian's qemu-user); an hour
	python -m pytest -s -m emulated tests/test_processors.py

bench: $(READY)      ## measures what is claimed of speed and size, into benchmarks/results/; leave the machine alone meanwhile
	python -m benchmarks $(NAMES)

lint: $(READY)       ## style of the code, and which room may import which
	ruff check .
	ruff format --check .
	lint-imports --no-cache

lab: $(READY)        ## JupyterLab on notebooks/
	mkdir -p "$(JUPYTER_RUNTIME_DIR)"
	jupyter lab --notebook-dir="$(CURDIR)" --LabApp.default_url=/lab/tree/notebooks/00_overview.ipynb \
	  --LabApp.extension_manager=readonly --LanguageServerManager.autodetect=False

serve: $(READY)      ## the detector of models/detector over HTTP, with a page to try it: http://127.0.0.1:8000
	aasist serve

load: $(READY)       ## what the service does under load: SECONDS=60 CLIENTS=50 PROCESSES=1
	python -m benchmarks load seconds=$(or $(SECONDS),60) clients=$(or $(CLIENTS),50) processes=$(or $(PROCESSES),1)

fuzz: $(READY)       ## broken requests and recordings against the service: FILES=2000
	python -m benchmarks fuzz files=$(or $(FILES),2000)

strip: $(READY)      ## notebooks/ without outputs, before committing
	python -m aasist_lib.pipeline strip

readme: $(READY)     ## the table of metrics in README.md
	python -m aasist_lib.pipeline readme

compare: $(READY)    ## two runs as markdown for a pull request: make compare A=main B=HEAD
	@python -m aasist_lib.pipeline compare "$(or $(A),HEAD)" "$(or $(B),workspace)"

experiments: $(READY) ## those of `dvc exp run`: settings that differ and equal error rates, in 120 columns
	@dvc exp show --only-changed --drop '.*/|(aasist_lib|data|features|notebooks|params\.yaml|requirements\.lock)$$' \
	  --drop '(known|unseen|all)\.(?!eer)'

verify: $(READY)     ## whether results here are those of git to the byte, and if not, where and how far they part
	@python -m aasist_lib.pipeline verify

lock: $(READY)       ## requirements.lock from what .venv holds (Python 3.11)
	{ grep -E '^#|python_version' requirements.lock; \
	  pip freeze --all --exclude pip --exclude-editable | sed 's/+[a-z0-9]*$$//'; } | LC_ALL=C sort -f > requirements.lock.partial
	mv requirements.lock.partial requirements.lock

clean:               ## remove what stages made; DVC's cache, downloads and .venv stay
	rm -rf build corpus data features models runs scores dvc_plots

# an environment holds its own path: in a moved or copied checkout it is made anew
ifneq ($(shell [ "$$({ . .venv/bin/activate; echo "$$VIRTUAL_ENV"; } 2>/dev/null)" -ef .venv ] && echo here),here)
.PHONY: $(READY)
ANEW := --clear
endif

$(READY): requirements.lock pyproject.toml
	@"$(PYTHON)" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null || \
	  { echo "Python 3.11, 3.12 or 3.13 is needed: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@"$(PYTHON)" -c 'import venv, ensurepip' 2>/dev/null || \
	  { echo "$(PYTHON) cannot make environments: install its venv module (Debian: python3-venv)" >&2; exit 1; }
	"$(PYTHON)" -m venv $(ANEW) .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --use-pep517 --requirement requirements.lock
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@# for `dvc` without make; its own configuration cannot hold a path that is not ASCII
	echo 'export DVC_SITE_CACHE_DIR="$${VIRTUAL_ENV%/.venv}/.cache/dvc"' >> .venv/bin/activate
	.venv/bin/python -m aasist_lib.pipeline plots-page
	@# JupyterLab does not ask whether it may fetch news, and looks for no updates
	mkdir -p .venv/share/jupyter/lab/settings
	echo '{"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": false}}' \
	  > .venv/share/jupyter/lab/settings/overrides.json
	@touch $@
