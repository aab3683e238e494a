/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Incremental checksums (RFC 1624). csum_ip_update() is for the IPv4 header, whose checksum is
 * always complete. The transport checksum may be partial (only the pseudo-header's sum, the device does the
 * rest) or the packet's sum may be in skb->csum, which only the kernel's helper knows: addresses
 * go in with BPF_F_PSEUDO_HDR, ports without.
 */
#ifndef TORTIE_CSUM_H
#define TORTIE_CSUM_H

#include <linux/types.h>

/* One's complement difference to - from of 32-bit words, as bpf_l4_csum_replace() takes with a size of 0. */
static __always_inline __u64 csum_diff32(__u64 sum, __be32 from, __be32 to)
{
	return sum + (__u32)~from + to;
}

static __always_inline __u32 csum_fold32(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffffffff) + (sum >> 32);
	return sum;
}

/* RFC 1624 equation 3: HC' = ~(~HC + ~m + m'). */
static __always_inline __u16 csum_apply(__u16 check, __u32 diff)
{
	__u32 sum = (__u16)~check + (diff & 0xffff) + (diff >> 16);

	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

#endif
