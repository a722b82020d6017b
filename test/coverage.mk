# Which lines and branches of core/ the tests reach that need no mount and no process of their own:
# unit tests, and the fuzz targets over what they start from and what they found.
#   make coverage
COVERAGE_TESTS := 'unit/*' it/fuzz-regress
.PHONY: coverage
coverage: deps-test
	$(Q)find build/coverage -name '*.gcda' -delete 2>/dev/null || true
	$(Q)$(MAKE) B=build/coverage CFLAGS='-O0 -g --coverage -fprofile-update=atomic' test-programs
	$(Q)test/run -b build/coverage $(COVERAGE_TESTS)
	$(Q)test/coverage build/coverage
