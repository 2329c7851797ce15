# The same commands here, in pre-commit and in CI. `make` alone lists them.
UV ?= uv
MEMBERS := $(wildcard packages/*) $(wildcard projects/*)

.PHONY: help install format lint types contracts test parity tiny docs slow

help: ## list the targets
	@grep -E '^[a-z]+:.*## ' Makefile | sed 's/:.*## /\t/' | expand -t 12

install: ## every member and the tools, and the commit hooks
	$(UV) sync --all-packages
	$(UV) run pre-commit install

format: ## rewrite the sources in the one format
	$(UV) run ruff format
	$(UV) run ruff check --fix

lint: ## format, rules and spelling
	$(UV) run ruff format --check
	$(UV) run ruff check
	$(UV) run codespell
	$(UV) run python tools/check_files.py

types: ## basedpyright
	$(UV) run basedpyright

contracts: ## who imports whom, what each member declares, budgets and registrations
	$(UV) run lint-imports
	@for member in $(MEMBERS); do \
	    $(UV) run deptry "$$member/src" --config "$$member/pyproject.toml" || exit 1; done
	$(UV) run python tools/check_house.py

test: ## the default suite
	$(UV) run pytest

slow: ## what runs nightly
	$(UV) run pytest -m slow

parity: ## agreement with the recorded numbers of the originals
	$(UV) run pytest -m parity

tiny: ## the real entries on the embedded data, with tiny models
	$(UV) run pytest -m tiny

docs: ## links, and tables that are generated from results
	$(UV) run python tools/check_docs.py
