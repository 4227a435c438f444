# Two commands matter: `make reproduce` and `make test`. Both build the environment first if it is not there.
PROFILE ?= micro
CORES   ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)
PYTHON  ?= python3
BIN     := .venv/bin
# How the batch is run, here and in the tests; the Snakefile says a line for each notebook.
BATCH   := --scheduler greedy --nolock --rerun-incomplete

export TOKENIZERS_PARALLELISM = true
export HF_HUB_DISABLE_TELEMETRY = 1
export PYTHONUNBUFFERED = 1

.PHONY: env reproduce plan figures test lab lint format zoo bench bench-matching bench-theory pins clean

# uv, from the machine or into a private environment of its own.
UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)

.uv/bin/uv:
	$(PYTHON) -m venv .uv
	.uv/bin/pip install --quiet uv

# Compiled once here, or every notebook would compile what it imports, where Python is told to keep no bytecode.
.venv/.complete: pyproject.toml uv.lock $(filter .uv/bin/uv,$(UV))
	$(UV) sync --locked --python $(PYTHON) --all-groups --compile-bytecode
	@touch $@

env: .venv/.complete  ## build .venv from uv.lock

reproduce: env  ## all notebooks on one profile (PROFILE=micro), then the fitted exponents and report.html
	@$(BIN)/snakemake --cores $(CORES) --config profile="$(PROFILE)" $(BATCH)
	@$(BIN)/python -m rosetta.report "$(PROFILE)"

plan: env  ## what each run of a profile would take, here or on NODES ("8xA100 H200"), before it is made; fails where one does not fit
	@$(BIN)/python -m rosetta.planning "$(PROFILE)" $(NODES)

figures: reproduce  ## copy the profile's figures and tables to figures/, which the README shows, and its claims into the README
	@$(BIN)/python -m rosetta.report "$(PROFILE)" --publish figures

test: env  ## every test, the notebooks on the smoke profile included
	$(BIN)/python -m pytest -n logical --maxprocesses 8 --durations 5

lab: env  ## JupyterLab on the notebooks, without its question about news from the network
	@$(BIN)/jupyter labextension disable --level=sys_prefix "@jupyterlab/apputils-extension:announcements" 2> /dev/null
	$(BIN)/jupyter lab --notebook-dir .

lint: env  ## ruff on the library, the tests and the notebooks; no outputs in a notebook
	$(BIN)/ruff format --check . && $(BIN)/ruff check .
	$(BIN)/nbstripout --verify notebooks/*.ipynb

format: env
	$(BIN)/ruff format . && $(BIN)/ruff check --fix .
	$(BIN)/nbstripout notebooks/*.ipynb

zoo: env  ## train the embedded models that are missing, of language, then of images (hours; resumes where it was stopped)
	OMP_NUM_THREADS=1 $(BIN)/python -m rosetta.models.zoo --jobs $(CORES)

bench: env  ## speed and memory of every stage, for the largest pair of the zoo
	$(BIN)/python benchmarks/pipeline.py
	$(BIN)/python benchmarks/reading.py
	$(BIN)/python benchmarks/properties.py
	$(BIN)/python benchmarks/sampling.py

# Rows are added to figures/matching_cost.csv, so what is there already is moved away by hand.
bench-matching: env  ## matching by method, 4,096 to 16,384 made-up neurons a side, and a pair of the zoo
	$(BIN)/python benchmarks/matching.py --neurons 16384 8192 4096 --positions 200000 --pairs \
	    --methods exact sketch bfloat16 --record figures/matching_cost.csv
	$(BIN)/python benchmarks/matching.py --neurons --pairs pythia-128x6+opt-128x6 --record figures/matching_cost.csv \
	    --plot figures/matching_cost.png

bench-theory: env  ## the simulation's two samplers against each other, and its full grid
	$(BIN)/python benchmarks/theory.py

pins: env  ## write requirements.txt again after a change of uv.lock
	$(UV) export --quiet --locked --no-hashes --no-header --no-annotate --no-emit-project --all-groups --output-file requirements.txt

clean:
	rm -rf .venv .uv results .snakemake
