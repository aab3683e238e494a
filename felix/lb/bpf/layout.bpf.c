// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/*
 * Never loaded: this object carries the types of types.h and drop.h as BTF, from which the build
 * generates the Rust types.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "types.h"
#undef __bpf__ /* the reasons alone, without the map that counts them */
#include "drop.h"

struct layouts {
	struct tuple tuple;
	struct frontend_key frontend_key;
	struct frontend frontend;
	struct backend backend;
	struct ct_value ct_value;
	struct config config;
	struct service_stats service_stats;
	struct drop_key drop_key;
	struct sk_key sk_key;
	struct sk_value sk_value;
	enum layout layout;
	enum origin origin;
	enum backend_flags backend_flags;
	enum slots slots;
	enum ct_direction ct_direction;
	enum drop_reason drop_reason;
};

struct layouts layouts SEC(".data");

char LICENSE[] SEC("license") = "Dual BSD/GPL";
