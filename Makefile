# Every target prepares .venv by itself. Another interpreter: make PYTHON=python3.12 test
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
RETINA_KP := $(VENV)/bin/retina-kp
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-browser lab train train-lite ablation own-look ladder benchmark clean

help:
	@echo "Two commands do everything on a fresh machine; each target installs into .venv by itself."
	@echo "make demo        register sample pairs on the CPU and write an HTML report       (retina-kp demo)"
	@echo "make test        run the tests and replay the notebooks"
	@echo "make test-browser  drive the viewer in a real browser, which is installed where there is none"
	@echo
	@echo "make lab         open the notebooks in JupyterLab                                (retina-kp lab)"
	@echo "make train       train a network in four phases, a try-out without ARGS          (retina-kp train)"
	@echo "make benchmark   measure success and time on synthetic pairs                     (retina-kp benchmark)"
	@echo "make train-lite  train the shipped weights anew, on synthetic retinas; hours, resumable"
	@echo "make ablation    measure what each training phase brings; hours, resumable"
	@echo "make own-look    measure what training on one's own folders brings; hours, resumable"
	@echo "make ladder      measure what each ingredient of registration brings; hours, resumable"
	@echo "make clean       remove .venv and caches (data/ and outputs/ stay)"
	@echo
	@echo "Options go into ARGS: make train ARGS=\"-p recipe lite\". Your own images: source .venv/bin/activate, then"
	@echo "retina-kp register fundus.png angiogram.png -o out, and retina-kp --help for all commands."

demo: $(STAMP)
	@$(RETINA_KP) demo

# A file at a time per core, and one thread each: threads that wait for each other's cores would spin. No notebook finds a run to go on with.
test: $(STAMP)
	@OMP_NUM_THREADS=1 RETINA_KP_RUNS="$$(mktemp -d)" $(PY) -m pytest -q -n logical --maxprocesses 4 --dist loadfile --nbval-lax --nbval-current-env tests notebooks

test-browser: $(STAMP)
	@$(PY) -m pip install -q -q --disable-pip-version-check -e ".[dev,browser]"
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || $(PY) -m playwright install --with-deps chromium
	@$(PY) -m pytest -q tests/test_viewer_browser.py

lab: $(STAMP)
	@$(RETINA_KP) lab

train: $(STAMP)
	@$(RETINA_KP) train $(ARGS)

train-lite: $(STAMP)
	@$(PY) -m retina_kp.cli.train lite $(ARGS)

ablation: $(STAMP)
	@$(PY) -m retina_kp.studies.phases ablation $(ARGS)

ladder: $(STAMP)
	@$(PY) -m retina_kp.studies.ladder $(ARGS)

own-look: $(STAMP)
	@$(PY) -m retina_kp.studies.phases own-look $(ARGS)

benchmark: $(STAMP)
	@$(RETINA_KP) benchmark $(ARGS)

clean:
	@rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache
	@find retina_kp tests notebooks -depth \( -name __pycache__ -o -name .ipynb_checkpoints \) -exec rm -rf {} +
	@echo "Removed .venv and caches; data/ and outputs/ are untouched."

# The stamp is written last: without it the next make repairs whatever an interrupted installation left behind.
$(STAMP): pyproject.toml
	@rm -f $@
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 10) <= v < (3, 14) else \
	  "retina_kp needs Python 3.10 to 3.13, and $(PYTHON) is %d.%d. Name another one: make PYTHON=python3.12 ..." % v)'
	@echo "Setting up .venv: PyTorch, JupyterLab and helpers, once; about 2 minutes plus the download ..."
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@$(PY) -m pip install -q -q --disable-pip-version-check -e ".[dev]"
	@touch $@
