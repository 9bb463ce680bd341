// SPDX-License-Identifier: MIT OR GPL-2.0-only
// Observation of connections: who opens them, how they fare, and their names.
#include "copy.h"
#include "connect.h"

char _license[] SEC("license") = "Dual MIT/GPL";

// established notes where the opener's bytes begin, and tells of accepted connections.
static __always_inline void established(struct bpf_sock *sk, __u64 id, bool accepted)
{
	struct conn *c = bpf_sk_storage_get(&conns, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);

	if (!c || !tp) {
		count(LOST_CONNS);
		return;
	}
	if (((struct sock *)tp)->__sk_common.skc_dport == bpf_htons(DNS_PORT))
		c->flags |= DNS;
	if (!accepted) {
		c->seq = tp->snd_nxt;
		return;
	}
	c->flags = (c->flags & OWNED) | ACCEPTED | TOLD; // a copy of the listener's, or new
	c->id = id;
	c->seq = tp->rcv_nxt;
	tell(OPEN, c, tp, false);
}

// is_reset tells an end by RST: the far end's shows as an error, and of this side's
// the sign is that the connection ends without the states that follow a FIN.
static __always_inline bool is_reset(struct sock *sk, int from)
{
	int err = sk->sk_err;

	return err ? err == ECONNRESET || err == ECONNREFUSED || err == EPIPE
		   : from == TCP_ESTABLISHED || from == TCP_CLOSE_WAIT;
}

static __always_inline void closed(struct bpf_sock *sk, int from)
{
	struct conn *c = bpf_sk_storage_get(&conns, sk, 0, 0);
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);
	bool told;

	if (!c || !tp)
		return;
	told = c->flags & TOLD;
	c->flags &= ~TOLD; // first: who lists all must not find it after its end was told
	if (told)
		tell(CLOSE, c, tp, is_reset((struct sock *)tp, from));
	bpf_sk_storage_delete(&conns, sk);
}

// The life of a TCP connection. This is not done at the tracepoint
// inet_sock_set_state: there the kernel skips a program that runs already on the
// processor, when an interrupt brings a packet meanwhile, and a change is lost.
SEC("sockops")
int tcp_life(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct tcp_sock *tp;
	struct conn *c;

	if (!sk)
		return 1;
	switch (ctx->op) {
	case BPF_SOCK_OPS_TCP_LISTEN_CB:
		tp = bpf_skc_to_tcp_sock(sk);
		if (tp && here(tp))
			note(bpf_sk_storage_get(&conns, sk, 0, BPF_SK_STORAGE_GET_F_CREATE), bpf_get_socket_cookie(ctx));
		break;
	case BPF_SOCK_OPS_TCP_CONNECT_CB: // the SYN is about to leave
		tp = bpf_skc_to_tcp_sock(sk);
		if (!tp || !here(tp))
			break;
		c = bpf_sk_storage_get(&conns, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
		if (!c) {
			count(LOST_CONNS);
			break;
		}
		c->id = bpf_get_socket_cookie(ctx);
		c->flags |= TOLD;
		bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
		tell(OPEN, c, tp, false);
		break;
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		tp = bpf_skc_to_tcp_sock(sk);
		if (!tp || !here(tp))
			break;
		bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
		established(sk, bpf_get_socket_cookie(ctx), ctx->op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB);
		break;
	case BPF_SOCK_OPS_STATE_CB:
		if (ctx->args[1] == TCP_CLOSE)
			closed(sk, ctx->args[0]);
		break;
	}
	return 1;
}

// udp_event fills in an event of a UDP socket, of the flow that was told last.
static __always_inline void udp_event(struct event *e, __u8 kind, struct conn *c)
{
	__builtin_memset(e, 0, sizeof(*e));
	e->id = c->id;
	e->owner = c->owner;
	e->kind = kind;
	e->proto = IPPROTO_UDP;
	e->flags = c->flags;
	e->v6 = !!(c->flags & V6);
	e->lport = c->lport;
	e->rport = c->rport;
	__builtin_memcpy(e->local, c->local, sizeof(e->local));
	__builtin_memcpy(e->remote, c->remote, sizeof(e->remote));
}

// All are told, changed or not.
volatile __u32 all = 0;

// sample writes the record of a TCP connection, if its figures have changed since the last reading.
static __always_inline void sample(struct bpf_iter_meta *meta, struct conn *c, struct tcp_sock *tp)
{
	struct event e;
	__u64 now = (tp->bytes_acked + tp->bytes_received) ^ ((__u64)tp->srtt_us << 32) ^
		    ((__u64)tp->total_retrans << 56);

	if (!(c->flags & TOLD) || (now == c->sampled && !all))
		return;
	describe(&e, FIGURES, c, tp);
	// It may be ending right now, on another processor, and be half undone.
	if (!e.lport || !e.rport || ((struct sock *)tp)->__sk_common.skc_state == TCP_CLOSE)
		return;
	// Where there is no room this is called once more, after a reading.
	if (!bpf_seq_write(meta->seq, &e, sizeof(e)))
		c->sampled = now;
}

// sample_udp writes the record of a UDP socket, when all are told: it has no figures.
static __always_inline void sample_udp(struct bpf_iter_meta *meta, struct conn *c)
{
	struct event e;

	if (!(c->flags & TOLD) || !all)
		return;
	udp_event(&e, FIGURES, c);
	bpf_seq_write(meta->seq, &e, sizeof(e));
}

// The sockets that we know, and no others.
SEC("iter/bpf_sk_storage_map")
int figures(struct bpf_iter__bpf_sk_storage_map *ctx)
{
	struct conn *c = ctx->value;
	struct sock *sk = ctx->sk;
	struct tcp_sock *tp;

	if (!c || !sk)
		return 0;
	if (sk->sk_protocol == IPPROTO_UDP) {
		sample_udp(ctx->meta, c);
		return 0;
	}
	tp = bpf_skc_to_tcp_sock(sk);
	if (tp)
		sample(ctx->meta, c, tp);
	return 0;
}

// The same where a kernel refuses that one: all TCP sockets of the network namespace
// are visited. Those that listen are not told, and what waits has no socket in full.
SEC("iter/tcp")
int figures_tcp(struct bpf_iter__tcp *ctx)
{
	struct sock_common *sk = ctx->sk_common;
	struct tcp_sock *tp;
	struct conn *c;

	if (!sk)
		return 0;
	tp = bpf_skc_to_tcp_sock(sk);
	if (!tp)
		return 0;
	c = bpf_sk_storage_get(&conns, tp, 0, 0);
	if (c)
		sample(ctx->meta, c, tp);
	return 0;
}

// And all its UDP sockets.
SEC("iter/udp")
int figures_udp(struct bpf_iter__udp *ctx)
{
	struct udp_sock *sk = ctx->udp_sk;
	struct conn *c;

	if (!sk)
		return 0;
	c = bpf_sk_storage_get(&conns, sk, 0, 0);
	if (c)
		sample_udp(ctx->meta, c);
	return 0;
}

// local_tcp looks at a segment of this host's own connection; opener: of the side that opened it.
static __always_inline void local_tcp(struct __sk_buff *skb, struct conn *c, bool opener, __u32 ifindex)
{
	bool done = false, dns = c->flags & DNS;
	struct packet p = {};

	if (c->flags & NAMED || !(c->flags & TOLD) || !(opener || dns) || !c->seq)
		return;
	if (!parse(skb, 0, &p))
		return;
	if (dns) {
		if (p.len == 0)
			return;
		if (c->copied > DNS_STREAM)
			c->flags |= NAMED;
		c->copied += p.len;
		copy(skb, 0, opener && p.seq == c->seq, ifindex);
		return;
	}
	if (begins(skb, &p, c->seq, &c->want, &c->copied, &c->copies, &done))
		copy(skb, 0, p.seq == c->seq, ifindex);
	if (done)
		c->flags |= NAMED;
}

// tell_udp tells of a flow when its first packet leaves.
static __always_inline void tell_udp(struct conn *c, struct packet *p)
{
	struct event *e;

	if (c->rport == p->dport && c->remote[0] == p->dst[0] && c->remote[1] == p->dst[1] &&
	    c->remote[2] == p->dst[2] && c->remote[3] == p->dst[3])
		return;
	__builtin_memcpy(c->remote, p->dst, sizeof(c->remote));
	c->rport = p->dport;
	c->copies = 0;
	c->flags |= TOLD;
	c->lport = p->sport;
	__builtin_memcpy(c->local, p->src, sizeof(c->local));
	if (p->v6)
		c->flags |= V6;
	e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);
	if (!e) {
		count(LOST_EVENTS);
		return;
	}
	udp_event(e, OPEN, c);
	bpf_ringbuf_submit(e, 0);
}

SEC("cgroup_skb/egress")
int leaving(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;
	struct packet p = {};
	struct conn *c;

	if (!sk)
		return 1;
	sk = bpf_sk_fullsock(sk);
	if (!sk)
		return 1;
	c = bpf_sk_storage_get(&conns, sk, 0, 0);
	if (!c)
		return 1;
	if (sk->protocol == IPPROTO_TCP) {
		local_tcp(skb, c, !(c->flags & ACCEPTED), 0);
		return 1;
	}
	if (sk->protocol != IPPROTO_UDP || !parse(skb, 0, &p))
		return 1;
	// A socket to which something came first is a server's: what it sends are answers.
	if (!(c->flags & RECEIVED) || c->flags & TOLD)
		tell_udp(c, &p);
	if (p.dport == DNS_PORT) {
		copy(skb, 0, 0, 0);
	} else if (c->copies < MAX_INITIALS && is_initial(skb, &p)) {
		c->copies++;
		copy(skb, 0, 0, 0);
	}
	return 1;
}

SEC("cgroup_skb/ingress")
int coming(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;
	struct packet p = {};
	struct conn *c;

	if (!sk)
		return 1;
	sk = bpf_sk_fullsock(sk);
	if (!sk)
		return 1;
	c = bpf_sk_storage_get(&conns, sk, 0, 0);
	if (!c)
		return 1;
	if (sk->protocol == IPPROTO_TCP) {
		local_tcp(skb, c, c->flags & ACCEPTED, skb->ifindex);
		return 1;
	}
	c->flags |= RECEIVED;
	if (sk->protocol == IPPROTO_UDP && parse(skb, 0, &p) && p.sport == DNS_PORT)
		copy(skb, 0, 0, skb->ifindex);
	return 1;
}

SEC("cgroup/sock_create")
int made(struct bpf_sock *sk)
{
	if (sk->type != SOCK_DGRAM || sk->protocol != IPPROTO_UDP || bpf_get_netns_cookie(sk) != netns_cookie)
		return 1;
	note(bpf_sk_storage_get(&conns, sk, 0, BPF_SK_STORAGE_GET_F_CREATE), bpf_get_socket_cookie(sk));
	return 1;
}

SEC("cgroup/sock_release")
int released(struct bpf_sock *sk)
{
	struct event *e;
	struct conn *c;

	if (sk->type != SOCK_DGRAM)
		return 1;
	c = bpf_sk_storage_get(&conns, sk, 0, 0);
	if (!c || !(c->flags & TOLD))
		return 1;
	c->flags &= ~TOLD;
	e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);
	if (!e) {
		count(LOST_EVENTS);
		return 1;
	}
	udp_event(e, GONE, c);
	bpf_ringbuf_submit(e, 0);
	return 1;
}

struct way {
	__u32 src[4], dst[4];
	__u16 sport, dport;
	__u32 proto;
};

struct begun {
	__u32 seq, want, copied, copies;
};

// Connections that are forwarded and whose names were not seen yet.
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct way);
	__type(value, struct begun);
} passing SEC(".maps");

static __always_inline void forwarded_tcp(struct __sk_buff *skb, __u32 off, struct packet *p, struct way *w)
{
	struct begun fresh = { .seq = p->seq + 1 }, *b;
	bool done = false;
	__u32 first;

	if ((p->flags & 0x12) == 0x02) { // SYN alone
		if (bpf_map_update_elem(&passing, w, &fresh, BPF_ANY))
			count(LOST_CONNS);
		return;
	}
	if (p->len == 0)
		return;
	b = bpf_map_lookup_elem(&passing, w);
	if (!b)
		return;
	first = p->seq == b->seq;
	if (begins(skb, p, b->seq, &b->want, &b->copied, &b->copies, &done))
		copy(skb, off, first, skb->ifindex);
	if (done)
		bpf_map_delete_elem(&passing, w);
}

static __always_inline void forwarded_udp(struct __sk_buff *skb, __u32 off, struct packet *p, struct way *w)
{
	struct begun fresh = { .copies = 1 }, *b;

	if (p->sport != DNS_PORT && p->dport != DNS_PORT) {
		if (!is_initial(skb, p))
			return;
		b = bpf_map_lookup_elem(&passing, w);
		if (!b)
			bpf_map_update_elem(&passing, w, &fresh, BPF_ANY);
		else if (b->copies++ >= MAX_INITIALS)
			return;
	}
	copy(skb, off, 0, skb->ifindex);
}

SEC("tcx/ingress")
int forwarded(struct __sk_buff *skb)
{
	struct packet p = {};
	struct way w = {};
	__be16 ether = 0;
	__u32 off = 0;

	if (skb->protocol != bpf_htons(0x0800) && skb->protocol != bpf_htons(0x86dd))
		return TCX_NEXT;
	// Devices without a link header begin with IP.
	if (!bpf_skb_load_bytes(skb, 12, &ether, 2) && ether == skb->protocol)
		off = 14;
	if (!parse(skb, off, &p))
		return TCX_NEXT;
	__builtin_memcpy(w.src, p.src, sizeof(w.src));
	__builtin_memcpy(w.dst, p.dst, sizeof(w.dst));
	w.sport = p.sport;
	w.dport = p.dport;
	w.proto = p.proto;
	if (p.proto == IPPROTO_TCP)
		forwarded_tcp(skb, off, &p, &w);
	else
		forwarded_udp(skb, off, &p, &w);
	return TCX_NEXT;
}

// Their types are to be in the object, from which the Go side is made.
struct owner *type_owner __attribute__((unused));
struct event *type_event __attribute__((unused));
struct header *type_header __attribute__((unused));
struct refused *type_refused __attribute__((unused));
struct list *type_list __attribute__((unused));
struct key4 *type_key4 __attribute__((unused));
struct key6 *type_key6 __attribute__((unused));
struct name *type_name __attribute__((unused));
