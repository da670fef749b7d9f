# The targets are thin: the work is in tools/ and pgrx-tests/.

.DEFAULT_GOAL := help
.PHONY: help demo test unit bench install clean

PG_CONFIG ?= pg_config

help:
	@echo "make demo                   a private PostgreSQL 15: sign-ups, a conflict, repair and undo; the first run builds everything"
	@echo "make test [PG=15]           everything, on PostgreSQL 15, 16, 17 and 18, or on the one named"
	@echo "                            (PG=17-cassert: a build with assertions, which finds misuse that others hide)"
	@echo "make unit                   what needs no server: unit tests, format, lints"
	@echo "make install [PG_CONFIG=p]  release build into the PostgreSQL of that pg_config (default: the one in PATH)"
	@echo "make bench                  the figures, beside those of other ways to do it"
	@echo "make clean                  removes target/; the cache of built servers (~/.cache/onagui_sync) stays"

demo:
	@pgrx-tests/demo.sh

test:
	@tools/test.sh $(PG)

unit:
	@tools/test.sh unit

bench:
	@tools/build.sh 15 release
	@pgrx-tests/bench/run.sh

install:
	@tools/install.sh "$(PG_CONFIG)"

clean:
	rm -rf target
