/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Backend choice. flow_hash(tuple) is the same on every node. backend_choose(set, hash) returns the
 * backend, or NULL for an empty set. set_has(set, addr, port) tells whether an endpoint is still in it.
 */
#ifndef TORTIE_MAGLEV_H
#define TORTIE_MAGLEV_H

#include "maps.h"

/* Finaliser of MurmurHash3 (32 bits), public domain: full avalanche. */
static __always_inline __u32 hash_mix(__u32 h)
{
	h ^= h >> 16;
	h *= 0x85ebca6b;
	h ^= h >> 13;
	h *= 0xc2b2ae35;
	return h ^ (h >> 16);
}

static __always_inline __u32 flow_hash(const struct tuple *t)
{
	__u32 h = hash_mix(t->saddr);

	h = hash_mix(h ^ t->daddr);
	h = hash_mix(h ^ ((__u32)t->sport << 16 | t->dport));
	return hash_mix(h ^ t->proto);
}

/* The whole reference in one load: never the offset of one set and the count of another. */
static __always_inline struct set_ref set_read(const struct set_ref *ref)
{
	union {
		__u64 word;
		struct set_ref set;
	} u = { .word = *(const volatile __u64 *)ref };

	return u.set;
}

static __always_inline struct backend *backend_choose(struct set_ref set, __u32 hash)
{
	__u32 ordinal = 0, at;

	if (!set.count)
		return NULL;
	if (set.table) {
		__u32 entry = hash % set.table;
		__u16 *slot;

		at = set.offset + set.count + entry / ORDINALS_PER_SLOT;
		slot = bpf_map_lookup_elem(&slots, &at);
		if (!slot)
			return NULL;
		ordinal = slot[entry % ORDINALS_PER_SLOT];
	}
	at = set.offset + ordinal;
	return bpf_map_lookup_elem(&slots, &at);
}

struct set_search {
	struct set_ref set;
	addr_t addr;
	__be16 port;
	__u16 found;
};

static long set_search_step(__u32 i, struct set_search *search)
{
	__u32 at = search->set.offset + i;
	struct backend *b = bpf_map_lookup_elem(&slots, &at);

	search->found = b && b->addr == search->addr && b->port == search->port;
	return search->found;
}

static __always_inline bool set_has(struct set_ref set, __u32 hash, addr_t addr, __be16 port)
{
	struct set_search search = { .set = set, .addr = addr, .port = port };
	struct backend *b = backend_choose(set, hash);

	/* The table still says so: nearly always. */
	if (b && b->addr == addr && b->port == port)
		return true;
	bpf_loop(set.count, set_search_step, &search, 0);
	return search.found;
}

#endif
