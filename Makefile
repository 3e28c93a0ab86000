# Two commands: `make demo` shows skep at work, `make test` checks everything. Both set up what they need.
# All the work is in tools/xtask; `cargo xtask help` lists the rest.

.PHONY: demo test setup bench
demo: ; @cargo xtask demo
test: ; @cargo xtask test
setup: ; @cargo xtask setup
bench: ; @cargo xtask bench
