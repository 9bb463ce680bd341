/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * What is remembered of each socket, the records that go to user space, and the
 * counters of what was lost on the way. The Go side reads these structures as
 * they stand: every member is aligned and every gap is named.
 */
#ifndef NETPOLICY_CONN_H
#define NETPOLICY_CONN_H

#include "kernel.h"

/* The network namespace that is observed. */
volatile const __u32 netns_inum = 0;
volatile const __u64 netns_cookie = 0;

/* The program that a socket belongs to, as it was when it opened or listened. */
struct owner {
	__u64 cgroup;
	__u64 start; /* of the process; with pid and exec it names one program */
	__u64 exec;
	__u32 pid;
	__u32 uid;
	__u8 comm[16];
};

enum {
	OWNED = 1,     /* owner is set */
	ACCEPTED = 2,  /* the far end opened it */
	TOLD = 4,      /* its opening was told */
	NAMED = 8,     /* nothing more of it is copied */
	RECEIVED = 16, /* UDP: something came in */
	DNS = 32,      /* speaks DNS over TCP: all is copied, within bounds */
	V6 = 64,       /* UDP: the flow that was told last */
};

struct conn {
	struct owner owner;
	__u64 id; /* the socket's cookie */
	__u64 sampled; /* what the last sample told, to tell only of changes */
	__u32 flags;
	__u32 seq;    /* of the opener's first byte */
	__u32 want;   /* bytes to be copied; 0: not known yet */
	__u32 copied;
	__u32 copies; /* packets */
	__u16 lport, rport; /* UDP: the flow that was told last, with its addresses */
	__u32 local[4], remote[4];
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, struct conn);
} conns SEC(".maps");

struct stats {
	__u64 up; /* bytes, from this host's view: sent and acknowledged */
	__u64 down;
	__u32 rtt; /* microseconds, times eight, as the kernel keeps it */
	__u32 min_rtt;
	__u32 retrans;
	__u32 segs_out;
	__u32 segs_in;
	__u32 pad;
};

enum {
	OPEN = 1,
	CLOSE = 2,
	GONE = 3,    /* a UDP socket, with all its flows */
	FIGURES = 4, /* a sample of a connection under way */
};

struct event {
	__u64 id;
	struct owner owner;
	struct stats stats;
	__u32 local[4]; /* IPv4 in the first word; network order */
	__u32 remote[4];
	__u16 lport; /* host order */
	__u16 rport;
	__u8 kind;
	__u8 proto;
	__u8 v6;
	__u8 reset;
	__u32 flags;
	__u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 8 << 20);
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 8 << 20);
} copies SEC(".maps");

/* What was lost: the counters' places. */
enum { LOST_EVENTS = 0, LOST_COPIES = 1, LOST_CONNS = 2, REFUSED = 3, COUNTERS = 4 };

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

static __always_inline void count(__u32 which)
{
	__u64 *n = bpf_map_lookup_elem(&counters, &which);

	if (n)
		__sync_fetch_and_add(n, 1);
}

/* own notes the program that runs now. The name is that of the process, not of
 * the thread: what /proc/PID/comm says. */
static __always_inline void own(struct owner *o)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct task_struct *leader = BPF_CORE_READ(task, group_leader);

	o->pid = bpf_get_current_pid_tgid() >> 32;
	o->uid = (__u32)bpf_get_current_uid_gid();
	o->cgroup = bpf_get_current_cgroup_id();
	o->start = BPF_CORE_READ(leader, start_time);
	o->exec = BPF_CORE_READ(leader, self_exec_id);
	BPF_CORE_READ_STR_INTO(&o->comm, leader, comm);
}

/* note enters what runs now as the owner of a socket that begins something. */
static __always_inline void note(struct conn *c, __u64 id)
{
	if (!c) {
		count(LOST_CONNS);
		return;
	}
	__builtin_memset(c, 0, sizeof(*c));
	own(&c->owner);
	c->flags = OWNED;
	c->id = id;
}

/* here reports whether a socket is of the network namespace that is observed. */
static __always_inline bool here(struct tcp_sock *tp)
{
	return ((struct sock *)tp)->__sk_common.skc_net.net->ns.inum == netns_inum;
}

/* measure reads the figures of a TCP connection. */
static __always_inline void measure(struct stats *s, struct tcp_sock *tp)
{
	s->rtt = tp->srtt_us;
	s->min_rtt = tp->rtt_min.s[0].v;
	s->retrans = tp->total_retrans;
	s->up = tp->bytes_acked;
	s->down = tp->bytes_received;
	s->segs_out = tp->segs_out;
	s->segs_in = tp->segs_in;
	s->pad = 0;
}

/* describe fills in an event of a TCP connection. */
static __always_inline void describe(struct event *e, __u8 kind, struct conn *c, struct tcp_sock *tp)
{
	struct sock *sk = (struct sock *)tp;

	__builtin_memset(e, 0, sizeof(*e));
	e->id = c->id;
	e->owner = c->owner;
	e->kind = kind;
	e->proto = IPPROTO_TCP;
	e->flags = c->flags;
	e->lport = sk->__sk_common.skc_num;
	e->rport = bpf_ntohs(sk->__sk_common.skc_dport);
	if (sk->__sk_common.skc_family == AF_INET6) {
		e->v6 = 1;
		for (int i = 0; i < 4; i++) {
			e->local[i] = sk->__sk_common.skc_v6_rcv_saddr.in6_u.u6_addr32[i];
			e->remote[i] = sk->__sk_common.skc_v6_daddr.in6_u.u6_addr32[i];
		}
	} else {
		e->local[0] = sk->__sk_common.skc_rcv_saddr;
		e->remote[0] = sk->__sk_common.skc_daddr;
	}
	measure(&e->stats, tp);
}

/* tell sends an event of a TCP connection. */
static __always_inline void tell(__u8 kind, struct conn *c, struct tcp_sock *tp, bool reset)
{
	struct event *e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);

	if (!e) {
		count(LOST_EVENTS);
		return;
	}
	describe(e, kind, c, tp);
	e->reset = reset;
	bpf_ringbuf_submit(e, 0);
}

#endif
