/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * frontend_find(addr, port, proto): the frontend of a destination, or NULL. An exact one wins; a NodePort is found
 * under the zero address when the destination is the node's own.
 */
#ifndef TORTIE_FRONTEND_H
#define TORTIE_FRONTEND_H

#include "maps.h"

static __always_inline struct frontend *frontend_find(addr_t addr, __be16 port, __u8 proto)
{
	struct frontend_key key = { .addr = addr, .port = port, .proto = proto };
	struct frontend *f = bpf_map_lookup_elem(&frontends, &key);

	if (f || !bpf_map_lookup_elem(&node_addrs, &addr))
		return f;
	key.addr = 0;
	return bpf_map_lookup_elem(&frontends, &key);
}

#endif
