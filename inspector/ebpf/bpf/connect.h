/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Verdicts when a program connects. The policy is compiled (actions.Connect) into
 * the answer to one question: which list belongs to the longest prefix that holds
 * the destination? Every entry of a list refuses; what no entry names goes on to
 * the kernel's table as if this were not here.
 *
 * Two generations of the maps exist: the one in use, and the one that is filled.
 */
#ifndef NETPOLICY_CONNECT_H
#define NETPOLICY_CONNECT_H

#include "conn.h"
#include "copy.h"

#define ENTRIES 16
#define MARKS 16
#define ANY 0xffff

/* One condition under which a connection is refused. A class is the place of a
 * program's or user's name among those of the policy; 0: it is not among them. */
struct entry {
	__u16 lo, hi; /* ports */
	__u16 program;
	__u16 user;
	__u8 proto; /* 0: TCP and UDP */
	__u8 log;
	__u16 pad;
	__u32 rule;
};

struct list {
	__u32 n;
	struct entry entries[ENTRIES];
};

struct key4 {
	__u32 bits;
	__u32 addr;
};

struct key6 {
	__u32 bits;
	__u32 addr[4];
};

struct name {
	__u8 comm[16];
};

struct refused {
	__u32 kind; /* TURNED_AWAY */
	__u32 generation;
	__u32 rule;
	__u32 v6;
	struct owner owner;
	__u32 local[4], remote[4];
	__u16 lport, rport;
	__u32 proto;
};

#define TABLE(map, inner_type, key_type, value_type, inner_flags)      \
	struct map##_inner {                                           \
		__uint(type, inner_type);                              \
		__uint(max_entries, 1);                                \
		__uint(map_flags, inner_flags);                        \
		__uint(key_size, sizeof(key_type));                    \
		__uint(value_size, sizeof(value_type));                \
	};                                                             \
	struct {                                                       \
		__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);              \
		__uint(max_entries, 2);                                \
		__type(key, __u32);                                    \
		__array(values, struct map##_inner);                   \
	} map SEC(".maps")

TABLE(dst4, BPF_MAP_TYPE_LPM_TRIE, struct key4, __u32, BPF_F_NO_PREALLOC);
TABLE(dst6, BPF_MAP_TYPE_LPM_TRIE, struct key6, __u32, BPF_F_NO_PREALLOC);
TABLE(lists, BPF_MAP_TYPE_HASH, __u32, struct list, 0);
TABLE(programs, BPF_MAP_TYPE_HASH, struct name, __u32, 0);
TABLE(users, BPF_MAP_TYPE_HASH, __u32, __u32, 0);

/* The generation in use; 0: none, nothing is refused. */
volatile __u32 generation = 0;
/* The bits of the packet mark by which netpolicy's own sockets, and those that
 * chose their way themselves, are left alone. */
volatile __u32 mark_mask = 0;
/* Marks of the user's own by which they leave as well; 0: no more. */
volatile __u32 own_marks[MARKS] = {};

static __always_inline __u32 class_of(void *outer, __u32 slot, void *key)
{
	void *inner = bpf_map_lookup_elem(outer, &slot);
	__u32 *class;

	if (!inner)
		return 0;
	class = bpf_map_lookup_elem(inner, key);
	return class ? *class : 0;
}

/* find returns the list of a destination, or 0. */
static __always_inline struct list *find(__u32 slot, const __u32 *addr, bool v6)
{
	void *inner;
	__u32 *id;

	if (v6) {
		struct key6 k = { 128, { addr[0], addr[1], addr[2], addr[3] } };

		inner = bpf_map_lookup_elem(&dst6, &slot);
		id = inner ? bpf_map_lookup_elem(inner, &k) : 0;
	} else {
		struct key4 k = { 32, addr[0] };

		inner = bpf_map_lookup_elem(&dst4, &slot);
		id = inner ? bpf_map_lookup_elem(inner, &k) : 0;
	}
	if (!id || !*id)
		return 0;
	inner = bpf_map_lookup_elem(&lists, &slot);
	return inner ? bpf_map_lookup_elem(inner, id) : 0;
}

static __always_inline void tell_refused(struct bpf_sock_addr *ctx, struct owner *o, __u32 gen, struct entry *e,
					 const __u32 *addr, bool v6)
{
	struct refused *r = bpf_ringbuf_reserve(&copies, sizeof(*r), 0);

	if (!r) {
		count(LOST_COPIES);
		return;
	}
	__builtin_memset(r, 0, sizeof(*r));
	r->kind = TURNED_AWAY;
	r->generation = gen;
	r->rule = e->rule;
	r->owner = *o;
	r->v6 = v6;
	__builtin_memcpy(r->remote, addr, 16);
	if (ctx->sk)
		r->lport = ctx->sk->src_port;
	r->rport = bpf_ntohs(ctx->user_port);
	r->proto = ctx->protocol;
	bpf_ringbuf_submit(r, 0);
}

/* chosen reports whether a socket has chosen its way by its mark. */
static __always_inline bool chosen(__u32 mark)
{
	if (mark & mark_mask)
		return true;
	for (int i = 0; mark && i < MARKS; i++) {
		if (own_marks[i] == mark)
			return true;
	}
	return false;
}

/* refuse reports whether the policy, as far as it is decided by what is known
 * here, blocks the connection. */
static __always_inline bool refuse(struct bpf_sock_addr *ctx, const __u32 *addr, bool v6)
{
	__u32 gen = generation, slot = gen & 1, program, user;
	__u16 port = bpf_ntohs(ctx->user_port);
	struct name name = {};
	struct owner o = {};
	struct list *list;

	if (!gen)
		return false;
	if (ctx->protocol == IPPROTO_UDP && (port == 67 || port == 68 || port == 546 || port == 547))
		return false; /* DHCP, which the kernel's table leaves alone, too */
	if (ctx->sk && chosen(ctx->sk->mark))
		return false;
	list = find(slot, addr, v6);
	if (!list || !list->n)
		return false;
	own(&o);
	__builtin_memcpy(name.comm, o.comm, sizeof(name.comm));
	program = class_of(&programs, slot, &name);
	user = class_of(&users, slot, &o.uid);
	for (int i = 0; i < ENTRIES; i++) {
		struct entry *e = &list->entries[i];

		if (i >= list->n)
			break;
		if (e->proto && e->proto != ctx->protocol)
			continue;
		if (port < e->lo || port > e->hi)
			continue;
		if (e->program != ANY && e->program != program)
			continue;
		if (e->user != ANY && e->user != user)
			continue;
		count(REFUSED);
		if (e->log)
			tell_refused(ctx, &o, gen, e, addr, v6);
		return true;
	}
	return false;
}

/* asked handles one attempt. A UDP socket that has received, or that chose its port,
 * may be answering somebody who came in: the kernel's table tells that from
 * conntrack, this can't, and so leaves it alone. */
static __always_inline int asked(struct bpf_sock_addr *ctx, const __u32 *addr, bool v6, bool connect)
{
	struct conn *c = 0;

	if (bpf_get_netns_cookie(ctx) != netns_cookie)
		return 1;
	if (ctx->protocol == IPPROTO_UDP) {
		if (!ctx->sk)
			return 1;
		c = bpf_sk_storage_get(&conns, ctx->sk, 0, 0);
		if (!c)
			return 1; /* older than the observation */
		own(&c->owner);
		if (c->flags & RECEIVED || (connect && ctx->sk->src_port))
			return 1;
	} else if (ctx->protocol == IPPROTO_TCP && ctx->sk) {
		note(bpf_sk_storage_get(&conns, ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE), bpf_get_socket_cookie(ctx));
	} else {
		return 1;
	}
	if (v6 && addr[0] == 0 && addr[1] == 0 && addr[2] == bpf_htonl(0xffff)) {
		addr += 3; /* IPv4, mapped */
		v6 = false;
	}
	return !refuse(ctx, addr, v6);
}

SEC("cgroup/connect4")
int connect4(struct bpf_sock_addr *ctx)
{
	__u32 addr[4] = { ctx->user_ip4 };

	return asked(ctx, addr, false, true);
}

SEC("cgroup/connect6")
int connect6(struct bpf_sock_addr *ctx)
{
	__u32 addr[4] = { ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3] };

	return asked(ctx, addr, true, true);
}

SEC("cgroup/sendmsg4")
int sendmsg4(struct bpf_sock_addr *ctx)
{
	__u32 addr[4] = { ctx->user_ip4 };

	return asked(ctx, addr, false, false);
}

SEC("cgroup/sendmsg6")
int sendmsg6(struct bpf_sock_addr *ctx)
{
	__u32 addr[4] = { ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3] };

	return asked(ctx, addr, true, false);
}

#endif
