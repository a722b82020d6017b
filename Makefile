# qcow2fs: one non-recursive Makefile.
#   make            build everything below build/
#   make check      install what the tests need, build, run all tests
#   make check-san  the unit tests and a subset of the mounts under the sanitizers
#   make demo       install what is missing, build, mount a sample image and use it
#   make deps       install what building and testing need (Debian, Ubuntu, Fedora, Arch, Alpine)
#   make bench      fio side by side with the peers; make fmt; make install
#
# Honoured: CC CFLAGS CPPFLAGS LDFLAGS PKG_CONFIG DESTDIR PREFIX; V=1 shows commands;
# SAN=address|thread builds with sanitizers into a folder of its own; CO=ucontext
# takes the portable coroutine switch; B=DIR is the build folder.

VERSION   := 0.1.0
PREFIX    ?= /usr/local
PKG_CONFIG ?= pkg-config
CC        ?= cc
CFLAGS    ?= -O2 -g
SAN       ?=
CO        ?=
B         ?= build$(if $(SAN),/$(SAN))$(if $(CO),/$(CO))
V         ?=
Q         := $(if $(V),,@)
say        = $(if $(V),@:,@printf '  %-5s %s\n' '$(1)' '$(patsubst $(B)/%,%,$@)')

PKGS      := fuse3 liburing zlib libzstd
WARN      := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith \
             -Wvla -Wno-unused-parameter -Wno-missing-field-initializers
ALL_CPPFLAGS = -I. -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -DQCOW2FS_VERSION='"$(VERSION)"' \
             $(if $(filter ucontext,$(CO)),-DCO_UCONTEXT) $(CPPFLAGS)
ALL_CFLAGS = -std=gnu11 $(WARN) -fno-strict-aliasing -pthread $(CFLAGS) $(SAN_CFLAGS) $(PKG_CFLAGS)
ALL_LDFLAGS = -pthread $(LDFLAGS) $(SAN_CFLAGS)
SAN_CFLAGS := $(if $(filter address,$(SAN)),-fsanitize=address$(comma)undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer) \
             $(if $(filter thread,$(SAN)),-fsanitize=thread -fno-omit-frame-pointer)
comma     := ,

PKG_CFLAGS := $(shell $(PKG_CONFIG) --cflags $(PKGS) 2>/dev/null)
PKG_LIBS   := $(shell $(PKG_CONFIG) --libs $(PKGS) 2>/dev/null)
# The core and the tools need neither libfuse nor its include path.
CORE_LIBS  := $(shell $(PKG_CONFIG) --libs liburing zlib libzstd 2>/dev/null)

IO_SRC    := $(wildcard io/*.c) $(wildcard io/*.S)
CORE_SRC  := $(wildcard core/*.c)
FUSE_SRC  := $(wildcard fuse/*.c)
UNIT_SRC  := $(wildcard test/unit/test_*.c)
SIM_SRC   := $(wildcard test/sim/*.c)

obj        = $(patsubst %,$(B)/%.o,$(basename $(1)))
LIBS      := $(B)/libcore.a $(B)/libio.a
UNITS     := $(patsubst test/unit/%.c,$(B)/test/unit/%,$(UNIT_SRC))

.PHONY: all
all: $(B)/qcow2fs

$(B)/libio.a: $(call obj,$(IO_SRC))
$(B)/libcore.a: $(call obj,$(CORE_SRC))
$(B)/%.a:
	$(call say,AR)
	$(Q)rm -f $@ && $(AR) rcsD $@ $^

$(B)/qcow2fs: $(call obj,$(FUSE_SRC)) $(LIBS)
	$(call say,LINK)
	$(Q)$(CC) $(ALL_CFLAGS) $(ALL_LDFLAGS) -o $@ $^ $(PKG_LIBS)

$(B)/test/unit/test_%: $(B)/test/unit/test_%.o $(LIBS)
	$(call say,LINK)
	$(Q)$(CC) $(ALL_CFLAGS) $(ALL_LDFLAGS) -o $@ $^ $(CORE_LIBS) -lcmocka

$(B)/%.o: %.c
	$(call say,CC)
	$(Q)mkdir -p $(@D) && $(CC) $(ALL_CPPFLAGS) $(ALL_CFLAGS) -MMD -MP -c -o $@ $<
$(B)/%.o: %.S
	$(call say,AS)
	$(Q)mkdir -p $(@D) && $(CC) $(ALL_CPPFLAGS) $(ALL_CFLAGS) -MMD -MP -c -o $@ $<

.PHONY: unit
unit: $(UNITS)
	@for t in $(UNITS); do $$t || exit 1; done

.PHONY: clean
clean:
	rm -rf build
-include $(shell find $(B) -name '*.d' 2>/dev/null)
