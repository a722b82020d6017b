# Fuzzing (clang's libFuzzer, with the address and undefined-behaviour sanitizers).
#   make fuzz T=600    every target for T seconds, two at a time; what they found before is kept
#                      below build/fuzz/corpus. Not 0 when one finds something.
#   make fuzz-afl T=600  the same with AFL++, below build/afl
#   make fuzz-targets  the programs alone, with the compiler and the flags given
# The targets are test/fuzz/fuzz_*.c. Without a fuzzer they are linked with driver.c, which
# runs them over files: test/it/fuzz-regress does so.

FUZZ_NAMES  := $(patsubst test/fuzz/fuzz_%.c,%,$(wildcard test/fuzz/fuzz_*.c))
FUZZ        := $(patsubst %,$(B)/test/fuzz/fuzz_%,$(FUZZ_NAMES)) $(B)/test/fuzz/seeds
# What brings main(): nothing for a fuzzer that has one.
FUZZ_MAIN   ?= $(B)/test/fuzz/driver.o
FUZZ_WORLD  := $(B)/test/fuzz/world.o $(B)/test/fuzz/reference.o \
               $(call obj,$(filter-out test/hostile/main.c,$(wildcard test/hostile/*.c)))
FUZZ_FLAGS  := -fsanitize=fuzzer-no-link -fno-omit-frame-pointer

$(B)/test/fuzz/fuzz_%: $(B)/test/fuzz/fuzz_%.o $(FUZZ_WORLD) $(filter %.o,$(FUZZ_MAIN)) \
		$(B)/libserver.a $(LIBS)
	$(call say,LINK)
	$(call link,$(PKG_LIBS) $(filter-out %.o,$(FUZZ_MAIN)))

$(B)/test/fuzz/seeds: $(B)/test/fuzz/seeds.o $(FUZZ_WORLD) $(LIBS)
	$(call say,LINK)
	$(call link,$(CORE_LIBS))

T ?= 600
.PHONY: fuzz fuzz-afl fuzz-targets
fuzz-targets: $(FUZZ)
fuzz:
	$(Q)dist/deps.sh fuzz
	$(Q)$(MAKE) fuzz-targets SAN=address B=build/fuzz CC=clang \
		CFLAGS='-O1 -g $(FUZZ_FLAGS)' FUZZ_MAIN=-fsanitize=fuzzer
	$(Q)test/fuzz/run --seconds $(T) build/fuzz
fuzz-afl:
	$(Q)dist/deps.sh afl
	$(Q)AFL_QUIET=1 $(MAKE) fuzz-targets SAN=address B=build/afl CC=afl-clang-fast \
		CFLAGS='-O1 -g -fno-omit-frame-pointer' FUZZ_MAIN=-fsanitize=fuzzer
	$(Q)test/fuzz/run --afl --seconds $(T) build/afl
