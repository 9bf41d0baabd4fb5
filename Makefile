# What a user and CI run. `make demo` needs Go alone; `make test` needs Go and Node.js.

GO          ?= go
MODULES     := hook device infra
VERSION     := $(shell git describe --tags --always --dirty 2>/dev/null)
LDFLAGS     := -s -w -X example.com/fleety/device/internal/cli.version=$(VERSION)
BUILD       := CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)'
# A bootstrap waits for the network, so only its cryptography is worth inlining.
SMALL       := -gcflags=all=-l -gcflags=crypto/...= -gcflags=vendor/golang.org/x/crypto/...=
DEVICE      ?= $(CURDIR)/iot_device
HOOK_ARCH   ?= arm64
FUZZTIME    ?= 500x
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
AWSSDK      := device/localcore/testdata/awssdk
CDK         := npx --no-install cdk

.PHONY: demo rehearse test device hook local fleet synth deploy destroy bench release clean
.PHONY: check fuzz unit

# The whole path on this machine: a device comes in, and one is refused.
demo: device local
	scripts/build-hook.sh dist/hook/bootstrap $$($(GO) env GOARCH)
	scripts/demo.sh --templates templates --hook dist/hook/bootstrap

# The same against the stack that is deployed, as cdk synth writes it.
rehearse: device local infra/node_modules
	CERTIFICATE_ARN=$(CERTIFICATE_ARN) scripts/rehearse.sh

# All tests, as CI runs them.
test: check rehearse fuzz unit

device:
	cd device && $(BUILD) $(SMALL) -o $(DEVICE) ./cmd/iot_device

local:
	cd device && $(BUILD) -o ../iot_core_local ./cmd/iot_core_local

fleet:
	cd device && $(BUILD) -o ../iot_fleet ./cmd/iot_fleet

hook:
	scripts/build-hook.sh hook/dist/bootstrap $(HOOK_ARCH)

# --- tests -------------------------------------------------------------------

# Each module is checked by itself, as whoever imports it alone would see it.
check:
	@unformatted=$$(git ls-files '*.go' | xargs gofmt -l); if [ -n "$$unformatted" ]; then \
		echo "gofmt would change: $$unformatted" >&2; exit 1; fi
	@for module in $(MODULES); do echo "checking $$module"; ( cd $$module && \
		GOWORK=off $(GO) mod tidy -diff && \
		GOWORK=off $(GO) vet ./... && \
		GOWORK=off $(GO) run $(STATICCHECK) ./... ) || exit 1; done

# A short run of every fuzz target. Not infra's: instrumenting the CDK takes minutes, and unit runs its seeds.
fuzz:
	@git grep -E '^func Fuzz' -- 'hook/*_test.go' 'device/*_test.go' | \
	sed 's#^\(.*\)/[^/]*:func \(Fuzz[A-Za-z0-9_]*\).*#\1 \2#' | while read -r folder target; do \
		echo "fuzzing $$folder $$target"; ( cd $$folder && $(GO) test -run '^$$' -fuzz "^$$target\$$" \
			-fuzztime $(FUZZTIME) -fuzzminimizetime 1s . >/dev/null ) || exit 1; done

# With the race detector. CDK synthesis, with the hook built for Lambda, is among infra's tests.
unit: infra/node_modules $(AWSSDK)/node_modules
	@for module in $(MODULES); do echo "testing $$module"; ( cd $$module && \
		$(GO) test -race -timeout 30m ./... ) || exit 1; done

%/node_modules: %/package.json %/package-lock.json
	cd $* && npm ci --silent --ignore-scripts --no-audit --no-fund
	@touch $@

# --- cloud -------------------------------------------------------------------

synth: infra/node_modules
	cd infra && $(CDK) synth $(if $(CERTIFICATE_ARN),-c certificateArn=$(CERTIFICATE_ARN)) $(CDK_ARGS)

# CDK_ARGS holds further options, as in CDK_ARGS='-c serialRegistry=true'.
deploy: infra/node_modules
	@scripts/deploy.sh '$(CERTIFICATE_ARN)' $(CDK_ARGS)

destroy: infra/node_modules
	@scripts/deploy.sh --destroy '$(CERTIFICATE_ARN)' $(CDK_ARGS)

# --- measure, release, clean ---------------------------------------------------

bench:
	cd hook && $(GO) test -run '^$$' -bench . -benchmem .
	cd device && $(GO) test -run '^$$' -bench . -benchmem ./...

PLATFORMS := linux/amd64 linux/arm64 linux/arm/6 linux/arm/7 linux/386 linux/riscv64 linux/mipsle \
	darwin/amd64 darwin/arm64 windows/amd64

release: $(addprefix release/,$(PLATFORMS))

# release/OS/ARCH[/ARM VERSION] makes dist/iot_device_OS_ARCH[vVERSION].
release/%: os   = $(word 1,$(subst /, ,$*))
release/%: arch = $(word 2,$(subst /, ,$*))
release/%: arm  = $(word 3,$(subst /, ,$*))
release/%:
	cd device && GOOS=$(os) GOARCH=$(arch) GOARM=$(arm) GOMIPS=softfloat $(BUILD) $(SMALL) \
		-o ../dist/iot_device_$(os)_$(arch)$(if $(arm),v$(arm))$(if $(filter windows,$(os)),.exe) ./cmd/iot_device

clean:
	rm -rf iot_device iot_core_local iot_fleet dist hook/dist infra/cdk.out infra/node_modules $(AWSSDK)/node_modules .ci/tools
