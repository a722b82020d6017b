# The simulated disk: power cuts, faults, schedules.
#   make sim        all of it (at most a quarter of an hour)
#   make sim-full   without a limit of time: faults in more pairs of operations, more random runs
#   make sim-check  the part that belongs to make check (at most two minutes)
#   make mutants    the check on the checks: tests must fail without each step of the law

# Every allocation of the core and of io passes through test/sim/memory.c. Private: what
# the program is made from is compiled with the flags that everything else has.
SIM_WRAP := $(foreach f,malloc calloc realloc aligned_alloc posix_memalign strdup \
              buf_put,-Wl,--wrap=$(f))
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

# The server with a tee before its engine, and what explores the crash states of the log.
TEE_PROGS := $(B)/test/tee/qcow2fs $(B)/test/tee/replay
TEE_WRAP := $(foreach f,engine_create_by_name image_write image_zero image_discard image_resize \
              image_flush,-Wl,--wrap=$(f))
$(B)/test/tee/qcow2fs: private LDFLAGS += $(TEE_WRAP)
$(B)/test/tee/qcow2fs: $(B)/fuse/main.o $(B)/test/tee/tee.o $(B)/libserver.a $(LIBS)
	$(call say,LINK)
	$(call link,$(PKG_LIBS))
$(B)/test/tee/replay: $(B)/test/tee/replay.o $(B)/libsim.a $(LIBS)
	$(call say,LINK)
	$(call link,$(CORE_LIBS))
