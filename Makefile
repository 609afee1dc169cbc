# Two commands do everything on a fresh machine: make demo, make test. `make help` lists the rest.

GO      ?= go
BIN     := bin/detvm
CACHE   ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/detvm
FUZZTIME ?= 2s
GOLANGCI := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
EMBEDDED := images/embedded/base.cpio.zst images/embedded/default.cpio.zst

.PHONY: help build test lint demo bench kernel kernel-check fuzz fuzz-cpu debian-image debian-kernel clean
help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

build: $(EMBEDDED) ## build bin/detvm
	$(GO) build -trimpath -o $(BIN) ./cmd/detvm

# The agent and the default userland go into the binary; they are rebuilt when their sources change.
$(EMBEDDED) &: $(shell find guestagent initramfs -path initramfs/.build -prune -o -type f -print) go.mod go.sum
	bash initramfs/build.sh

demo: build ## run a command twice in a deterministic Linux and compare
	@bash tests/demo.sh $(BIN)

test: build ## unit tests, fuzzing for a short while, whole-system tests
	$(GO) vet ./...
	$(GO) test -timeout 40m ./...
	bash tests/fuzz.sh $(FUZZTIME)

lint: ## static analysis
	$(GO) run $(GOLANGCI) run ./...

bench: build ## measure speed side by side with peers where they are installed
	$(GO) run ./tests/bench -detvm $(BIN) $(if $(wildcard $(CACHE)/debian.img),-image $(CACHE)/debian.img)

fuzz: ## run every fuzz target for FUZZTIME
	bash tests/fuzz.sh $(FUZZTIME)

fuzz-cpu: ## compare the software CPU with the real one: millions of cases, needs /dev/kvm
	$(GO) test ./tests/cpufuzz -run TestLong -long -timeout 3h -v

kernel: ## rebuild the guest kernel (needs linux-source-6.1 flex bison bc libelf-dev)
	bash images/kernel/build.sh images/kernel $(CACHE)/kernel-build

kernel-check: ## rebuild the guest kernel and compare it with the committed one
	bash images/kernel/check.sh

debian-kernel: ## get Debian's stock cloud kernel, which the tests boot on the software CPU
	mkdir -p $(CACHE)
	bash tests/debian/fetch-kernel.sh $(CACHE)/debian-vmlinuz

debian-image: build debian-kernel ## build the Debian root file system that the tests use (needs root, debootstrap); also gets the kernel
	bash tests/debian/build-rootfs.sh $(CACHE)/debian.tar
	$(BIN) image build -o $(CACHE)/debian.img $(CACHE)/debian.tar

clean: ## remove what was built
	rm -rf bin images/embedded/*.zst images/embedded/*.sha256
