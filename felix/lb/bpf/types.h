/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Keys and values of every map. Addresses and ports are in network byte order (__be16, __be32), all
 * else in the host's. Padding is explicit and always zero: keys are compared as bytes. The Rust
 * types are generated from this file (layout.bpf.c). A change of any layout raises LAYOUT_VERSION,
 * which is a part of the pins' path.
 *
 * Only addr_t and its users know the address family: IPv6 is a second compilation.
 */
#ifndef TORTIE_TYPES_H
#define TORTIE_TYPES_H

#include <linux/types.h>
#include <stdbool.h>
#include <stddef.h>

typedef __be32 addr_t;

enum layout {
	LAYOUT_VERSION = 1,
};

/* A packet's addresses and ports, or the NodePort wildcard when addr is zero. */
struct tuple {
	addr_t saddr;
	addr_t daddr;
	__be16 sport;
	__be16 dport;
	__u8 proto;
	__u8 pad[3];
};

struct frontend_key {
	addr_t addr; /* zero: any address of the node (NodePort) */
	__be16 port;
	__u8 proto;
	__u8 pad;
};

/*
 * Where the endpoints of a set lie in the slots: `count` backends from `offset` on, then the Maglev
 * table of `table` ordinals, ORDINALS_PER_SLOT in each slot. No table: count is 0 or 1.
 * Eight bytes, read at once: the one pointer by which a set is swapped.
 */
struct set_ref {
	__u32 offset;
	__u16 count;
	__u16 table;
};

/* Index of frontend.set: whom the traffic comes from. */
enum origin {
	ORIGIN_INSIDE,  /* this node's pods and processes (internalTrafficPolicy) */
	ORIGIN_OUTSIDE, /* an uplink (externalTrafficPolicy) */
	ORIGINS,
};

struct frontend {
	__u32 service;
	__u32 pad;
	struct set_ref set[ORIGINS];
};

enum backend_flags {
	BACKEND_LOCAL = 1, /* a workload of this node: its replies pass our hooks without SNAT */
};

struct backend {
	addr_t addr;
	__be16 port;
	__u16 flags;
};

enum slots {
	ORDINALS_PER_SLOT = sizeof(struct backend) / sizeof(__u16),
};

enum ct_direction {
	CT_FORWARD = 1, /* client to frontend */
	CT_REVERSE = 2, /* backend to client */
};

/*
 * What a packet with the key's tuple becomes. Entries come in pairs, and the key of the other one is
 * this tuple with its ends exchanged: (client, frontend) -> (client or SNAT, backend) and
 * (backend, client or SNAT) -> (frontend, client).
 */
struct ct_value {
	addr_t saddr;
	addr_t daddr;
	__be16 sport;
	__be16 dport;
	__u32 service;
	__u32 epoch;     /* config.epoch when the backend was last known to be in the set */
	__u32 seen_secs; /* coarse monotonic clock */
	__u8 direction;
	__u8 pad[3];
};

struct config {
	__u32 epoch;       /* advances with every change of the endpoint sets */
	addr_t snat_addr;  /* zero: none yet, remote backends cannot be served to the outside */
	addr_t hairpin_addr;
	__u16 port_min;    /* source ports of SNAT, host byte order, both inclusive */
	__u16 port_max;
	__u32 cpus;        /* possible CPUs: the ports are divided among them */
};

/* Per CPU and service. */
struct service_stats {
	__u64 packets;
	__u64 bytes;
	__u64 flows;
};

struct drop_key {
	__u32 service; /* zero: not known */
	__u32 reason;
};

/* What a socket took for its peer, by what it really talks to. */
struct sk_key {
	__u64 cookie;
	addr_t addr;
	__be16 port;
	__u8 proto;
	__u8 pad;
};

struct sk_value {
	addr_t addr;
	__be16 port;
	__u16 pad;
};

_Static_assert(sizeof(struct tuple) == 16, "tuple");
_Static_assert(sizeof(struct frontend_key) == 8, "frontend_key");
_Static_assert(sizeof(struct set_ref) == 8, "set_ref");
_Static_assert(sizeof(struct frontend) == 24, "frontend");
_Static_assert(sizeof(struct backend) == 8, "backend");
_Static_assert(sizeof(struct ct_value) == 28, "ct_value");
_Static_assert(sizeof(struct config) == 20, "config");
_Static_assert(sizeof(struct service_stats) == 24, "service_stats");
_Static_assert(sizeof(struct drop_key) == 8, "drop_key");
_Static_assert(sizeof(struct sk_key) == 16, "sk_key");
_Static_assert(sizeof(struct sk_value) == 8, "sk_value");

#endif
