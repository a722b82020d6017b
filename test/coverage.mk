# Which lines and branches of core/ the tests reach that need no mount and no process of their own:
# unit tests, the fuzz targets over what they start from and what they found, and the simulated
# disk's failing requests and allocations.
#   make coverage
COVERAGE_TESTS := 'unit/*' it/fuzz-regress
COVERAGE_SIM   := "--check --part allocs" "--check --part faults" \
                  "--part faults --cell c512-r64-grown --workload 1:8"
.PHONY: coverage
coverage: deps-test
	$(Q)find build/coverage -name '*.gcda' -delete 2>/dev/null || true
	$(Q)$(MAKE) B=build/coverage CFLAGS='-O0 -g --coverage -fprofile-update=atomic' test-programs
	$(Q)test/run -b build/coverage $(COVERAGE_TESTS)
	$(Q)for args in $(COVERAGE_SIM); do build/coverage/test/sim/sim $$args \
		--images build/coverage/sim-images >build/coverage/sim.log || \
		{ cat build/coverage/sim.log; exit 1; }; done
	$(Q)test/coverage build/coverage
