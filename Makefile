# SPDX-License-Identifier: MIT OR Apache-2.0
#
# qcow2fs: one non-recursive Makefile.
#   make             build everything below build/
#   make check       install what the tests need, build, run all tests
#   make check-san   unit tests and a subset of the mounts under ASan+UBSan and TSan
#   make check-valgrind  unit tests under valgrind
#   make demo        install what is missing, build, mount a sample image and use it
#   make deps        install what building needs (Debian, Ubuntu, Fedora, Arch, Alpine);
#   make deps-test   ... and what the tests need on top of it
#   make sim         the simulated disk: power cuts, faults, schedules
#   make hostile     images that somebody has prepared
#   make fuzz T=600  libFuzzer's targets, each for T seconds; make fuzz-afl T=600 the same with AFL++
#   make coverage    lines and branches of core/ that unit tests and the fuzz corpus reach
#   make lint        static analysis: gcc -fanalyzer, clang-tidy, cppcheck
#   make bench       fio, side by side with the peers
#   make examples    small programs on the library, below build/examples
#   make install     everything below DESTDIR/PREFIX, the mount helper's link in DESTDIR/SBINDIR;
#   make uninstall   ... takes it away again
#   make reproducible  build twice in two folders and compare
#   make deb         a Debian package below build/, looked at by lintian
#   make fmt         format the sources; make fmt-check only looks
#
# Honoured: CC CFLAGS CPPFLAGS LDFLAGS PKG_CONFIG OBJCOPY DESTDIR PREFIX SBINDIR LIBDIR
# INCLUDEDIR. V=1 shows commands;
# SAN=address|thread builds with sanitizers, CO=ucontext takes the portable coroutine
# switch, ZSTD=no leaves libzstd out, each into a folder of its own; B=DIR is the build folder.

VERSION   := 0.1.0
PREFIX    ?= /usr/local
PKG_CONFIG ?= pkg-config
OBJCOPY   ?= objcopy
SAN       ?=
CFLAGS    ?= $(if $(SAN),-O1,-O2) -g
# CO has a built-in value (RCS), which `?=` would keep.
CO        := $(if $(filter default,$(origin CO)),,$(CO))
ZSTD      ?= yes
B         ?= build$(if $(SAN),/$(SAN))$(if $(CO),/$(CO))$(if $(filter no,$(ZSTD)),/nozstd)
V         ?=
MAKEFLAGS += --no-print-directory
Q         := $(if $(V),,@)
say        = $(if $(V),@:,@printf '  %-5s %s\n' '$(1)' '$(patsubst $(B)/%,%,$@)')
comma     := ,

# ---- libraries ----

# libdeflate inflates twice as fast as zlib; without it, zlib does all the work.
DEFLATE   := $(shell $(PKG_CONFIG) --exists libdeflate 2>/dev/null && echo libdeflate)
# Its header alone: what runs under it tells it of coroutines.
VALGRIND  := $(shell $(PKG_CONFIG) --exists valgrind 2>/dev/null && echo valgrind)
CORE_PKGS := liburing zlib $(if $(filter no,$(ZSTD)),,libzstd) $(DEFLATE)
PKGS      := fuse3 blkid $(CORE_PKGS)

# These goals compile nothing themselves, so they need no library yet.
DRY_GOALS := clean uninstall reproducible deb deps deps-test check check-san check-valgrind demo bench sandbox-test fuzz fuzz-afl coverage lint fmt fmt-check
ifneq ($(filter-out $(DRY_GOALS),$(or $(MAKECMDGOALS),all)),)
ifeq ($(shell command -v $(firstword $(PKG_CONFIG))),)
$(error $(PKG_CONFIG) not found: run `make deps`)
endif
$(foreach p,$(PKGS),$(if $(shell $(PKG_CONFIG) --exists $(p) || echo missing),\
  $(error $(p) not found: run `make deps`)))
PKG_CFLAGS := $(shell $(PKG_CONFIG) --cflags $(PKGS))
PKG_LIBS   := $(shell $(PKG_CONFIG) --libs $(PKGS))
# The core and its tests need neither libfuse nor its include path.
CORE_LIBS  := $(shell $(PKG_CONFIG) --libs $(CORE_PKGS))
endif

# ---- flags ----

WARN      := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith \
             -Wvla -Wno-unused-parameter -Wno-missing-field-initializers
SAN_CFLAGS := $(if $(SAN),-fno-omit-frame-pointer) \
              $(if $(filter address,$(SAN)),-fsanitize=address$(comma)undefined -fno-sanitize-recover=undefined) \
              $(if $(filter thread,$(SAN)),-fsanitize=thread)

# Hardening as the OpenSSF guide lists it. Flags that an old compiler or another
# processor lacks are left out one by one.
try        = $(foreach f,$(1),$(shell $(CC) -Werror $(f) -x c -c /dev/null -o /dev/null 2>/dev/null && echo $(f)))
# At -O1, gcc takes more for uninitialised than is. TSan knows nothing of fences, and need not: ours
# stand between atomic accesses and bytes of files.
SAN_CFLAGS += $(if $(SAN),$(call try,-Wno-maybe-uninitialized -Wno-tsan))
OPTIMISED := $(filter -O1 -O2 -O3 -Os -Oz,$(CFLAGS))
HARDEN    := -fPIE -fstack-protector-strong \
             $(if $(SAN),,$(if $(OPTIMISED),-U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=3) \
               $(call try,-fstack-clash-protection -fcf-protection -mbranch-protection=standard \
                 -ftrivial-auto-var-init=zero))
HARDEN_LD := -pie -Wl,-z,relro -Wl,-z,now -Wl,-z,noexecstack -Wl,--as-needed

ALL_CPPFLAGS = -I. -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -DQCOW2FS_VERSION='"$(VERSION)"' \
             $(if $(filter ucontext,$(CO)),-DCO_UCONTEXT) $(if $(filter no,$(ZSTD)),-DNO_ZSTD) \
             $(if $(DEFLATE),-DHAVE_LIBDEFLATE) $(if $(VALGRIND),-DHAVE_VALGRIND) $(CPPFLAGS)
ALL_CFLAGS = -std=gnu11 $(WARN) -fno-strict-aliasing -pthread -ffile-prefix-map=$(CURDIR)=. \
             $(HARDEN) $(CFLAGS) $(SAN_CFLAGS) $(PKG_CFLAGS)
ALL_LDFLAGS = -pthread $(HARDEN_LD) $(LDFLAGS) $(SAN_CFLAGS)

# ---- sources ----

IO_SRC    := $(wildcard io/*.c) $(wildcard io/*.S)
CORE_SRC  := $(wildcard core/*.c)
LIB_SRC   := $(wildcard lib/*.c)
FUSE_SRC  := $(wildcard fuse/*.c)
TOOL_SRC  := $(wildcard tool/*.c)
SIM_SRC   := $(wildcard test/sim/*.c)
UNIT_SRC  := $(wildcard test/unit/test_*.c)
IT_SRC    := $(wildcard test/it/*.c)
EXAMPLES  := $(patsubst %.c,$(B)/%,$(wildcard examples/*.c))
C_FILES    = $(wildcard io/*.[ch] core/*.[ch] lib/*.[ch] fuse/*.[ch] tool/*.[ch] examples/*.[ch] test/*/*.[ch])

obj        = $(patsubst %,$(B)/%.o,$(basename $(1)))
pic_obj    = $(patsubst %,$(B)/pic/%.o,$(basename $(1)))
# In a sanitizer build, whose speed is nobody's concern, programs share the library's objects.
shared_obj = $(if $(SAN),$(call pic_obj,$(1)),$(call obj,$(1)))
LIBS      := $(B)/libcore.a $(B)/libio.a
UNITS     := $(patsubst %.c,$(B)/%,$(UNIT_SRC))
IT_PROGS  := $(patsubst %.c,$(B)/%,$(IT_SRC))
SIM       := $(if $(filter test/sim/main.c,$(SIM_SRC)),$(B)/test/sim/sim)

# ---- programs ----

.PHONY: all
all: $(B)/qcow2fs $(B)/qcow2tool $(B)/libqcow2fs.so $(B)/libqcow2fs.a

$(B)/libio.a: $(call shared_obj,$(IO_SRC))
$(B)/libcore.a: $(call shared_obj,$(CORE_SRC))
$(B)/libserver.a: $(call obj,$(filter-out fuse/main.c,$(FUSE_SRC)))
$(B)/libsim.a: $(call obj,$(filter-out test/sim/main.c,$(SIM_SRC)))
$(B)/%.a:
	$(call say,AR)
	$(Q)rm -f $@ && $(AR) rcsD $@ $^

# Archives in any order, and several passes over them.
link       = $(Q)$(CC) $(ALL_CFLAGS) $(ALL_LDFLAGS) -o $@ $(filter %.o,$^) \
             -Wl,--start-group $(filter %.a,$^) -Wl,--end-group $(1)

$(B)/qcow2fs: $(call obj,$(FUSE_SRC)) $(LIBS)
	$(call say,LINK)
	$(call link,$(PKG_LIBS))

$(B)/qcow2tool: $(call obj,$(TOOL_SRC)) $(LIBS)
	$(call say,LINK)
	$(call link,$(CORE_LIBS))

$(B)/test/sim/sim: $(B)/test/sim/main.o $(B)/libsim.a $(LIBS)
	$(call say,LINK)
	$(call link,$(CORE_LIBS))

$(B)/test/unit/test_%: $(B)/test/unit/test_%.o $(LIBS)
	$(call say,LINK)
	$(call link,$(PKG_LIBS) -lcmocka)

# ---- the library: shared, and an archive of one object with nothing but qf_* to see ----

SONAME    := libqcow2fs.so.0
PIC_OBJ   := $(call pic_obj,$(IO_SRC) $(CORE_SRC) $(LIB_SRC))
PIC        = -fPIC -fvisibility=hidden

$(B)/pic/%.o: %.c $(B)/.flags
	$(call say,CC)
	$(Q)mkdir -p $(@D) && $(CC) $(ALL_CPPFLAGS) $(ALL_CFLAGS) $(PIC) -MMD -MP -c -o $@ $<
$(B)/pic/%.o: %.S $(B)/.flags
	$(call say,AS)
	$(Q)mkdir -p $(@D) && $(CC) $(ALL_CPPFLAGS) $(ALL_CFLAGS) $(PIC) -MMD -MP -c -o $@ $<

$(B)/$(SONAME): $(PIC_OBJ) lib/libqcow2fs.map
	$(call say,LINK)
	$(Q)$(CC) $(ALL_CFLAGS) $(PIC) $(filter-out -pie,$(ALL_LDFLAGS)) -shared -Wl,-soname,$(SONAME) \
		-Wl,--version-script=lib/libqcow2fs.map -o $@ $(PIC_OBJ) $(CORE_LIBS)
$(B)/libqcow2fs.so: $(B)/$(SONAME)
	$(Q)ln -sf $(SONAME) $@

$(B)/libqcow2fs.a: $(PIC_OBJ)
	$(call say,AR)
	$(Q)$(CC) -r -nostdlib -o $(B)/pic/libqcow2fs.o $(PIC_OBJ) && \
		$(OBJCOPY) --localize-hidden $(B)/pic/libqcow2fs.o && \
		rm -f $@ && $(AR) rcsD $@ $(B)/pic/libqcow2fs.o

# Each example is built as a program of somebody else would be.
.PHONY: examples
examples: $(EXAMPLES)
$(B)/examples/%: examples/%.c lib/qcow2fs.h $(B)/libqcow2fs.a $(B)/.flags
	$(call say,LINK)
	$(Q)mkdir -p $(@D) && $(CC) -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -Ilib $(ALL_CFLAGS) \
		$(ALL_LDFLAGS) -o $@ $< $(B)/libqcow2fs.a $(PKG_LIBS)

include test/sim/sim.mk
include test/hostile/hostile.mk
include test/fuzz/fuzz.mk
include test/coverage.mk

# Tests that include a header of the server, or of the simulated disk, link with it.
including  = $(patsubst %.c,$(B)/%,$(if $(UNIT_SRC),$(shell grep -l '^#include "$(1)' $(UNIT_SRC))))
$(call including,fuse/): $(B)/libserver.a
$(call including,test/sim/): $(B)/libsim.a
$(call including,test/sim/edit.h): private LDFLAGS += $(SIM_WRAP)

$(B)/test/it/%: $(B)/test/it/%.o $(LIBS)
	$(call say,LINK)
	$(call link,$(CORE_LIBS))

$(B)/test/it/sandbox_probe: $(B)/libserver.a

# Compiled again whenever the compiler or a flag changes.
$(B)/%.o: %.c $(B)/.flags
	$(call say,CC)
	$(Q)mkdir -p $(@D) && $(CC) $(ALL_CPPFLAGS) $(ALL_CFLAGS) -MMD -MP -c -o $@ $<
$(B)/%.o: %.S $(B)/.flags
	$(call say,AS)
	$(Q)mkdir -p $(@D) && $(CC) $(ALL_CPPFLAGS) $(ALL_CFLAGS) -MMD -MP -c -o $@ $<

FLAGS_LINE = $(subst ','\'',$(CC) $(ALL_CPPFLAGS) $(ALL_CFLAGS) $(ALL_LDFLAGS))
$(B)/.flags: FORCE
	@mkdir -p $(@D); printf '%s\n' '$(FLAGS_LINE)' | cmp -s - $@ || printf '%s\n' '$(FLAGS_LINE)' >$@
.PHONY: FORCE
FORCE:

.SECONDARY:
-include $(wildcard $(B)/*/*.d $(B)/*/*/*.d)

# ---- tests ----

.PHONY: unit test-programs check check-san check-valgrind bench demo
# A sanitizer build has what test/run runs there. What works on the simulated disk, on hostile
# images or is a fuzz target has one thread.
PROGRAMS_  := $(UNITS) $(IT_PROGS) $(SIM) $(TEE_PROGS) $(HOSTILE) $(FUZZ)
PROGRAMS_address := $(UNITS) $(IT_PROGS) $(HOSTILE) $(FUZZ)
PROGRAMS_thread  := $(filter-out $(call including,test/sim/),$(UNITS)) $(IT_PROGS)
test-programs: all examples $(PROGRAMS_$(SAN))
unit: $(UNITS)
	$(Q)test/run -b $(B) 'unit/*'

# The libraries may only arrive with deps-test, hence a second make that looks for them. It
# uses all processors, unless -j says otherwise.
parallel   = $(MAKE) $(if $(findstring -j,$(MAKEFLAGS)),,-j$(shell nproc))
check: deps-test
	$(Q)+$(parallel) test-programs
	$(Q)test/run -b $(B)

check-san: deps-test
	$(Q)+$(parallel) SAN=address test-programs
	$(Q)+$(parallel) SAN=thread test-programs
	$(Q)test/run -b build/address -b build/thread

check-valgrind: deps-test
	$(Q)+$(parallel) test-programs
	$(Q)test/run -b $(B) --valgrind 'unit/*'

bench:
	$(Q)dist/deps.sh bench
	$(Q)+$(parallel) all
	$(Q)test/bench/run
	$(Q)test/bench/convert

# The probes, and what the sandbox costs.
.PHONY: sandbox-test
sandbox-test: deps-test
	$(Q)dist/deps.sh bench
	$(Q)$(MAKE) test-programs
	$(Q)test/run -b $(B) it/sandbox unit/test_confined
	$(Q)test/bench/sandbox

demo:
	$(Q)dist/deps.sh demo
	$(Q)+$(parallel) all
	$(Q)dist/demo.sh $(B)/qcow2fs

# ---- everything else ----

.PHONY: deps deps-test install fmt fmt-check clean
deps:
	$(Q)dist/deps.sh build
deps-test:
	$(Q)dist/deps.sh test

# mount(8) looks for its helpers in /sbin, whatever the prefix.
SBINDIR   ?= /sbin
MAN1      := $(wildcard doc/*.1)
MAN8      := $(wildcard doc/*.8)
BASH_COMP := $(wildcard dist/completions/*.bash)
FISH_COMP := $(wildcard dist/completions/*.fish)
ZSH_COMP  := $(wildcard dist/completions/_*)
share      = $(DESTDIR)$(PREFIX)/share
LIBDIR    ?= $(PREFIX)/lib
INCLUDEDIR ?= $(PREFIX)/include
lib_dir    = $(DESTDIR)$(LIBDIR)
unit_dir   = $(DESTDIR)$(PREFIX)/lib/systemd/system
bash_dir   = $(share)/bash-completion/completions
fish_dir   = $(share)/fish/vendor_completions.d
zsh_dir    = $(share)/zsh/site-functions

install: all
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(SBINDIR) $(share)/man/man1 \
		$(share)/man/man8 $(bash_dir) $(fish_dir) $(zsh_dir) $(unit_dir) \
		$(lib_dir)/pkgconfig $(DESTDIR)$(INCLUDEDIR)
	install -m 755 $(B)/qcow2fs $(B)/qcow2tool $(DESTDIR)$(PREFIX)/bin
	ln -sf $(PREFIX)/bin/qcow2fs $(DESTDIR)$(SBINDIR)/mount.qcow2fs
	install -m 644 $(MAN1) $(share)/man/man1
	install -m 644 $(MAN8) $(share)/man/man8
	$(foreach f,$(BASH_COMP),install -m 644 $(f) $(bash_dir)/$(basename $(notdir $(f))) &&) :
	install -m 644 $(FISH_COMP) $(fish_dir)
	install -m 644 $(ZSH_COMP) $(zsh_dir)
	sed 's|/usr/bin/qcow2fs|$(PREFIX)/bin/qcow2fs|' dist/systemd/qcow2fs@.service \
		>$(unit_dir)/qcow2fs@.service
	chmod 644 $(unit_dir)/qcow2fs@.service
	install -m 644 $(B)/libqcow2fs.a $(B)/$(SONAME) $(lib_dir)
	ln -sf $(SONAME) $(lib_dir)/libqcow2fs.so
	install -m 644 lib/qcow2fs.h $(DESTDIR)$(INCLUDEDIR)
	sed -e 's|@prefix@|$(PREFIX)|; s|@libdir@|$(LIBDIR)|; s|@includedir@|$(INCLUDEDIR)|' \
		-e 's|@version@|$(VERSION)|; s|@private@|$(strip $(CORE_PKGS))|' lib/qcow2fs.pc.in \
		>$(lib_dir)/pkgconfig/qcow2fs.pc
	chmod 644 $(lib_dir)/pkgconfig/qcow2fs.pc

uninstall:
	rm -f $(addprefix $(DESTDIR)$(PREFIX)/bin/,qcow2fs qcow2tool) \
		$(DESTDIR)$(SBINDIR)/mount.qcow2fs \
		$(addprefix $(share)/man/man1/,$(notdir $(MAN1))) \
		$(addprefix $(share)/man/man8/,$(notdir $(MAN8))) \
		$(addprefix $(bash_dir)/,$(basename $(notdir $(BASH_COMP)))) \
		$(addprefix $(fish_dir)/,$(notdir $(FISH_COMP))) \
		$(addprefix $(zsh_dir)/,$(notdir $(ZSH_COMP))) $(unit_dir)/qcow2fs@.service \
		$(addprefix $(lib_dir)/,libqcow2fs.a libqcow2fs.so $(SONAME) pkgconfig/qcow2fs.pc) \
		$(DESTDIR)$(INCLUDEDIR)/qcow2fs.h

.PHONY: uninstall reproducible deb
reproducible:
	$(Q)$(MAKE) all
	$(Q)test/run -b $(B) it/reproducible

# The package is built from a copy, so that debhelper leaves nothing in the tree.
deb:
	$(Q)dist/deps.sh deb
	$(Q)dist/deb.sh $(VERSION) $(B)/deb

# Static analysis; a file that has been found clean is looked at again when it or a header of
# its changes.
LINT_SRC   := $(filter %.c,$(IO_SRC) $(CORE_SRC) $(LIB_SRC) $(FUSE_SRC) $(TOOL_SRC))
LINT_FLAGS  = -std=gnu11 $(ALL_CPPFLAGS) $(PKG_CFLAGS)
LINT_DEPS   = $(Q)mkdir -p $(@D) && gcc $(LINT_FLAGS) -MM -MP -MT $@ -MF $@.d $<
.PHONY: lint lint-gcc lint-tidy lint-cppcheck
lint:
	$(Q)dist/deps.sh lint
	$(Q)$(MAKE) --keep-going lint-gcc lint-tidy lint-cppcheck
lint-gcc: $(patsubst %,$(B)/lint/%.gcc,$(LINT_SRC))
lint-tidy: $(patsubst %,$(B)/lint/%.tidy,$(LINT_SRC))
lint-cppcheck: $(B)/lint/cppcheck
# What these allocate hangs in a field that their caller has passed, or in a hash; gcc loses
# sight of both and reports leaks. The unit tests look for real ones, under ASan and valgrind.
$(patsubst %,$(B)/lint/%.c.gcc,core/overlap core/snapshot fuse/options fuse/options_words): \
	private LINT_EXCEPT := -Wno-analyzer-malloc-leak
$(B)/lint/%.gcc: % $(B)/.flags
	$(call say,GCC)
	$(LINT_DEPS)
	$(Q)gcc -O1 -fanalyzer -Werror $(LINT_EXCEPT) $(LINT_FLAGS) -c -o $(@:.gcc=.o) $< && touch $@
# Its standard error is shown but for the number of what it found in the headers of others.
$(B)/lint/%.tidy: % .clang-tidy $(B)/.flags
	$(call say,TIDY)
	$(LINT_DEPS)
	$(Q)clang-tidy --quiet $< -- $(LINT_FLAGS) 2>$@.log && touch $@; status=$$?; \
		grep -v '^[0-9]* warnings* .*generated\.$$' $@.log >&2; exit $$status
# Coroutines that wait stand in the queues of others, by addresses of their own variables.
$(B)/lint/cppcheck: $(wildcard io/*.[ch] core/*.[ch] lib/*.[ch] fuse/*.[ch] tool/*.[ch]) $(B)/.flags
	$(call say,CPPCHECK)
	$(Q)mkdir -p $@.cache && cppcheck --quiet --error-exitcode=1 --cppcheck-build-dir=$@.cache \
		--enable=warning,performance,portability --inline-suppr --suppress=autoVariables \
		--std=c11 $(ALL_CPPFLAGS) io core lib fuse tool && touch $@

CLANG_FORMAT ?= clang-format
fmt:
	$(CLANG_FORMAT) -i $(C_FILES)
fmt-check:
	$(CLANG_FORMAT) --dry-run -Werror $(C_FILES)

clean:
	rm -rf build
