/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Why a packet was dropped. drop_count(service, reason) counts it per service; the caller returns the
 * hook's own drop verdict.
 */
#ifndef TORTIE_DROP_H
#define TORTIE_DROP_H

#include <linux/types.h>

enum drop_reason {
	DROP_NO_BACKEND = 1,     /* the frontend has no endpoint that may serve this traffic */
	DROP_CONNTRACK_FULL = 2, /* an entry could not be inserted */
	DROP_NO_SNAT_PORT = 3,   /* every source port that was tried is taken */
	DROP_NO_SNAT_ADDR = 4,   /* a remote backend, and the node has no address yet */
	DROP_TTL = 5,            /* the packet would be forwarded with a TTL of 0 */
	DROP_REWRITE = 6,        /* a header could not be rewritten */
	DROP_REASONS,
};

#ifdef __bpf__
#include "maps.h"

static __always_inline void drop_count(__u32 service, enum drop_reason reason)
{
	struct drop_key key = { .service = service, .reason = reason };
	__u64 *count = bpf_map_lookup_elem(&drops, &key);
	__u64 one = 1;

	if (count)
		*count += 1;
	else
		bpf_map_update_elem(&drops, &key, &one, BPF_NOEXIST);
}
#endif

#endif
