# The simulated disk: power cuts, faults, schedules.
#   make sim        all of it (at most a quarter of an hour)
#   make sim-full   without a limit of time
#   make sim-check  the part that belongs to make check (at most two minutes)
#   make mutants    the check on the checks: tests must fail without each step of the law

# Every allocation of the core and of io passes through test/sim/memory.c. Private: what
# the program is made from is compiled with the flags that everything else has.
SIM_WRAP := $(foreach f,malloc calloc realloc aligned_alloc posix_memalign strdup,-Wl,--wrap=$(f))
$(B)/test/sim/sim: private LDFLAGS += $(SIM_WRAP)

.PHONY: sim sim-full sim-check mutants
sim: $(B)/test/sim/sim
	$(Q)$< --images $(B)/sim-images
sim-full: $(B)/test/sim/sim
	$(Q)$< --full --images $(B)/sim-images
sim-check: $(B)/test/sim/sim
	$(Q)$< --check --images $(B)/sim-images
mutants:
	$(Q)test/mutants/run
