# What a user and CI run. `make demo` needs Go alone; `make test` needs Go and Node.js.
# `make help` lists the targets: a comment with two # after a target is its help.

GO          ?= go
MODULES     := hook device infra

# Of all but help and clean.
ifneq ($(filter-out help clean,$(or $(MAKECMDGOALS),help)),)
ifeq ($(shell command -v $(firstword $(GO)) 2>/dev/null),)
$(error Go is not installed, or not in PATH: get it from https://go.dev/dl/)
endif
endif

# Without the folder of the clone in what is compiled, all clones share Go's build cache. Go asks git
# nothing, which fails in a clone of another user's, such as one that a container mounts. A workspace
# takes neither -mod=mod nor -modfile, and has no folder for -mod=vendor. AWS's SDK and the CDK take
# less time and memory to compile without inlining, and are no slower.
QUICK       := -gcflags=github.com/aws/...=-l
export GOFLAGS := $(strip $(filter-out -trimpath -buildvcs=% -mod=% -modfile=% $(QUICK),$(shell $(GO) env GOFLAGS 2>/dev/null)) -trimpath -buildvcs=false $(QUICK))

VERSION     := $(shell git describe --tags --always --dirty 2>/dev/null)
COMMIT      := $(shell git rev-parse HEAD 2>/dev/null)
DEVICE      := ../iot_device
HOOK_ARCH   ?= arm64
FUZZTIME    ?= 200x

# With it, cd device could lead elsewhere.
unexport CDPATH

# What a caller can give, and a tag, may be somebody else's text. Recipes get it through the
# environment: neither make nor the shell runs what is in it.
GIVEN       := CERTIFICATE_ARN CDK_ARGS DEVICE HOOK_ARCH FUZZTIME ENDPOINT API ROOT ARGS VERSION COMMIT
$(foreach v,$(GIVEN),$(eval override $v := $$(value $v)))
export LDFLAGS $(foreach v,$(GIVEN),$(if $(value $v),$v))

# Functions at every 16 bytes, not 32, take fewer pages: a bootstrap has a tenth of a megabyte less resident.
LDFLAGS     := -s -w -funcalign=16 $(foreach v,version=$(VERSION) commit=$(COMMIT),-X example.com/fleety/device/internal/cli.$v)
BUILD       := CGO_ENABLED=0 $(GO) build -trimpath -ldflags "$$LDFLAGS"
# A bootstrap waits for the network, so only its cryptography is worth inlining.
# Nothing that it speaks HTTP with needs HTTP/2.
SMALL       := -tags nethttpomithttp2 -gcflags=all=-l -gcflags=crypto/...= -gcflags=vendor/golang.org/x/crypto/...=
AWSSDK      := device/localcore/testdata/awssdk
CDK         := npx --no-install cdk
LINT        := .ci/tools/golangci-lint
GOTESTSUM   := .ci/tools/gotestsum
GOVULNCHECK := .ci/tools/govulncheck

.PHONY: help demo rehearse test check-fast device device-pkcs11 hook local fleet synth deploy destroy bench conformance torture release packages images clean
.PHONY: benchmarks check fmt lint vulnerabilities fuzz unit unit-device unit-others

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Both run here what they build, whatever processor the caller builds for.
demo rehearse: export GOOS :=
demo rehearse: export GOARCH :=

demo:  ## run the complete provisioning flow here; needs Go alone
	@echo 'Building iot_device, iot_core_local and the hook; the first time takes minutes.'
	@$(MAKE) --no-print-directory --silent device local
	@scripts/demo.sh --hook dist/hook/bootstrap

rehearse: device local infra/node_modules  ## demo with the stack of cdk synth; needs Node.js
	scripts/rehearse.sh

# The seeds of fuzz targets run with the tests; lint and fuzz, which compile everything once more, are
# a job of their own in CI.
test: check unit  ## all tests, as CI runs them; needs Go and Node.js

# Everything that can be checked without building a program or the CDK app. Many tests wait for
# processes and timers, hence more of them at a time than there are processors, those that wait
# longest first. Nobody debugs these binaries, and symbols take a third of a link.
check-fast: fmt  ## before each commit: format, vet, tests without builds
	@$(GO) test -short -vet=all -p 6 -parallel 8 -ldflags='-s -w' ./device/internal/cli ./device/agent ./device/provision \
		$$($(GO) list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}' ./hook/... ./device/... | grep -v /e2e)

device:  ## build ./iot_device, static
	cd device && $(BUILD) $(SMALL) -o "$$DEVICE" ./cmd/iot_device

device-pkcs11:  ## build ./iot_device with PKCS #11, which needs cgo
	cd device && CGO_ENABLED=1 $(GO) build -trimpath -ldflags "$$LDFLAGS" -tags pkcs11 -o "$$DEVICE" ./cmd/iot_device

local:  ## build ./iot_core_local, the emulator, and its hook
	cd device && $(BUILD) -o ../iot_core_local ./cmd/iot_core_local
	scripts/build-hook.sh dist/hook/bootstrap $$($(GO) env GOARCH)

fleet:  ## build ./iot_fleet
	cd device && $(BUILD) -o ../iot_fleet ./cmd/iot_fleet

hook:  ## build hook/dist/bootstrap for Lambda, linux/arm64
	scripts/build-hook.sh hook/dist/bootstrap "$$HOOK_ARCH"

# --- tests -------------------------------------------------------------------

fmt:  ## fail if gofmt would change a file
	@unformatted=$$({ git ls-files '*.go' 2>/dev/null || find . -name node_modules -prune -o -name '*.go' -print; } | xargs gofmt -l); if [ -n "$$unformatted" ]; then \
		echo "gofmt would change: $$unformatted" >&2; exit 1; fi

# Each module is checked by itself, as a program that imports it alone sees it.
check: fmt  ## fmt, and whether go.mod is tidy
	@for module in $(MODULES) testcontainers; do ( cd $$module && GOWORK=off $(GO) mod tidy -diff ) || exit 1; done

lint: $(LINT)  ## run the linters of .golangci.yaml on every module
	@for module in $(MODULES) testcontainers; do echo "linting $$module"; \
		( cd $$module && GOWORK=off ../$(LINT) run --config ../.golangci.yaml ./... ) || exit 1; done

vulnerabilities: $(GOVULNCHECK)  ## look for known vulnerabilities in code that is called
	@for module in $(MODULES) testcontainers; do ( cd $$module && GOWORK=off ../$(GOVULNCHECK) ./... ) || exit 1; done

# The tools are pinned in a module of their own. To compile the linters takes minutes.
$(LINT) $(GOTESTSUM) $(GOVULNCHECK): .ci/lint/go.mod .ci/lint/go.sum
	cd .ci/lint && export GOWORK=off CGO_ENABLED=0 && $(GO) build -o ../tools/ $$($(GO) list tool | grep '/$(@F)$$')
	@touch $@

fuzz:  ## run every fuzz target for FUZZTIME inputs
	@scripts/fuzz.sh "$$FUZZTIME"

# With the race detector, without its wait of a second at the end of each process; but the CDK app,
# whose synthesis with the hook built for Lambda is among its tests, has no goroutines, and the CDK
# would be compiled twice. The packages that take longest come first. Of packages, and of the tests of
# each, more run at a time than there are processors, because they often wait. What they build needs no
# symbols, which take a third of a link.
# Where a few tests fail, and no data race is found, they run once more by themselves. What then
# passes is named at the end: something to mend, but no reason to hold a change back.
unit: export GORACE := atexit_sleep_ms=50
unit: export GOFLAGS += -ldflags=-s
unit: $(GOTESTSUM)  ## the tests of every module, with the race detector, and a rehearsal
	@mkdir -p dist; rm -f dist/flaky*
	@$(MAKE) --no-print-directory -j2 $(if $(filter output-sync,$(.FEATURES)),--output-sync) unit-device unit-others
	@cat dist/flaky* >dist/flakes 2>/dev/null; if [ -s dist/flakes ]; then echo flaky:; cat dist/flakes; fi

# A make that a test runs is not part of this one.
TEST = MAKEFLAGS= MFLAGS= $(GOTESTSUM) --format standard-quiet --rerun-fails=1 --rerun-fails-max-failures=6 \
	--rerun-fails-abort-on-data-race --rerun-fails-report=dist/flaky-$@

# go vet, which reads each dependency whole for its own tables, is left to check-fast and lint, but for
# tags that these do not set. Without Python there is no AWS command line that it makes faster.
unit-device: $(AWSSDK)/node_modules
	$(if $(shell command -v python3),.ci/aws.py dist/aws) env $(TEST) --packages='./device/e2e ./device/... ./hook/...' -- -race -vet=off -p 3 -parallel 4 -timeout 30m
	cd device && $(GO) test -race -vet=all -tags pkcs11 ./identity/pkcs11

# Without cgo, as all that is shipped: what is compiled for the one serves the other.
unit-others: export CGO_ENABLED := 0
# Each synthesis has V8 collect hundreds of megabytes. More helpers than processors wait for each other,
# which took a third of the processor time. The first option is what the CDK's runtime sets by itself.
unit-others: export NODE_OPTIONS := --max-old-space-size=4069 --v8-pool-size=1
unit-others: rehearse
	$(TEST) --packages='./infra/...' -- -vet=off -timeout 30m
	cd .ci/release && GOWORK=off $(GO) test -vet=all .
	cd testcontainers && GOWORK=off $(GO) test -vet=off ./...

# npm writes this file when all is installed: a folder that an interrupt has left half made is no target.
infra/node_modules $(AWSSDK)/node_modules: %: %/.package-lock.json
%/node_modules/.package-lock.json: %/package.json %/package-lock.json
	@command -v npm >/dev/null || { echo 'make: error: Node.js is not installed: get version 22 or later from https://nodejs.org' >&2; exit 1; }
	cd $* && npm ci --silent --ignore-scripts --no-audit --no-fund
	@touch $@

# --- cloud -------------------------------------------------------------------

synth: infra/node_modules  ## run cdk synth
	cd infra && set -f && $(CDK) synth $${CERTIFICATE_ARN:+-c "certificateArn=$$CERTIFICATE_ARN"} $$CDK_ARGS

# CDK_ARGS holds further options, as in CDK_ARGS='-c serialRegistry=listed'.
deploy: infra/node_modules  ## deploy the stack, after checks: CERTIFICATE_ARN=…
	@set -f; scripts/deploy.sh "$$CERTIFICATE_ARN" $$CDK_ARGS

destroy: infra/node_modules  ## delete the stack
	@set -f; scripts/deploy.sh --destroy "$$CERTIFICATE_ARN" $$CDK_ARGS

# --- measure, release, clean ---------------------------------------------------

bench:  ## run the benchmarks, and print one table of ours, peers and limits
	@mkdir -p dist; { $(MAKE) --no-print-directory benchmarks || touch dist/bench.failed; } | tee dist/bench.txt
	@awk -f scripts/bench-table.awk dist/bench.txt; if [ -e dist/bench.failed ]; then rm dist/bench.failed; exit 1; fi

# Those with a number of turns have peers or limits that they do in turns.
benchmarks: $(AWSSDK)/node_modules
	cd hook && $(GO) test -run '^$$' -bench . -benchmem .
	cd device && $(GO) test -run '^$$' -bench Broker -benchtime 5000x ./e2e
	cd device && $(GO) test -run '^$$' -bench '^Benchmark[^B]|Bootstrap' ./e2e
	cd device && $(GO) test -run '^$$' -bench . -benchtime 800x ./fleet
	cd device && $(GO) test -run '^$$' -bench . -benchmem $$($(GO) list ./... | grep -v -e '/e2e$$' -e '/fleet$$')
	cd device && $(GO) test -tags pkcs11 -run '^$$' -bench . -benchmem ./identity/pkcs11

# ENDPOINT, API=URL, ROOT=FILE and the rest of the flags in ARGS choose another endpoint than the emulator.
conformance:  ## compare emulator or ENDPOINT with AWS's documentation
	cd device && $(BUILD) -o ../iot_core_local ./cmd/iot_core_local
	set -f; ./iot_core_local conformance $${ENDPOINT:+--endpoint "$$ENDPOINT"} $${API:+--api "$$API"} $${ROOT:+--root "$$ROOT"} $$ARGS

# What virtual machines go through: first boots that meet trouble, under systemd,
# and 200 power cuts. Needs root and the packages that .ci/run installs, and
# debootstrap; takes an hour.
torture: device  ## hours of faults: virtual machines, power cuts, kills
	scripts/torture-kernel.sh
	scripts/torture-root.sh
	cd device && CI=true $(GO) test ./e2e -v -timeout 6h -parallel 2 -run 'PowerCuts|FirstBoot' -power.cuts 67 -first.boot
	cd device && $(GO) test ./e2e -v -timeout 2h -run Kill -crash.kills 1000 -crash.pairs 1 -outbox.kills 1

PLATFORMS := linux/amd64 linux/arm64 linux/arm/5 linux/arm/6 linux/arm/7 linux/386 linux/riscv64 linux/mipsle \
	darwin/amd64 darwin/arm64 windows/amd64 windows/arm64
DESKTOPS  := $(filter %/amd64 %/arm64,$(PLATFORMS))
BINARIES  := $(PLATFORMS:%=iot_device/%) $(DESKTOPS:%=iot_core_local/%) $(DESKTOPS:%=iot_fleet/%)

# Whatever in the caller's environment could change the bytes is set here; where it is empty, what
# go env -w has written counts.
PINNED    := GOWORK=off GOFLAGS='-buildvcs=false $(QUICK)' GOEXPERIMENT= GOFIPS140=off CGO_ENABLED=0 GOAMD64=v1 GOARM64=v8.0 GO386=sse2 \
	GOMIPS=softfloat GORISCV64=rva20u64

release: $(BINARIES:%=release/%) .ci/tools/cyclonedx-gomod .ci/tools/notices  ## all programs, platforms, SBOMs and checksums in dist/
	scripts/release.sh "$$VERSION"

# release/PROGRAM/OS/ARCH[/ARM VERSION] makes dist/PROGRAM_OS_ARCH[vVERSION].
release/%: program = $(word 1,$(subst /, ,$*))
release/%: os      = $(word 2,$(subst /, ,$*))
release/%: arch    = $(word 3,$(subst /, ,$*))
release/%: arm     = $(word 4,$(subst /, ,$*))
release/%:
	cd device && $(PINNED) GOOS=$(os) GOARCH=$(arch) GOARM=$(arm) $(GO) build -trimpath -ldflags "$$LDFLAGS" \
		$(if $(filter iot_device,$(program)),$(SMALL)) \
		-o ../dist/$(program)_$(os)_$(arch)$(if $(arm),v$(arm))$(if $(filter windows,$(os)),.exe) ./cmd/$(program)

packages: $(addprefix release/,$(foreach b,$(BINARIES),$(if $(findstring /linux/,$b),$b))) .ci/tools/nfpm .ci/tools/notices  ## make and test .deb, .rpm, .apk and .ipk in dist/packages
	rm -rf dist/packages
	scripts/packages.sh "$$VERSION" dist/packages
	cd device && $(GO) test ./e2e -packages -run 'Package|Release' -timeout 30m

images: $(foreach p,iot_device iot_core_local iot_fleet,release/$p/linux/amd64 release/$p/linux/arm64) .ci/tools/images .ci/tools/notices  ## make container images, as OCI layouts in dist/images
	rm -rf dist/images
	scripts/images.sh "$$VERSION" dist/images
	cd device && $(GO) test ./e2e -packages -run Image -timeout 30m

.ci/tools/notices .ci/tools/images: .ci/tools/%: .ci/release/%/main.go .ci/release/go.sum
	cd .ci/release && $(PINNED) $(GO) build -trimpath -o ../tools/ ./$*

.ci/tools/cyclonedx-gomod .ci/tools/nfpm: .ci/release/go.sum
	cd .ci/release && export $(PINNED) && $(GO) build -trimpath -o ../tools/ $$($(GO) list tool | grep '/$(@F)$$')
	@touch $@

clean:  ## remove build output
	rm -rf iot_device iot_core_local iot_fleet dist hook/dist infra/cdk.out infra/node_modules $(AWSSDK)/node_modules .ci/tools
