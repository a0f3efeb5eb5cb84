# Everything a person types. The work is in deploy/dev/*.sh and in `go`.
SHELL := /bin/bash
.DEFAULT_GOAL := help
export GOTOOLCHAIN := go1.27.3
export CGO_ENABLED := 0

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X main.version=$(VERSION) -X main.release=$(VERSION)
GOLANGCI := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

.PHONY: run test check bench simulate build web go clean help nightly fuzz conformance

run: ## start everything on this machine: panel, node, demo. Ctrl-C stops it. ARGS="--http :9000" changes it
	@deploy/dev/run.sh $(ARGS)

test: ## the whole suite: unit, real Docker, real browser (docs/testing.md)
	@deploy/dev/test.sh

check: ## format, vet, lint, imports, unit tests that need no Docker (under 3 minutes)
	@deploy/dev/check.sh "$(GOLANGCI)"

bench: ## the ratios of docs/performance.md, printed as tables
	@deploy/dev/bench.sh

simulate: ## 1,000 nodes with 50,000 servers on one panel and PostgreSQL (docs/scale.md), about 15 minutes
	@deploy/dev/bench.sh --only simulation

build: web go ## web app, bin/mambahost and bin/wings

web: ## build the customer's web app into pb_public/dist
	@deploy/dev/web.sh

go: ## build the two binaries, with whatever web app is in pb_public/dist
	go build -ldflags "$(LDFLAGS)" -o bin/mambahost .
	go build -ldflags "$(LDFLAGS)" -o bin/wings ./wings

fuzz: ## every fuzz target for FUZZTIME (default 30s) each
	@deploy/dev/fuzz.sh

conformance: ## PocketBase's own test suites on PostgreSQL (docs/testing.md)
	@deploy/dev/conformance.sh

nightly: ## what is too long for test (docs/testing.md names each and why)
	@MAMBA_NIGHTLY=1 deploy/dev/test.sh

clean: ## remove what was built; data in mamba_data stays
	rm -rf bin .cache/web test-results pb_public/dist/assets pb_public/dist/index.html
	go clean -testcache

help: ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'
