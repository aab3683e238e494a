// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/*
 * Socket hooks: a process of this node that connects or sends to a frontend talks to a backend from then on, at no
 * cost per packet. What the socket took for its peer is kept by its cookie, for getpeername and recvmsg.
 */
#include <linux/bpf.h>
#include <linux/errno.h>
#include <linux/in.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "types.h"
#include "maps.h"
#include "drop.h"
#include "frontend.h"
#include "maglev.h"

#define REJECT 0
#define PROCEED 1

static __always_inline bool is_served_protocol(__u32 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP;
}

static __always_inline int to_backend(struct bpf_sock_addr *ctx, __u32 hash)
{
	__be16 port = (__be16)ctx->user_port;
	struct sk_value peer = { .addr = ctx->user_ip4, .port = port };
	struct sk_key key = { .cookie = bpf_get_socket_cookie(ctx), .proto = ctx->protocol };
	struct frontend *f;
	struct backend *b;

	if (!is_served_protocol(ctx->protocol))
		return PROCEED;
	f = frontend_find(peer.addr, port, ctx->protocol);
	if (!f)
		return PROCEED;
	b = backend_choose(set_read(&f->set[ORIGIN_INSIDE]), hash);
	if (!b) {
		drop_count(f->service, DROP_NO_BACKEND);
		/* What a host without a listener would answer. */
		bpf_set_retval(-ECONNREFUSED);
		return REJECT;
	}
	key.addr = b->addr;
	key.port = b->port;
	if (bpf_map_update_elem(&sk_reverse, &key, &peer, BPF_ANY)) {
		drop_count(f->service, DROP_CONNTRACK_FULL);
		bpf_set_retval(-ENOMEM);
		return REJECT;
	}
	service_count(f->service, 0, 1);
	ctx->user_ip4 = key.addr;
	ctx->user_port = key.port;
	return PROCEED;
}

static __always_inline void to_frontend(struct bpf_sock_addr *ctx)
{
	struct sk_key key = {
		.cookie = bpf_get_socket_cookie(ctx),
		.addr = ctx->user_ip4,
		.port = (__be16)ctx->user_port,
		.proto = ctx->protocol,
	};
	struct sk_value *peer;

	if (!is_served_protocol(ctx->protocol))
		return;
	peer = bpf_map_lookup_elem(&sk_reverse, &key);
	if (!peer)
		return;
	ctx->user_ip4 = peer->addr;
	ctx->user_port = peer->port;
}

SEC("cgroup/connect4")
int connect4(struct bpf_sock_addr *ctx)
{
	return to_backend(ctx, bpf_get_prandom_u32());
}

/* One socket keeps its backend from datagram to datagram: the hash is the socket's. */
SEC("cgroup/sendmsg4")
int sendmsg4(struct bpf_sock_addr *ctx)
{
	__u64 cookie = bpf_get_socket_cookie(ctx);

	return to_backend(ctx, hash_mix((__u32)cookie ^ (__u32)(cookie >> 32)));
}

SEC("cgroup/recvmsg4")
int recvmsg4(struct bpf_sock_addr *ctx)
{
	to_frontend(ctx);
	return PROCEED;
}

SEC("cgroup/getpeername4")
int getpeername4(struct bpf_sock_addr *ctx)
{
	to_frontend(ctx);
	return PROCEED;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
