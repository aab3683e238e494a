/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Flows as pairs of entries (types.h, struct ct_value). The reverse entry is inserted first and never over
 * another flow's; a failed insert fails the flow, nothing leaves half translated. A pair with one half missing counts
 * as missing: once a second, and on every SYN, the half that is used looks for the other and puts it back.
 *
 * Timeouts are coarse: the LRU collects, and an idle UDP entry is chosen anew after UDP_IDLE_SECS.
 */
#ifndef TORTIE_CONNTRACK_H
#define TORTIE_CONNTRACK_H

#include <linux/in.h>

#include "maps.h"

#define NSEC_PER_SEC 1000000000ULL
#define UDP_IDLE_SECS 60 /* as Calico's and Cilium's timeouts of UDP flows */

static __always_inline __u32 now_secs(void)
{
	return bpf_ktime_get_coarse_ns() / NSEC_PER_SEC;
}

static __always_inline struct ct_value ct_opposite(const struct tuple *key, const struct ct_value *v)
{
	struct ct_value o = {
		.saddr = key->daddr,
		.daddr = key->saddr,
		.sport = key->dport,
		.dport = key->sport,
		.service = v->service,
		.epoch = v->epoch,
		.seen_secs = v->seen_secs,
		.direction = v->direction == CT_FORWARD ? CT_REVERSE : CT_FORWARD,
	};

	return o;
}

static __always_inline struct tuple ct_opposite_key(const struct ct_value *v, __u8 proto)
{
	struct tuple key = {
		.saddr = v->daddr,
		.daddr = v->saddr,
		.sport = v->dport,
		.dport = v->sport,
		.proto = proto,
	};

	return key;
}

static __always_inline bool ct_becomes(const struct ct_value *v, const struct ct_value *o)
{
	return v->saddr == o->saddr && v->daddr == o->daddr && v->sport == o->sport && v->dport == o->dport;
}

/* Makes `v` the value of its key, unless another live flow holds the key. 0, or -1. */
static __always_inline int ct_claim(const struct tuple *key, const struct ct_value *v)
{
	struct ct_value *held, *other;
	struct tuple other_key;

	if (!bpf_map_update_elem(&conntrack, key, v, BPF_NOEXIST))
		return 0;
	held = bpf_map_lookup_elem(&conntrack, key);
	if (held && !ct_becomes(held, v)) {
		/* Another flow's, if its other half exists and agrees; else what is left of a dead one. */
		other_key = ct_opposite_key(held, key->proto);
		other = bpf_map_lookup_elem(&conntrack, &other_key);
		if (other && other->saddr == key->daddr && other->daddr == key->saddr &&
		    other->sport == key->dport && other->dport == key->sport)
			return -1;
	}
	return bpf_map_update_elem(&conntrack, key, v, BPF_ANY) ? -1 : 0;
}

/* Marks an entry as used; once a second, or when `check` is set, makes sure that its pair is whole. */
static __always_inline void ct_touch(const struct tuple *key, struct ct_value *v, bool check)
{
	__u32 now = now_secs();
	struct tuple other_key;
	struct ct_value other;

	if (v->seen_secs == now && !check)
		return;
	v->seen_secs = now;
	other_key = ct_opposite_key(v, key->proto);
	if (bpf_map_lookup_elem(&conntrack, &other_key))
		return;
	other = ct_opposite(key, v);
	bpf_map_update_elem(&conntrack, &other_key, &other, BPF_NOEXIST);
}

#endif
