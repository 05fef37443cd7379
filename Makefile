EXTENSION = stream_ckpt
MODULE_big = stream_ckpt
DATA = $(wildcard sql/stream_ckpt--*.sql)
OBJS = $(patsubst %.c,%.o,$(sort $(wildcard src/*.c)))
headers = $(wildcard src/*.h)
PGFILEDESC = "stream_ckpt - continuous queries with exactly-once checkpoints"
PG_CFLAGS = -std=gnu99
# What the library calls of its own is its own, whatever else the server has loaded, and is called directly.
SHLIB_LINK = $(if $(filter darwin win32,$(PORTNAME)),,-Wl,-Bsymbolic)

# make installcheck: regression tests, isolation specs and TAP tests, each on
# servers of their own that use the installed library (so install first). As
# a user who is not root: initdb refuses that. The first two run against the
# server that is up instead, if it is asked so: make installcheck TEMP_INSTANCE=
TEMP_INSTANCE = yes
temp_instance = $(if $(TEMP_INSTANCE),--temp-instance=./$(1) --temp-config=$(CURDIR)/test/stream_ckpt.conf \
	--no-locale --encoding=UTF8)
REGRESS := $(foreach test,$(basename $(notdir $(sort $(wildcard sql/*.sql)))),$(if $(findstring --,$(test)),,$(test)))
REGRESS_OPTS = $(call temp_instance,tmp_regress)
ISOLATION := $(basename $(notdir $(sort $(wildcard test/isolation/specs/*.spec))))
ISOLATION_OPTS = --inputdir=test/isolation $(call temp_instance,tmp_isolation)
PROVE_TESTS := $(sort $(wildcard test/t/*.pl))
TAP_TESTS := $(if $(PROVE_TESTS),1)
EXTRA_CLEAN = tmp_regress tmp_isolation tmp_check output_iso results log regression.diffs regression.out

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

PROVE_FLAGS += -I $(CURDIR)/test/lib

$(OBJS): $(headers)
