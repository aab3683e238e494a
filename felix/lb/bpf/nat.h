/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * flow_create(packet, frontend, origin, out): picks a backend and records the flow; `out` is what the packet
 * becomes. Returns 0 or a drop reason.
 * nat_forward(skb, packet, to): rewrites the packet and sends it on; returns the tc verdict.
 */
#ifndef TORTIE_NAT_H
#define TORTIE_NAT_H

#include <stddef.h>

#include "conntrack.h"
#include "csum.h"
#include "drop.h"
#include "maglev.h"
#include "parse.h"

#define AF_INET 2
#define TC_NEXT TC_ACT_UNSPEC /* TCX_NEXT: on to the next program, then the kernel */
#define SNAT_TRIES 32
#define TTL_MIN 2 /* what a packet needs to be forwarded once more */

/*
 * A free source port towards one backend: each CPU has its own part of the range, so two CPUs do not look for the
 * same port; after half of the tries any part will do. On success `reverse` is in the table and `v->sport` is set.
 */
static __always_inline int snat_port(struct ct_value *v, const struct tuple *client, const struct config *cfg)
{
	__u32 ports = (__u32)cfg->port_max - cfg->port_min + 1;
	__u32 span = ports / cfg->cpus ? ports / cfg->cpus : 1;
	__u32 start = bpf_get_prandom_u32();
	struct ct_value reverse = ct_opposite(client, v);
	int i;

	for (i = 0; i < SNAT_TRIES; i++) {
		__u32 n = start + i;
		struct tuple key;

		if (i < SNAT_TRIES / 2)
			n = bpf_get_smp_processor_id() * span + n % span;
		else
			n = hash_mix(n);
		v->sport = bpf_htons(cfg->port_min + n % ports);
		key = ct_opposite_key(v, client->proto);
		if (!ct_claim(&key, &reverse))
			return 0;
	}
	return DROP_NO_SNAT_PORT;
}

static __always_inline int flow_create(const struct packet *p, const struct frontend *f, enum origin origin,
				       struct ct_value *out)
{
	struct config *cfg = config_get();
	struct set_ref set = set_read(&f->set[origin]);
	struct backend *b = backend_choose(set, flow_hash(&p->tuple));
	struct ct_value reverse;
	struct tuple key;
	int err;

	if (!b || !cfg)
		return DROP_NO_BACKEND;
	*out = (struct ct_value){
		.saddr = p->tuple.saddr,
		.daddr = b->addr,
		.sport = p->tuple.sport,
		.dport = b->port,
		.service = f->service,
		.epoch = cfg->epoch,
		.seen_secs = now_secs(),
		.direction = CT_FORWARD,
	};
	if (origin == ORIGIN_OUTSIDE && !(b->flags & BACKEND_LOCAL)) {
		/* Its replies must come back to this node. */
		if (!cfg->snat_addr)
			return DROP_NO_SNAT_ADDR;
		out->saddr = cfg->snat_addr;
		err = snat_port(out, &p->tuple, cfg);
	} else {
		/* Hairpin: a pod would answer its own address without leaving its namespace. */
		if (b->addr == p->tuple.saddr)
			out->saddr = cfg->hairpin_addr;
		reverse = ct_opposite(&p->tuple, out);
		key = ct_opposite_key(out, p->tuple.proto);
		/* The port is taken where the client reaches the same backend by two frontends from one port. */
		err = ct_claim(&key, &reverse) ? snat_port(out, &p->tuple, cfg) : 0;
	}
	if (err)
		return err;
	if (bpf_map_update_elem(&conntrack, &p->tuple, out, BPF_ANY)) {
		key = ct_opposite_key(out, p->tuple.proto);
		bpf_map_delete_elem(&conntrack, &key);
		return DROP_CONNTRACK_FULL;
	}
	service_count(f->service, 0, 1);
	return 0;
}

/* New addresses and ports, and a TTL lower by `hops`. 0, or -1. */
static __always_inline int nat_rewrite(struct __sk_buff *skb, const struct packet *p, const struct ct_value *to,
				       __u8 hops)
{
	const struct tuple *from = &p->tuple;
	void *data = (void *)(long)skb->data;
	void *end = (void *)(long)skb->data_end;
	struct iphdr *ip = data + sizeof(struct ethhdr);
	__u32 at = p->l4_offset;
	__u64 addrs = 0, ports = 0;
	__be16 *l4;
	__u64 flags;
	__u32 check;

	/* For the verifier, which has lost the bounds of l4_offset here (6.18: without this line the load fails with EACCES). */
	if (at > sizeof(struct ethhdr) + IP_HEADER_MAX)
		return -1;
	l4 = data + at;
	if ((void *)(ip + 1) > end || (void *)(l4 + 2) > end)
		return -1;

	addrs = csum_diff32(addrs, from->saddr, to->saddr);
	addrs = csum_diff32(addrs, from->daddr, to->daddr);
	ports = csum_diff32(ports, from->sport, to->sport);
	ports = csum_diff32(ports, from->dport, to->dport);

	ip->saddr = to->saddr;
	ip->daddr = to->daddr;
	ip->check = csum_apply(ip->check, csum_fold32(addrs));
	if (hops) {
		__be16 before = bpf_htons((__u16)ip->ttl << 8 | ip->protocol);
		__be16 after = bpf_htons((__u16)(ip->ttl - hops) << 8 | ip->protocol);

		ip->ttl -= hops;
		ip->check = csum_apply(ip->check, csum_fold32(csum_diff32(0, before, after)));
	}
	l4[0] = to->sport;
	l4[1] = to->dport;

	/* RFC 768: a UDP checksum of zero means none, and stays so. */
	if (from->proto == IPPROTO_UDP) {
		check = at + offsetof(struct udphdr, check);
		flags = BPF_F_MARK_MANGLED_0;
	} else {
		check = at + offsetof(struct tcphdr, check);
		flags = 0;
	}
	if (bpf_l4_csum_replace(skb, check, 0, csum_fold32(addrs), flags | BPF_F_PSEUDO_HDR))
		return -1;
	if (from->sport == to->sport && from->dport == to->dport)
		return 0;
	return bpf_l4_csum_replace(skb, check, 0, csum_fold32(ports), flags) ? -1 : 0;
}

/*
 * Around the stack where the FIB knows the way: a translated source may be the node's own address, which the stack
 * refuses as a martian. Else (host-network backend, no route, too big) the stack decides about the translated packet.
 */
static __always_inline int nat_forward(struct __sk_buff *skb, const struct packet *p, const struct ct_value *to)
{
	struct bpf_fib_lookup fib = {
		.family = AF_INET,
		.l4_protocol = p->tuple.proto,
		.sport = to->sport,
		.dport = to->dport,
		.tot_len = 0, /* the helper checks the packet itself: tot_len would refuse GSO */
		.tos = p->tos,
		.ipv4_src = to->saddr,
		.ipv4_dst = to->daddr,
		.ifindex = skb->ifindex,
	};
	struct bpf_redir_neigh neigh = { .nh_family = AF_INET };
	struct ethhdr *eth;
	long rc;

	service_count(to->service, skb->len, 0);
	rc = bpf_fib_lookup(skb, &fib, sizeof(fib), 0);
	if (rc != BPF_FIB_LKUP_RET_SUCCESS && rc != BPF_FIB_LKUP_RET_NO_NEIGH) {
		if (!nat_rewrite(skb, p, to, 0))
			return TC_NEXT;
		drop_count(to->service, DROP_REWRITE);
		return TC_ACT_SHOT;
	}
	if (p->ttl < TTL_MIN) {
		drop_count(to->service, DROP_TTL);
		return TC_ACT_SHOT;
	}
	if (nat_rewrite(skb, p, to, 1)) {
		drop_count(to->service, DROP_REWRITE);
		return TC_ACT_SHOT;
	}
	if (rc == BPF_FIB_LKUP_RET_NO_NEIGH) {
		neigh.ipv4_nh = fib.ipv4_dst;
		return bpf_redirect_neigh(fib.ifindex, &neigh, sizeof(neigh), 0);
	}
	eth = (void *)(long)skb->data;
	if ((void *)(eth + 1) > (void *)(long)skb->data_end) {
		drop_count(to->service, DROP_REWRITE);
		return TC_ACT_SHOT;
	}
	__builtin_memcpy(eth->h_dest, fib.dmac, ETH_ALEN);
	__builtin_memcpy(eth->h_source, fib.smac, ETH_ALEN);
	return bpf_redirect(fib.ifindex, 0);
}

#endif
