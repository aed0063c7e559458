# Holdfast. `make` builds build/holdfast, `make run` starts three nodes, `make test` runs every test.
#
#   make NODES=1 run                    a single node
#   make SAN=address,undefined test     the same in build/san-address-undefined/ (also: SAN=thread)
#   make CC=clang                       another compiler (objects are built again when flags or compiler change)
#   make RAFT_LIB=/tmp/libraft-assert.a unit   another libraft (tests/README.md)
#   make BUILD=/tmp/b                   another output directory (what `make deps` fetched stays in build/deps)

CC      ?= cc
ifeq ($(origin CC),default)
CC      := cc
endif
AR      ?= ar
PYTHON  ?= /usr/bin/python3
BUILD   ?= build
DEPS    := build/deps
SAN     ?=
RAFT_LIB ?= -l:libraft.a # static: neither libuv nor lz4 comes with it

comma   := ,
OUT     := $(BUILD)$(if $(SAN),/san-$(subst $(comma),-,$(SAN)))
OBJ     := $(OUT)/obj
BIN     := $(OUT)/holdfast
ARCHIVE := $(OUT)/libholdfast.a

SOURCES := $(wildcard proxy/*.c config/*.c log/*.c log/base/*.c)
OBJECTS := $(SOURCES:%.c=$(OBJ)/%.o)
PARTS   := $(filter-out $(OBJ)/proxy/main.o,$(OBJECTS))
UNIT    := $(patsubst tests/unit/%.c,$(OUT)/unit/%,$(wildcard tests/unit/test_*.c))
FUZZ    := $(patsubst tests/fuzz/%.c,$(OUT)/fuzz/%,$(wildcard tests/fuzz/fuzz_*.c))
HELPERS := $(patsubst tests/unit/%.c,$(OBJ)/tests/unit/%.o,$(filter-out tests/unit/test_%,$(wildcard tests/unit/*.c)))

# hiredis: the system's from 1.0 on, else our own static one (Debian 12 has 0.14, with another struct layout).
ifeq ($(shell pkg-config --atleast-version=1.0 hiredis 2>/dev/null && echo yes),yes)
HIREDIS_LIB  := $(shell pkg-config --libs hiredis)
HIREDIS_FILE :=
else
HIREDIS_LIB  := $(DEPS)/lib/libhiredis.a
HIREDIS_FILE := $(HIREDIS_LIB)
endif

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
SANFLAGS := $(if $(SAN),-fsanitize=$(SAN) -fno-sanitize-recover=all -fno-omit-frame-pointer)
CFLAGS  ?= -O2 -g
WARN    := -Wall -Wextra -Wconversion -Werror
# -isystem comes before the standard directories, and after -I.: our hiredis wins over the system's.
ALLFLAGS := -std=c11 -D_GNU_SOURCE $(CFLAGS) $(WARN) $(SANFLAGS) -pthread -I. -isystem $(DEPS)/include
LIBS    := $(HIREDIS_LIB) -levent_extra -levent_core -levent_pthreads -llmdb -ljansson $(RAFT_LIB) -lssl -lcrypto -lm -pthread

.PHONY: all deps run test unit fuzz e2e clients check ci tidy bench format install uninstall docker-test clean FORCE
.DELETE_ON_ERROR:
.SECONDARY:

all: $(BIN)

$(BIN): $(OBJECTS) $(HIREDIS_FILE)
	@mkdir -p $(@D)
	$(CC) $(SANFLAGS) $(LDFLAGS) -o $@ $(OBJECTS) $(LIBS)

# Unit tests and fuzzers link against everything but main.
$(ARCHIVE): $(PARTS) $(OUT)/parts
	@rm -f $@
	@$(AR) qcs $@ $(PARTS) # q, not r: two directories may hold files of one name

$(OBJ)/%.o: %.c $(OUT)/flags | $(HIREDIS_FILE)
	@mkdir -p $(@D)
	$(CC) $(ALLFLAGS) -MMD -MP -c -o $@ $<

$(OBJ)/proxy/main.o $(OBJ)/proxy/status.o: private ALLFLAGS += -DHOLDFAST_BUILD='"$(VERSION)"'
$(OBJ)/proxy/main.o $(OBJ)/proxy/status.o: $(OUT)/version
$(OBJ)/proxy/page.o: proxy/page.html

# What tests share: tests/unit/*.c without a test_ name. A test gets the members that it refers to. The sim_ files may stand in for
# the product's doors (sim_log.c is a log in memory), so they come first, and only for a test that includes a sim_ header.
# Their sequencer is one that can leave out a clause of the release rule (sequencer.h, seq_without).
CLAUSES := $(patsubst %.c,$(OBJ)/clauses/%.o,$(wildcard proxy/seq*.c))
$(OBJ)/tests/unit/sim_%.o $(OBJ)/tests/unit/test_sequencer.o $(OBJ)/tests/unit/test_sequencer_hand.o: private ALLFLAGS += -DSEQ_CLAUSES
$(OBJ)/clauses/%.o: %.c $(OUT)/flags | $(HIREDIS_FILE)
	@mkdir -p $(@D)
	$(CC) $(ALLFLAGS) -DSEQ_CLAUSES -MMD -MP -c -o $@ $<
$(OUT)/libsim.a: $(filter $(OBJ)/tests/unit/sim_%,$(HELPERS)) $(CLAUSES) $(OUT)/parts
	@rm -f $@
	@$(AR) qcs $@ $(filter %.o,$^)
# The raft_ files are consensus among many members; for a test that includes one of their headers, and for test_guards. Their
# consensus can leave out a guard (consensus.h, consensus_without).
GUARDS := $(patsubst %.c,$(OBJ)/guards/%.o,$(wildcard log/consensus*.c))
$(OBJ)/tests/unit/raft_%.o $(OBJ)/tests/unit/test_raft_%.o $(OBJ)/tests/unit/test_guards.o: private ALLFLAGS += -DCONSENSUS_GUARDS
$(OBJ)/guards/%.o: %.c $(OUT)/flags | $(HIREDIS_FILE)
	@mkdir -p $(@D)
	$(CC) $(ALLFLAGS) -DCONSENSUS_GUARDS -MMD -MP -c -o $@ $<
$(OUT)/libguards.a: $(filter $(OBJ)/tests/unit/raft_%,$(HELPERS)) $(GUARDS) $(OUT)/parts
	@rm -f $@
	@$(AR) qcs $@ $(filter %.o,$^)
$(OUT)/libhelpers.a: $(filter-out $(OBJ)/tests/unit/sim_% $(OBJ)/tests/unit/raft_%,$(HELPERS)) $(OUT)/parts
	@rm -f $@
	@$(AR) qcs $@ $(filter %.o,$^)

$(OUT)/unit/%: $(OBJ)/tests/unit/%.o $(OUT)/libsim.a $(OUT)/libguards.a $(OUT)/libhelpers.a $(ARCHIVE) $(HIREDIS_FILE)
	@mkdir -p $(@D)
	$(CC) $(SANFLAGS) $(LDFLAGS) -o $@ $< $$(grep -q '/sim_' $(<:.o=.d) && echo $(OUT)/libsim.a) \
	    $$(grep -q '/raft_\|/test_guards.c' $(<:.o=.d) && echo $(OUT)/libguards.a) $(OUT)/libhelpers.a \
	    $(ARCHIVE) $(LIBS) -lcmocka

$(OUT)/fuzz/%: $(OBJ)/tests/fuzz/%.o $(OBJ)/tests/fuzz/driver.o $(ARCHIVE) $(HIREDIS_FILE)
	@mkdir -p $(@D)
	$(CC) $(SANFLAGS) $(LDFLAGS) -o $@ $< $(OBJ)/tests/fuzz/driver.o $(ARCHIVE) $(LIBS)

# What tests/bench/run.py measures with.
$(OUT)/bench/%: $(OBJ)/tests/bench/%.o $(ARCHIVE) $(HIREDIS_FILE)
	@mkdir -p $(@D)
	$(CC) $(SANFLAGS) $(LDFLAGS) -o $@ $< $(ARCHIVE) $(LIBS)

# The disk that misbehaves, for the end-to-end tests (LD_PRELOAD).
DISK := $(if $(wildcard tests/faults/disk.c),build/faults/libdisk.so)
build/faults/libdisk.so: tests/faults/disk.c
	@mkdir -p $(@D)
	$(CC) -std=c11 -D_GNU_SOURCE -O2 -g -Wall -Wextra -Werror -fPIC -shared -o $@ $< -ldl

# Stamps, rewritten only when what they say changes: how we compile, which parts there are, which commit this is.
$(OUT)/flags: FORCE
	@mkdir -p $(@D); echo '$(CC) $(ALLFLAGS)' | cmp -s - $@ || echo '$(CC) $(ALLFLAGS)' > $@
$(OUT)/parts: FORCE
	@mkdir -p $(@D); echo '$(PARTS) $(HELPERS)' | cmp -s - $@ || echo '$(PARTS) $(HELPERS)' > $@
$(OUT)/version: FORCE
	@mkdir -p $(@D); echo '$(VERSION)' | cmp -s - $@ || echo '$(VERSION)' > $@
FORCE:

ifneq ($(HIREDIS_FILE),)
$(HIREDIS_FILE): config/hiredis.sh
	CC='$(CC)' sh config/hiredis.sh $(DEPS)
	@touch $@
endif

# What is missing gets installed (Debian 12 and 13; root or sudo). A fraction of a second when nothing is.
deps:
	@bash config/deps.sh
	@$(MAKE) --no-print-directory hiredis
.PHONY: hiredis
hiredis: $(HIREDIS_FILE)
	@:

run: deps
	@$(MAKE) --no-print-directory all
	@bash config/run.sh $(BIN)

RUN_ALL = HOLDFAST_BIN='$(abspath $(BIN))' HOLDFAST_SAN='$(SAN)' $(PYTHON) tests/tools/run_all.py --out $(OUT) \
          $(if $(TOTALS),--totals $(TOTALS))
test: all $(UNIT) $(FUZZ) $(DISK)
	@$(RUN_ALL) unit fuzz e2e clients
check: export HF_SEEDS ?= 6000 # schedules of test_sequencer; 60000 in test
check: export RAFT_SEEDS ?= 150 # histories of test_raft_sim; 2000 in test
check: $(UNIT) $(FUZZ)
	@$(RUN_ALL) tidy unit fuzz
ci: all $(UNIT) $(FUZZ) $(DISK) # .ci/run
	@$(RUN_ALL) tidy unit fuzz e2e clients
unit: $(UNIT)
	@$(RUN_ALL) unit
fuzz: $(FUZZ)
	@$(RUN_ALL) fuzz
e2e: all $(DISK)
	@$(RUN_ALL) e2e
clients: all
	@$(RUN_ALL) clients
tidy:
	@$(PYTHON) tests/tools/tidy.py
bench: all
	@HOLDFAST_BIN='$(abspath $(BIN))' $(PYTHON) tests/bench/run.py $(BENCH)

format:
	clang-format -i $(SOURCES) $(wildcard proxy/*.h config/*.h log/*.h log/base/*.h tests/unit/*.[ch] tests/fuzz/*.[ch])

# Images and compose files, in an engine of its own; as root, two minutes. Not part of `make test`, but of .ci/run.
docker-test:
	@DOCKER=1 bash config/deps.sh
	@$(RUN_ALL) docker

# The program, a settings file if there is none yet, help for certificates, a systemd unit. Neither user nor service is made: README.
PREFIX     ?= /usr/local
SYSCONFDIR ?= /etc
UNITDIR    ?= $(SYSCONFDIR)/systemd/system
install: all
	install -D -m 755 $(BIN) $(DESTDIR)$(PREFIX)/bin/holdfast
	install -D -m 755 config/certs.sh $(DESTDIR)$(PREFIX)/share/holdfast/certs.sh
	install -D -m 644 config/holdfast.conf $(DESTDIR)$(PREFIX)/share/holdfast/holdfast.conf
	for page in README.md config/*.md proxy/DIFFERENCES.md; do install -D -m 644 $$page $(DESTDIR)$(PREFIX)/share/doc/holdfast/$$page || exit; done
	[ -e $(DESTDIR)$(SYSCONFDIR)/holdfast/holdfast.conf ] || install -D -m 640 config/holdfast.conf $(DESTDIR)$(SYSCONFDIR)/holdfast/holdfast.conf
	! getent group holdfast > /dev/null || chgrp holdfast $(DESTDIR)$(SYSCONFDIR)/holdfast/holdfast.conf # the unit's user reads it
	install -d $(DESTDIR)$(UNITDIR)
	sed 's|/usr/local|$(PREFIX)|g; s|/etc/holdfast|$(SYSCONFDIR)/holdfast|g' config/holdfast.service > $(DESTDIR)$(UNITDIR)/holdfast.service
	chmod 644 $(DESTDIR)$(UNITDIR)/holdfast.service
uninstall: # settings and data stay
	rm -rf $(DESTDIR)$(PREFIX)/bin/holdfast $(DESTDIR)$(PREFIX)/share/holdfast $(DESTDIR)$(PREFIX)/share/doc/holdfast \
	       $(DESTDIR)$(UNITDIR)/holdfast.service

clean:
	rm -rf $(BUILD)/holdfast $(BUILD)/obj $(BUILD)/unit $(BUILD)/fuzz $(BUILD)/bench $(BUILD)/san-* $(BUILD)/lib*.a $(BUILD)/faults \
	       $(BUILD)/flags $(BUILD)/parts $(BUILD)/version

-include $(shell find $(OBJ) -name '*.d' 2>/dev/null)
