# Every target prepares .venv by itself. Another interpreter: make PYTHON=python3.12 test
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test lab train train-lite ablation own-look ladder benchmark clean

help:
	@echo "make demo        register sample pairs with the shipped weights and write an HTML report"
	@echo "make test        run the tests and replay the notebooks"
	@echo "make lab         open JupyterLab in notebooks/"
	@echo "make train       all four training phases, each by its notebook, with a report; a try-out, unless ARGS=\"-p recipe lite\" or more"
	@echo "make train-lite  train the default network from nothing, on synthetic retinas only, into outputs/runs/train-lite; hours, resumable"
	@echo "make ablation    what each training phase brings; hours, resumable"
	@echo "make own-look    what training on one's own folders brings, for pictures of a look that nothing was trained on; hours, resumable"
	@echo "make ladder      what each ingredient of registration brings; hours, resumable"
	@echo "make benchmark   success and time over turn, scale and overlap, beside classical methods; tables: ARGS=\"--tables usual,wide\""
	@echo "make clean       remove .venv and caches (data/ and outputs/ stay)"

demo: $(STAMP)
	@$(PY) -m retina_kp.notebook.demo

# A file at a time per core, and one thread each: threads that wait for each other's cores would spin. No notebook finds a run to go on with.
test: $(STAMP)
	@OMP_NUM_THREADS=1 RETINA_KP_RUNS="$$(mktemp -d)" $(PY) -m pytest -q -n logical --maxprocesses 4 --dist loadfile --nbval-lax --nbval-current-env tests notebooks

lab: $(STAMP)
	@cd notebooks && ../$(PY) -m jupyterlab

train: $(STAMP)
	@$(PY) -m retina_kp.notebook.chain $(ARGS)

train-lite: $(STAMP)
	@$(PY) -m retina_kp.cli.train lite $(ARGS)

ablation: $(STAMP)
	@$(PY) -m retina_kp.studies.phases ablation $(ARGS)

ladder: $(STAMP)
	@$(PY) -m retina_kp.studies.ladder $(ARGS)

own-look: $(STAMP)
	@$(PY) -m retina_kp.studies.phases own-look $(ARGS)

benchmark: $(STAMP)
	@$(PY) -m retina_kp.evaluation.benchmark $(ARGS)

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
