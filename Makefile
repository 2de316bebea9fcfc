# Every target sets up what it needs; a second call finds it ready.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-unit test-integration test-browser test-cluster images image-sizes lint format bench-serving bench-motion bench-demo clean

help: ## Show this help
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-18s %s\n", $$1, $$2}'

setup: $(READY) ## Make .venv with the package and everything it needs

# Bytecode at once: where PYTHONDONTWRITEBYTECODE is set, every process would compile torch and ray anew.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Vitruvian needs Python 3.11 or newer; name one with: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --compile-bytecode --python $(BIN)/python --constraint constraints.txt --editable '.[train,serve,cluster,rayserve,operator,dev]'
	@touch $@

demo: $(READY) ## Train, check, export, publish and serve a classifier of synthetic poses
	@$(BIN)/vitruvian demo $(ARGS)

test: $(READY) ## Run all tests that this machine can run
	$(BIN)/python -m pytest $(ARGS)

test-unit: $(READY) ## Run the tests that take seconds
	$(BIN)/python -m pytest tests/unit $(ARGS)

test-integration: $(READY) ## Run the tests with real processes, a real S3 server and real Ray
	$(BIN)/python -m pytest tests/integration $(ARGS)

test-browser: $(READY) ## Drive the page in Chromium
	$(BIN)/python -m pytest tests/browser $(ARGS)

test-cluster: $(READY) ## Run the tests on the cluster of KUBECONFIG; its nodes need the images that `make images` builds
	$(BIN)/python -m pytest tests/cluster $(ARGS)

images: ## Build the images of operator, servers and trainer with docker
	DOCKER_BUILDKIT=$${DOCKER_BUILDKIT:-0} docker build -q -f images/operator.Dockerfile -t vitruvian/operator:dev .
	DOCKER_BUILDKIT=$${DOCKER_BUILDKIT:-0} docker build -q -f images/server.Dockerfile -t vitruvian/server:dev .
	DOCKER_BUILDKIT=$${DOCKER_BUILDKIT:-0} docker build -q -f images/server-ray.Dockerfile -t vitruvian/server-ray:dev .
	DOCKER_BUILDKIT=$${DOCKER_BUILDKIT:-0} docker build -q -f images/trainer.Dockerfile -t vitruvian/trainer:dev .

image-sizes: ## Say how large the images are: unpacked, and compressed as a registry keeps them (minutes)
	@for role in operator server server-ray trainer; do \
	  printf '%-22s %6d MB  ' vitruvian/$$role:dev $$(($$(docker image inspect -f '{{.Size}}' vitruvian/$$role:dev) / 1000000)); \
	  echo "$$(($$(docker save vitruvian/$$role:dev | gzip | wc -c) / 1000000)) MB compressed"; \
	done

lint: $(READY) ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY) ## Put the style right
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench-serving: $(READY) ## Measure serving beside its peers, which are installed into build/peers
	@$(BIN)/python -m benchmarks.serving $(ARGS)

bench-motion: $(READY) ## Compare the architectures with a logistic regression on real motion capture
	@$(BIN)/python benchmarks/motion.py $(ARGS)

bench-demo: $(READY) ## Time the demo and measure its accuracy for both architectures
	@$(BIN)/python benchmarks/demo.py $(ARGS)

clean: ## Remove what the demo made
	rm -rf vitruvian-demo
