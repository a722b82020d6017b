# Hostile images.
#   make hostile        all named ones, 200,000 mutated ones, compared with QEMU
#   make hostile-check  the part that belongs to make check (less than a minute)

HOSTILE_SRC := $(wildcard test/hostile/*.c)
HOSTILE     := $(if $(HOSTILE_SRC),$(B)/test/hostile/hostile)

$(B)/test/hostile/hostile: $(call obj,$(HOSTILE_SRC)) $(LIBS)
	$(call say,LINK)
	$(call link,$(CORE_LIBS))

.PHONY: hostile hostile-check
hostile: $(B)/test/hostile/hostile
	$(Q)mkdir -p $(B)/hostile-images
	$(Q)$< --named --qemu=$(B)/hostile-images
	$(Q)$< --mutations=200000
	$(Q)$< --mutations=5000 --seed=2 --qemu=$(B)/hostile-images --sample=5
hostile-check: $(B)/test/hostile/hostile
	$(Q)$< --named --mutations=6000
