# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

.DEFAULT_GOAL := help
# The targets share build/ and the containers, and their output is read by people: one after the other. What may run beside
# each other are the lanes of `make test`.
.NOTPARALLEL:
SHELL := /bin/bash

ifndef NUMAPIN_STARTED
export NUMAPIN_STARTED := $(shell date +%s)
endif

# An environment is as good as its lock and its place: a changed lock or a moved checkout makes it anew.
ENVIRONMENT := .venv/.numapin-$(shell { pwd -P; cat requirements/dev.txt; } | sha256sum | cut -c1-16)
# Lets `ansible_collections.numapin.inference` resolve to the working tree.
DEV := build/dev/ansible_collections/numapin/inference
BIN := .venv/bin
STEP := tools/step

export PATH := $(CURDIR)/$(BIN):$(PATH)
export ANSIBLE_COLLECTIONS_PATH := $(CURDIR)/build/dev
export PYTHONPATH := $(CURDIR)/build/dev
export PYTHONDONTWRITEBYTECODE := 1
# A checkout may belong to somebody else than the one who runs make (sudo, CI); git refuses to look into it by default.
ifndef GIT_CONFIG_COUNT
export GIT_CONFIG_COUNT := 1
export GIT_CONFIG_KEY_0 := safe.directory
export GIT_CONFIG_VALUE_0 := $(CURDIR)
endif

.PHONY: help
help: ## show these targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | while IFS=$$'\t' read -r target text; do printf '  make %-12s %s\n' "$$target" "$$text"; done

## The user's part

.PHONY: demo demo-down demo-artefact
demo: $(ENVIRONMENT) $(DEV) ## two inference hosts and a balancer in containers, real vLLM, one streamed answer
	@tests/containers/demo up

demo-artefact: $(ENVIRONMENT) ## the same for a moment, deployed by the built artefact as the README installs it
	@$(BIN)/python tests/artefact/installed.py build/installed
	@NUMAPIN_INSTALLED=build/installed python3 tests/containers demo artefact-demo; status=$$?; \
		python3 tests/containers down artefact-demo; exit $$status

demo-down: $(ENVIRONMENT) $(DEV) ## remove the demo
	@tests/containers/demo down

.PHONY: lab lab-shell lab-down
lab: $(ENVIRONMENT) $(DEV) ## two dual-socket machines and a balancer under QEMU, site.yml run on them
	@python3 tests/lab lab

lab-shell: ## log in to one of them: make lab-shell HOST=inference1
	@python3 tests/lab ssh $(or $(HOST),inference1)

lab-down: ## stop them
	@python3 tests/lab down

## The contributor's part

# make test has two lanes that run beside each other and take about as long: in one what needs machines of the lab, in the other
# what needs the built collection or containers; the rest fills up. They share nothing but .venv and the system's packages. The two
# scenarios take most of the memory, so that one comes early and one late.
HERE := lint types unit-tree documents artefact matrix-some units sanity importer nginx integration docs release-test monitoring molecule
LAB := lab-machines molecule-lab lab-facts lab-irqs lab-tuning oracle engine fuzz-some fleet report-test

.PHONY: test check
test: $(ENVIRONMENT) $(DEV) ## everything, in two lanes beside each other
	@$(BIN)/python tools/lanes.py $(MAKE) here "$(HERE)" lab "$(LAB)"
	@now=$$(( $$(date +%s) - NUMAPIN_STARTED )); printf '\n==== all of make test passed in %d:%02d\n' $$((now / 60)) $$((now % 60))

check: lint types unit documents ## the fast part: lint, types, unit tests and pages, no container

.PHONY: lint ruff yamllint ansible-lint changelog reuse tree
lint: ruff yamllint tree reuse changelog ansible-lint ## every linter

ruff: $(ENVIRONMENT)
	@$(STEP) 2m "ruff: lint" ruff check --cache-dir .cache/ruff
	@$(STEP) 2m "ruff: format" ruff format --check --diff --cache-dir .cache/ruff

yamllint: $(ENVIRONMENT)
	@$(STEP) 2m "yamllint" yamllint --strict .

tree: $(ENVIRONMENT)
	@$(STEP) 2m "tree: names no registry and no place of this machine" $(BIN)/python tools/check_tree.py

reuse: $(ENVIRONMENT)
	@$(STEP) 2m "reuse: every file has its licence" reuse lint --lines

changelog: $(ENVIRONMENT)
	@$(STEP) 2m "antsibull-changelog: fragments" antsibull-changelog lint

ansible-lint: $(ENVIRONMENT) $(DEV)
	@$(STEP) 5m "ansible-lint: profile production" ansible-lint

.PHONY: types unit unit-tree
types: $(ENVIRONMENT) $(DEV) ## mypy, strict
	@$(STEP) 5m "mypy: strict" tools/types

unit: $(ENVIRONMENT) $(DEV) ## unit tests with plain pytest
	@$(STEP) 5m "pytest: unit tests" pytest -n auto --dist worksteal -q

.PHONY: matrix matrix-some
matrix: $(ENVIRONMENT) $(DEV) ## units and syntax check with every supported ansible-core and Python; CELLS="2.20 2.21-3.13" for some
	@$(STEP) 90m "ansible-core and Python, each with each" $(BIN)/python tools/matrix.py $(CELLS)

matrix-some: $(ENVIRONMENT) $(DEV)
	@$(STEP) 5m "ansible-core and Python: some of make matrix" $(BIN)/python tools/matrix.py --some

# ansible-test (units) runs the same ones on the built collection; make test leaves to pytest what is not in that.
unit-tree: $(ENVIRONMENT) $(DEV)
	@$(STEP) 2m "pytest: unit tests of what only the working tree has" pytest -q tests/unit/test_example_fleet.py

.PHONY: documents tables artefact
documents: $(ENVIRONMENT) $(DEV) ## what pages say is so: blocks, names, links, variables; what the artefact holds
	@$(STEP) 1m "pages: the table of every variable" $(BIN)/python tools/role_tables.py --check
	@$(STEP) 5m "pytest: pages and artefact" pytest -q tests/documents

artefact: $(ENVIRONMENT) $(DEV) ## the artefact, installed by the README's words into an empty environment, without the checkout
	@$(STEP) 3m "pytest: the artefact as users have it" pytest -q tests/artefact

tables: $(ENVIRONMENT) ## write the table of every variable into each role's README
	@$(BIN)/python tools/role_tables.py

.PHONY: docs
docs: $(ENVIRONMENT) $(DEV) ## the documentation site, into build/site/html; a warning is an error
	@$(STEP) 5m "antsibull-docs and Sphinx: the site" tools/docs-site

.PHONY: nginx
nginx: $(ENVIRONMENT) $(DEV) ## the balancer's configuration in a real nginx, on loopback
	@$(STEP) 10m "pytest: the balancer in a real nginx" tools/nginx pytest -q tests/nginx

.PHONY: fuzz fuzz-some
fuzz: $(ENVIRONMENT) $(DEV) ## 10,000 randomly damaged trees, 400 calls of each module with wrong arguments: a result or a clear error
	@$(STEP) 15m "damaged trees" $(BIN)/python tests/fuzz/damaged_trees.py
	@$(STEP) 15m "modules with wrong arguments" $(BIN)/python tests/fuzz/module_arguments.py

# The same ones in every run, so that a change is judged by itself; make fuzz looks for new ones.
fuzz-some: $(ENVIRONMENT) $(DEV) ## the same with 3,000 trees and 30 calls
	@$(STEP) 10m "damaged trees, some" $(BIN)/python tests/fuzz/damaged_trees.py --seed 960481854 --count 3000
	@$(STEP) 5m "modules with wrong arguments, some" $(BIN)/python tests/fuzz/module_arguments.py --seed 960481854 --count 30

.PHONY: report-browser report-test report-images
report-browser: $(ENVIRONMENT) $(DEV)
	@$(STEP) 10m "a browser for the report" tools/apt-install chromium fonts-dejavu-core

report-test: report-browser ## the fleet's report in a real Chromium: complete, safe, accessible, fast with 1,000 hosts
	@$(STEP) 5m "pytest: the report in a browser" pytest -n 2 -q tests/report

report-images: report-browser ## the same, and its pictures go into docs/images
	@$(STEP) 5m "pytest: the report in a browser, with pictures" pytest -q tests/report --images docs/images

.PHONY: monitoring
monitoring: $(ENVIRONMENT) $(DEV) ## rules, dashboards and scrape configuration with a real Prometheus, on loopback
	@$(STEP) 5m "pytest: Prometheus, rules, dashboards" tools/prometheus pytest -q tests/monitoring

.PHONY: fleet
fleet: $(ENVIRONMENT) $(DEV) ## site.yml on doubles of hosts: nothing to change, another strategy, hosts that go away
	@$(STEP) 5m "pytest: site.yml on doubles of hosts" pytest -q -n 2 tests/fleet

.PHONY: oracle
oracle: $(ENVIRONMENT) $(DEV) ## the topology reader against hwloc, on the machines captured for hwloc's own tests
	@$(STEP) 5m "packages for the oracle" tools/apt-install hwloc-nox tar
	@$(STEP) 10m "pytest: what hwloc sees in captured machines" pytest -q tests/oracle

.PHONY: engine engine-real
engine: $(ENVIRONMENT) $(DEV) ## the engine double, and what the real vLLM answered to the same requests
	@$(STEP) 5m "pytest: the engine double" pytest -q tests/engine

engine-real: $(ENVIRONMENT) $(DEV) containers ## the same requests to the double and to the real vLLM, in a container
	@$(STEP) 20m "the engine double against the real vLLM" tests/engine/against-real

.PHONY: collection sanity importer units integration containers molecule lab-image lab-facts lab-machines lab-irqs lab-tuning lab-shortfall molecule-lab
collection: $(ENVIRONMENT)
	@$(STEP) 2m "ansible-galaxy: build and install the collection" tools/ansible-test install

sanity: collection ## ansible-test sanity on the built and installed collection
	@$(STEP) 15m "ansible-test: sanity" tools/ansible-test sanity

# Galaxy lints as well; here that is make lint's, which is stricter, and make release lets both do it.
importer: collection ## galaxy-importer on the built artefact: what Galaxy would say to it
	@GALAXY_IMPORTER_RUN_ANSIBLE_LINT=false $(STEP) 5m "galaxy-importer" $(BIN)/python tools/importer.py build/artefact/numapin-inference-*.tar.gz

.PHONY: release release-test
release: $(ENVIRONMENT) $(DEV) ## make release VERSION=1.2.3 [DRY_RUN=1]: changelog, version, artefact, checks, commit, tag
	@$(BIN)/python tools/release.py $(if $(DRY_RUN),--dry-run) $(VERSION)

release-test: $(ENVIRONMENT) $(DEV) ## the same in a throw-away clone
	@$(STEP) 5m "pytest: a release in a throw-away clone" pytest -q tests/release

# With strace tests see that check mode writes nothing.
.PHONY: strace
strace:
	@$(STEP) 5m "strace, for what check mode does" tools/apt-install strace

units: collection strace ## ansible-test units on the built and installed collection
	@$(STEP) 10m "ansible-test: units" tools/ansible-test units

integration: collection strace ## ansible-test integration targets on this machine
	@$(STEP) 10m "ansible-test: integration" tools/ansible-test integration

lab-image: $(ENVIRONMENT) # what machines of the lab start from
	@$(STEP) 15m "lab: packages and image" python3 tests/lab prepare

lab-facts: lab-image $(DEV) ## numa_facts against numactl, lscpu and lspci, and plans, on virtual machines of six shapes
	@$(STEP) 15m "lab: facts of six machines and of this one" pytest -q -s tests/lab/test_facts.py tests/lab/test_plans.py

lab-machines: lab-image $(DEV) ## a lab's machine: what can be moved in it and what not, a reset; instances over its nodes
	@$(STEP) 10m "lab: machines, instances over nodes" pytest -q -s tests/lab/test_machines.py tests/lab/test_bindings.py

lab-irqs: lab-image $(DEV) ## irq_affinity on a virtual machine: links, drivers, queues, irqbalance, a reboot
	@$(STEP) 10m "lab: interrupts placed, kept, put back" pytest -q -s tests/lab/test_irqs.py

lab-tuning: lab-image $(DEV) ## host_tuning on a virtual machine: set, refused, kept over a reboot, undone
	@$(STEP) 15m "lab: a machine is tuned, boots, is restored, boots" pytest -q -s tests/lab/test_tuning.py

lab-shortfall: lab-image $(DEV) ## hugepages, dpdk-hugepages.py and sysctl short of memory: the table in docs/tuning.md
	@$(STEP) 10m "lab: who says what when memory is short" python3 tests/lab shortfall $(if $(WRITE),write)

molecule-lab: lab-image $(DEV) ## the scenario lab: site.yml on dual-socket machines, a reboot of each, testinfra
	@$(STEP) 30m "molecule: lab" molecule test --scenario-name lab

containers: $(ENVIRONMENT) ## what the demo and molecule need: image, vLLM, model
	@$(STEP) 20m "containers: image, vLLM, model" python3 tests/containers prepare

molecule: containers $(DEV) ## the scenario default: containers, real vLLM, testinfra
	@$(STEP) 25m "molecule: default" molecule test --scenario-name default

.PHONY: rollout-load rollout-faults
rollout-load: containers $(DEV) ## changes of every kind under 2,000 streams, real vLLM: nothing is lost
	@$(STEP) 30m "changes under load" python3 tests/containers/rollout_load.py

rollout-faults: containers $(DEV) ## what goes wrong during rollouts, and what clients see of it
	@$(STEP) 60m "faults under load" python3 tests/containers/rollout_faults.py

.PHONY: benchmark-containers benchmark-verdicts benchmark-lab
benchmark-containers: containers $(DEV) ## benchmark.yml from end to end, real vLLM: refused, previewed, measured, nothing left
	@$(STEP) 40m "the benchmark in a container" python3 tests/containers/benchmark.py

benchmark-verdicts: containers $(DEV) ## its verdicts on the real vLLM: two equal placements 20 times, and one that is slowed
	@$(STEP) 30m "verdicts of the benchmark" $(BIN)/python tests/figures/run.py benchmark_false_verdicts benchmark_slowed_found

benchmark-lab: containers lab-image $(DEV) ## benchmark.yml on a machine with two nodes: where the kernel had what it measured
	@$(STEP) 30m "the benchmark on a machine with two nodes" pytest -q -s tests/lab/test_benchmark.py

.PHONY: groups
groups: containers $(DEV) ## one instance over two hosts, real vLLM: whole answers, closed ports, kill -9 of its parts, a rollout
	@$(STEP) 30m "an instance over two hosts" $(BIN)/python tests/containers/groups.py

.PHONY: format figures lock clean
format: $(ENVIRONMENT) ## let ruff write the format it checks
	@ruff check --fix --cache-dir .cache/ruff
	@ruff format --cache-dir .cache/ruff

figures: $(ENVIRONMENT) $(DEV) ## measure what the README claims, into build/figures.json
	@$(STEP) 60m "figures" $(BIN)/python tests/figures/run.py

lock: $(ENVIRONMENT) ## resolve requirements/dev.in into requirements/dev.txt anew
	@$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		-o requirements/dev.txt requirements/dev.in

clean: ## remove what can be rebuilt, except the demo's containers (make demo-down)
	rm -rf .venv .cache build tests/output .ansible .hypothesis

$(ENVIRONMENT):
	@tools/bootstrap $@

$(DEV):
	@mkdir -p $(@D) && ln -sfn ../../../.. $@
