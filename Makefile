# `make run` starts the server, `make test` runs the tests. Both install what they need.
PYTHON ?= python3
PIP = .venv/bin/python -m pip install --quiet --disable-pip-version-check
LOCK = deploy/lock
STACK ?= certlet
COMPILE = .venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate

.PHONY: run test ci nightly setup dist docs zip sbom deploy bench pages examples release-contract lock clean

run: setup
	.venv/bin/certlet serve --create

# Two environments in parallel: the longest, py, waits for servers part of the time, which fuzz uses.
test: setup .venv/tox
	.venv/bin/tox run-parallel --parallel 2 --parallel-no-spinner

ci: test
	.venv/bin/tox run -e docs,gateway,browser,clients,interop,adversarial,est,acme,container,deploy,bench,load,audit

# The long runs: 200,000 hostile requests (SEED repeats a night's requests), ten minutes each of coverage-guided
# fuzzing and full load; and the advisories, which change from day to day.
SEED ?= $(shell date +%s)
nightly: setup .venv/tox
	ADVERSARIAL_REQUESTS=200000 ADVERSARIAL_SEED=$(SEED) ADVERSARIAL_GUIDED_SECONDS=600 nice -n 19 .venv/bin/tox run -e adversarial -- -rP
	LOAD_SECONDS=600 .venv/bin/tox run -e load
	.venv/bin/tox run -e advisories

setup: .venv/bin/certlet

.venv/bin/certlet: $(LOCK)/service.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is required: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(PIP) --require-hashes --no-deps -r $(LOCK)/service.txt
	$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

.venv/tox: $(LOCK)/tox.txt .venv/bin/certlet
	$(PIP) --require-hashes --no-deps -r $(LOCK)/tox.txt
	@touch $@

# Build the source distribution, and from it the wheel, into build/dist: pipx install build/dist/certlet-*.whl
dist: setup
	rm -rf build/dist man certlet.egg-info
	.venv/bin/python -m deploy.man_pages man
	.venv/bin/python -c 'from setuptools.build_meta import build_sdist; build_sdist("build/dist")' > /dev/null
	.venv/bin/python -m pip wheel --quiet --no-deps --no-index --no-build-isolation --wheel-dir build/dist build/dist/certlet-*.tar.gz

# Build the Lambda zip into build/. ZIP="--arch x86_64 --ca ca" passes options; PROFILES=own.yaml adds your profiles.
WITH_PROFILES = $(if $(PROFILES),--profiles $(PROFILES))
zip: setup
	.venv/bin/python -m deploy.build $(WITH_PROFILES) $(ZIP)

# Write a bill of materials (CycloneDX) next to each zip in build/.
sbom: setup .venv/tox
	.venv/bin/tox exec -q -e audit -- python -m deploy.sbom build/*.zip

WITH_TAGS = $(if $(TAGS),--tags $(TAGS))
# Deploy to AWS; needs the commands sam and aws, and an account. OPENAPI="--est" passes options of `certlet openapi`,
# each time; PARAMETERS="CaPassphraseParameter=/certlet/passphrase" sets other parameters of deploy/template.yaml;
# TAGS="team=pki" tags the resources. The bucket is a stack of its own, which exists before the zip is uploaded.
deploy: setup
	.venv/bin/python -m deploy.build --output build/certlet.zip $(WITH_PROFILES) $(ZIP)
	.venv/bin/certlet openapi --format cloudformation $(WITH_PROFILES) $(OPENAPI) > build/openapi.json
	aws cloudformation deploy --template-file deploy/bucket.yaml --stack-name $(STACK)-bucket --no-fail-on-empty-changeset $(WITH_TAGS)
	bucket=$$(aws cloudformation describe-stacks --stack-name $(STACK)-bucket --query 'Stacks[0].Outputs[?OutputKey==`Bucket`].OutputValue' --output text) && \
	parameters=$$(.venv/bin/python -m deploy.parameters $(OPENAPI)) && \
	sam deploy --template-file deploy/template.yaml --stack-name $(STACK) --s3-bucket $$bucket --capabilities CAPABILITY_IAM --no-fail-on-empty-changeset $(WITH_TAGS) --parameter-overrides $$parameters $(PARAMETERS)

# The documentation, into build/site.
docs: setup .venv/tox
	.venv/bin/tox run -e docs
	@echo "Documentation: build/site/index.html (with search: $(PYTHON) -m http.server -b 127.0.0.1 -d build/site)"

# Measure all figures into bench/figures.md, docs/explanation/plots and build/. BENCH="--base REV --rounds 10" passes
# options (bench/README.md). Needs an otherwise idle machine.
bench: setup .venv/tox
	.venv/bin/tox exec -q -e bench -- python -m bench $(BENCH)

# Run after changing deploy/pages.
pages: setup
	.venv/bin/python -m deploy.embed_pages

# Run after changing responses: regenerates every example in the contract.
examples: setup .venv/tox
	.venv/bin/tox exec -q -e py -- python -m tests.examples

# Run with each release: tox -e clients then checks that later changes do not break its clients.
release-contract: setup .venv/tox
	.venv/bin/tox run -e clients
	.venv/bin/tox exec -q -e clients -- python -m deploy.compatibility --release

# Run after changing a version in pyproject.toml or a list in deploy/lock/*.in.
lock: .venv/tox
	$(COMPILE) pyproject.toml $(LOCK)/service.in --output-file $(LOCK)/service.txt
	$(COMPILE) $(LOCK)/tox.in --output-file $(LOCK)/tox.txt
	$(COMPILE) $(LOCK)/function.in --override $(LOCK)/function.overrides --constraint $(LOCK)/service.txt --output-file $(LOCK)/function.txt
	$(COMPILE) $(LOCK)/lambda.in --output-file $(LOCK)/lambda.txt
	$(COMPILE) $(LOCK)/sam.in --output-file $(LOCK)/sam.txt
	$(COMPILE) $(LOCK)/localstack.in --output-file $(LOCK)/localstack.txt
	$(COMPILE) pyproject.toml $(LOCK)/service.in $(LOCK)/audit.in --constraint $(LOCK)/service.txt --output-file $(LOCK)/audit.txt
	$(COMPILE) pyproject.toml $(LOCK)/service.in $(LOCK)/docs.in --constraint $(LOCK)/service.txt --output-file $(LOCK)/docs.txt
	$(COMPILE) pyproject.toml $(LOCK)/service.in $(LOCK)/tests.in --constraint $(LOCK)/service.txt --output-file $(LOCK)/tests.txt
	$(COMPILE) $(LOCK)/clients.in --constraint $(LOCK)/tests.txt --output-file $(LOCK)/clients.txt
	$(COMPILE) $(LOCK)/acme.in --constraint $(LOCK)/tests.txt --output-file $(LOCK)/acme.txt
	$(COMPILE) $(LOCK)/container.in --constraint $(LOCK)/tests.txt --output-file $(LOCK)/container.txt

clean:
	rm -rf .venv .tox build man
