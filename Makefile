# The verbs of the project. `make` prints them.

# Build output lives outside the checkout, so that a fresh clone on a known machine is warm.
CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/macula
export CARGO_TARGET_DIR ?= $(CACHE)/target
CARGO ?= cargo
PREFIX ?= $(HOME)/.local
SEED ?=
STORY ?=
TARGET ?= core
ONLY ?=
RIVALS ?=
STORIES_OF = $(CARGO) test --workspace --all-features --test stories --
BIN = $(CARGO_TARGET_DIR)/debug

.DEFAULT_GOAL := help
.PHONY: help dev demo demo-laptop cluster cluster-down image test stories measure build install bench sim sim-swarm fuzz docs crds

help: ## print these verbs
	@sed -n 's/^\([a-z-]*\):.*## /  make \1|/p' $(MAKEFILE_LIST) | column -t -s '|'

dev: build ## a whole mesh in this terminal, on ports 7780 and 7790
	$(BIN)/macula-node dev

demo: ## from nothing: a cluster, the operator, a mesh, and two applications that use it
	e2e/demo

cluster: ## a Kubernetes cluster: kind where it is there, else our own from parts (docs/CLUSTER.md)
	e2e/cluster/up

cluster-down: ## takes it away, and leaves nothing
	e2e/cluster/down

image: ## the image with both binaries, and the stories' application
	e2e/cluster/image

demo-laptop: build ## several processes, two realms: they hear their own and never each other
	PATH="$(BIN):$$PATH" examples/demo.sh

test: ## formatting, lints and every test, the stories on a real cluster too (STORIES=none leaves those out)
	$(CARGO) fmt --all --check
	$(CARGO) fmt --manifest-path bench/Cargo.toml --check
	$(CARGO) fmt --manifest-path node/examples/join/Cargo.toml --check
	$(CARGO) fmt --manifest-path node/proto/fuzz/Cargo.toml --check
	$(CARGO) clippy --workspace --all-targets --all-features -- -D warnings
	$(CARGO) check --manifest-path bench/Cargo.toml
	e2e/tested
	$(CARGO) test --workspace --all-features
	RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" $(CARGO) doc --workspace --no-deps --document-private-items --all-features

stories: ## the stories alone: all, or those with this in their names: make stories STORY=job
	e2e/tested
	$(STORIES_OF) $(STORY)

measure: ## what a mesh costs on the cluster: times, latencies, memory
	e2e/tested
	$(STORIES_OF) --ignored measure

build:
	$(CARGO) build -p macula-node

install: ## build for speed, and put macula-node into PREFIX/bin (PREFIX=~/.local)
	$(CARGO) build --release -p macula-node
	install -D -m 755 $(CARGO_TARGET_DIR)/release/macula-node $(PREFIX)/bin/macula-node
	@case ":$$PATH:" in *":$(PREFIX)/bin:"*) ;; *) echo "note: $(PREFIX)/bin is not on your PATH" ;; esac

bench: ## speed, in one run: ONLY=traffic or ONLY=dht, RIVALS=1 beside libp2p-kad (docs/BENCHMARKS.md)
	$(CARGO) run --release --manifest-path bench/Cargo.toml $(if $(RIVALS),--features rivals) -- $(ONLY)

# Empty is as the scenario says; NODES may be several, one after the other.
SCENARIO ?= $(if $(SEED),calm,churn)
NODES ?= $(if $(SEED),1000,100,1000,10000)
SIM = $(CARGO) run --release -p macula-proto --features sim --example sim --

sim: ## the mesh on virtual time, and how it grows; one story: make sim SCENARIO=storm NODES=1000 SEED=7
	$(SIM) --scenario $(SCENARIO) --nodes $(NODES) $(SEED:%=--seed %) $(SERVING:%=--serving %) \
		$(HOSTILE:%=--hostile %) $(FOR:%=--for %) $(if $(BRIEF),--brief) $(SVG:%=--svg %)

sim-swarm: ## stories of fresh seeds until one breaks a law: make sim-swarm FOR=10m
	$(SIM) --swarm $(or $(FOR),10m) $(SEED:%=--seed %)

fuzz: ## fuzz one target for some seconds: make fuzz TARGET=core FOR=60 (needs cargo-fuzz and a nightly compiler)
	cd node/proto/fuzz && CARGO_TARGET_DIR=$(CARGO_TARGET_DIR)/fuzz $(CARGO) +nightly fuzz run --sanitizer none \
		$(TARGET) -- -max_total_time=$(or $(FOR),60) -max_len=4096

docs: crds ## write the pages that are printed from the code
	UPDATE=1 $(CARGO) test -p macula-proto --test errors_page --test limits_page

crds: ## print the definitions and their reference from the types
	UPDATE=1 $(CARGO) test -p macula-api --test crds
