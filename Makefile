# Two commands do all: `make run` shows the product at work, `make test` proves it.
# Both install what they need (as root, on Debian) and build first.
GO      ?= go
LDFLAGS := -s -w
# By this profile of decisions the compiler lays out what decides: see `make profile`.
PGO     := -pgo=cmd/netpolicyd/default.pgo
export GOFLAGS += -trimpath

.PHONY: run demo test check bench bench-packages build wasm dist dist-check profile setup fuzz nightly accept clean

run: setup build ## about a minute, for a person to watch: two uplinks in namespaces, real packets
	bin/netpolicy lab run examples/zoom-priority examples/latency-failover
	@echo 'make demo: the same with live traffic, and the web interface to look at it'

demo: setup build ## a gateway with live traffic, and its web interface on this machine, until Ctrl-C
	bin/netpolicy lab up --traffic --web $(or $(WEB),127.0.0.1:8321) examples/demo/policy.npl

test: setup check build ## everything, for real where we are root; says what it skipped and why
	scripts/test.sh

check: ## vet, staticcheck, gofumpt
	$(GO) vet ./...
	$(GO) tool staticcheck ./...
	@test -z "$$($(GO) tool gofumpt -l .)" || { echo "gofumpt would change:"; $(GO) tool gofumpt -l .; exit 1; }

bench: ## ours beside Xray, sing-box, OPA and cel-go, into bench/results.md: five minutes
	$(GO) build -C bench/peers -o ../../bin/peers .
	$(GO) build $(PGO) -o bin/bench ./bench
	bin/bench -peers bin/peers

bench-packages: ## benchmarks of the pure packages
	$(GO) test -run '^$$' -bench . -benchmem ./flow ./rules/... ./engine ./state ./actions/... ./inspector/...

build: ## both binaries into bin/
	CGO_ENABLED=0 $(GO) build $(PGO) -ldflags '$(LDFLAGS)' -o bin/ ./cmd/netpolicy ./cmd/netpolicyd

wasm: ## the generator for browsers: bin/generator.wasm, and what starts it
	GOOS=js GOARCH=wasm $(GO) build -ldflags '$(LDFLAGS)' -o bin/generator.wasm ./cmd/generator-wasm
	cp "$$($(GO) env GOROOT)/lib/wasm/wasm_exec.js" bin/
	@echo "$$(wc -c <bin/generator.wasm) bytes, $$(gzip -9 -c bin/generator.wasm | wc -c) with gzip"

dist: ## what is released, into dist/: tarballs, Debian packages, SBOMs, checksums
	scripts/dist.sh

dist-check: ## the same bytes from two folders; FULL=1: for both architectures, and everything compiled anew
	scripts/dist-check.sh

profile: ## the engine's hot path anew, for the compiler: after it has changed
	CGO_ENABLED=0 $(GO) build -o bin/bench ./bench
	bin/bench -profile cmd/netpolicyd/default.pgo

setup: ## install the Debian packages that the tests and the lab need
	@scripts/setup.sh

fuzz: ## each fuzz target for FUZZTIME (2m)
	scripts/fuzz.sh

SEED  := $(or $(SEED),$(shell date +%s))
CASES ?= 1000000
nightly: ## engine against oracle: a million random decisions, and as many that rapid draws; dead rules against the engine; SEED repeats a night
	$(GO) test ./engine -count=1 -v -timeout 0 -run '^(TestOracle|TestRecompile|TestClassBench|TestDomainLists)' \
		-cases $(CASES) -seed $(SEED) -rapid.seed $(SEED) -rapid.nofailfile
	$(GO) test ./analysis -count=1 -v -timeout 0 -run '^(TestDead|TestWitness)' -policies 20000 -seed $(SEED)

accept: ## the acceptance lines of every issue so far; FULL=1 runs the long ones in full
	@set -e; for f in $(filter-out accept/lib.sh,$(wildcard accept/*.sh)); do $$f; done

clean:
	rm -rf bin dist
