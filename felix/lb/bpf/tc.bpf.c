// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/*
 * tcx ingress of the pods' interfaces (workload_ingress) and of the uplinks (uplink_ingress): packets to a service
 * and replies of its backends. Egress of both (host_egress): replies of backends in the host's network.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "types.h"
#include "maps.h"
#include "drop.h"
#include "parse.h"
#include "frontend.h"
#include "maglev.h"
#include "conntrack.h"
#include "nat.h"

/*
 * Whether an entry towards a backend has to prove that its backend is still in the set: a TCP connection that opens;
 * a UDP flow after the sets changed, or when it was idle. An open TCP connection keeps its backend.
 */
static __always_inline bool must_validate(const struct packet *p, const struct ct_value *v)
{
	struct config *cfg;

	if (v->direction != CT_FORWARD)
		return false;
	if (p->tuple.proto == IPPROTO_TCP)
		return p->is_syn;
	cfg = config_get();
	return cfg && (v->epoch != cfg->epoch || now_secs() - v->seen_secs > UDP_IDLE_SECS);
}

static __always_inline int translate(struct __sk_buff *skb, enum origin origin)
{
	struct packet p = {};
	struct ct_value *v, to;
	struct frontend *f;
	int reason;

	if (parse(skb, &p))
		return TC_NEXT;
	v = bpf_map_lookup_elem(&conntrack, &p.tuple);
	if (v && !must_validate(&p, v)) {
		ct_touch(&p.tuple, v, false);
		to = *v;
		return nat_forward(skb, &p, &to);
	}
	f = frontend_find(p.tuple.daddr, p.tuple.dport, p.tuple.proto);
	if (!f)
		return TC_NEXT;
	if (v && set_has(set_read(&f->set[origin]), flow_hash(&p.tuple), v->daddr, v->dport)) {
		struct config *cfg = config_get();

		if (cfg)
			v->epoch = cfg->epoch;
		ct_touch(&p.tuple, v, true);
		to = *v;
		return nat_forward(skb, &p, &to);
	}
	reason = flow_create(&p, f, origin, &to);
	if (reason) {
		drop_count(f->service, reason);
		return TC_ACT_SHOT;
	}
	return nat_forward(skb, &p, &to);
}

SEC("tcx/ingress")
int workload_ingress(struct __sk_buff *skb)
{
	return translate(skb, ORIGIN_INSIDE);
}

SEC("tcx/ingress")
int uplink_ingress(struct __sk_buff *skb)
{
	return translate(skb, ORIGIN_OUTSIDE);
}

/* What this node itself sends; what it forwards has passed one of the programs above. */
SEC("tcx/egress")
int host_egress(struct __sk_buff *skb)
{
	struct packet p = {};
	struct ct_value *v, to;

	if (skb->ingress_ifindex || parse(skb, &p))
		return TC_NEXT;
	v = bpf_map_lookup_elem(&conntrack, &p.tuple);
	if (!v || v->direction != CT_REVERSE)
		return TC_NEXT;
	ct_touch(&p.tuple, v, false);
	to = *v;
	service_count(to.service, skb->len, 0);
	if (!nat_rewrite(skb, &p, &to, 0))
		return TC_NEXT;
	drop_count(to.service, DROP_REWRITE);
	return TC_ACT_SHOT;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
