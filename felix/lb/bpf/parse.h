/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * parse(skb, packet): Ethernet, IPv4, TCP or UDP. Returns 0, or -1 for what we leave to the kernel: other
 * protocols, truncated headers, VLAN tags inside the frame, and fragments (not implemented: a
 * fragment's ports are in its first piece only). On 0 all headers are in the linear part.
 */
#ifndef TORTIE_PARSE_H
#define TORTIE_PARSE_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "types.h"

#define IP_FRAGMENT_MASK 0x3fff /* more fragments, offset */
#define IP_WORD_BYTES 4         /* unit of ihl */
#define IP_HEADER_MAX 60        /* bytes, with options */

struct packet {
	struct tuple tuple;
	__u32 l4_offset; /* from the start of the frame */
	__u8 tos;
	__u8 ttl;
	__u8 is_syn; /* a TCP SYN without ACK: the client opens */
};

static __always_inline int parse_headers(struct __sk_buff *skb, struct packet *p)
{
	void *data = (void *)(long)skb->data;
	void *end = (void *)(long)skb->data_end;
	struct ethhdr *eth = data;
	struct iphdr *ip = (void *)(eth + 1);
	__u32 ihl;

	if ((void *)(ip + 1) > end)
		return -1;
	ihl = ip->ihl * IP_WORD_BYTES;
	if (ip->version != 4 || ihl < sizeof(*ip))
		return -1;
	if (ip->frag_off & bpf_htons(IP_FRAGMENT_MASK))
		return -1;
	p->l4_offset = sizeof(*eth) + ihl;
	p->tos = ip->tos;
	p->ttl = ip->ttl;
	p->tuple.saddr = ip->saddr;
	p->tuple.daddr = ip->daddr;
	p->tuple.proto = ip->protocol;

	if (ip->protocol == IPPROTO_TCP) {
		struct tcphdr *tcp = (void *)ip + ihl;

		if ((void *)(tcp + 1) > end)
			return -1;
		p->tuple.sport = tcp->source;
		p->tuple.dport = tcp->dest;
		p->is_syn = tcp->syn && !tcp->ack;
		return 0;
	}
	if (ip->protocol == IPPROTO_UDP) {
		struct udphdr *udp = (void *)ip + ihl;

		if ((void *)(udp + 1) > end)
			return -1;
		p->tuple.sport = udp->source;
		p->tuple.dport = udp->dest;
		return 0;
	}
	return -1;
}

static __always_inline int parse(struct __sk_buff *skb, struct packet *p)
{
	/* Ethernet, the longest IPv4 header, TCP: what has to be linear. */
	const __u32 headers = sizeof(struct ethhdr) + IP_HEADER_MAX + sizeof(struct tcphdr);
	__u32 linear = (__u32)(skb->data_end - skb->data);

	if (skb->protocol != bpf_htons(ETH_P_IP))
		return -1;
	if (linear < headers && linear < skb->len)
		bpf_skb_pull_data(skb, skb->len < headers ? skb->len : headers);
	return parse_headers(skb, p);
}

#endif
