/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Copies of the packets in which names are: DNS, a TLS ClientHello or the head of
 * an HTTP request, QUIC Initials. A connection's packets are looked at until
 * these have been seen and never again.
 */
#ifndef NETPOLICY_COPY_H
#define NETPOLICY_COPY_H

#include "conn.h"

#define DNS_PORT 53
/* A record holds a packet of at most this size: what a parser reads of a stream. */
#define MOST 16384
/* Bytes of an HTTP request's head that are copied. */
#define HTTP_HEAD 4096
/* Packets copied of one connection: MOST in the smallest segments that occur. */
#define MAX_COPIES 32
/* Packets copied of one QUIC connection: a ClientHello fits in three. */
#define MAX_INITIALS 6
/* A client's Initial is at least so large (RFC 9000, 14.1). */
#define INITIAL_SIZE 1200
/* Bytes copied of one connection that speaks DNS. */
#define DNS_STREAM 65536

enum { COPIED = 1, TURNED_AWAY = 2 }; /* records of the ring `copies` */

struct header {
	__u32 kind;
	__u32 len;     /* of what was copied, from the IP header on */
	__u32 first;   /* 1: these are the opener's first bytes */
	__u32 ifindex; /* where it came in; 0 for what this host sends */
};

struct packet {
	__u32 payload; /* offset */
	__u32 len;     /* of the payload */
	__u32 seq;
	__u16 sport, dport; /* host order */
	__u8 proto, flags, v6;
	__u32 src[4], dst[4];
};

struct ip4 {
	__u8 vihl, tos;
	__be16 len, id, frag;
	__u8 ttl, proto;
	__be16 sum;
	__be32 src, dst;
};

struct ip6 {
	__be32 flow;
	__be16 len;
	__u8 next, hops;
	__be32 src[4], dst[4];
};

struct transport {
	__be16 sport, dport;
	__be32 seq, ack;
	__u8 off, flags;
};

/* parse reads the headers from off on; false for what is not TCP or UDP. */
static __always_inline bool parse(struct __sk_buff *skb, __u32 off, struct packet *p)
{
	struct transport t = {};
	__u32 end = skb->len, at;
	__u8 first;

	if (bpf_skb_load_bytes(skb, off, &first, 1))
		return false;
	if (first >> 4 == 4) {
		struct ip4 h;

		if (bpf_skb_load_bytes(skb, off, &h, sizeof(h)) || h.frag & bpf_htons(0x1fff))
			return false;
		p->proto = h.proto;
		p->v6 = 0;
		p->src[0] = h.src;
		p->dst[0] = h.dst;
		at = off + (h.vihl & 15) * 4;
		if (h.len && off + bpf_ntohs(h.len) < end)
			end = off + bpf_ntohs(h.len);
	} else if (first >> 4 == 6) {
		struct ip6 h;

		if (bpf_skb_load_bytes(skb, off, &h, sizeof(h)))
			return false;
		p->proto = h.next;
		p->v6 = 1;
		__builtin_memcpy(p->src, h.src, 16);
		__builtin_memcpy(p->dst, h.dst, 16);
		at = off + sizeof(h);
		if (h.len && at + bpf_ntohs(h.len) < end)
			end = at + bpf_ntohs(h.len);
	} else {
		return false;
	}
	if (p->proto == IPPROTO_TCP) {
		if (bpf_skb_load_bytes(skb, at, &t, 14))
			return false;
		p->seq = bpf_ntohl(t.seq);
		p->flags = t.flags;
		at += (t.off >> 4) * 4;
	} else if (p->proto == IPPROTO_UDP) {
		if (bpf_skb_load_bytes(skb, at, &t, 4))
			return false;
		at += 8;
	} else {
		return false;
	}
	p->sport = bpf_ntohs(t.sport);
	p->dport = bpf_ntohs(t.dport);
	p->payload = at;
	p->len = end > at ? end - at : 0;
	return true;
}

/* COPY sends size bytes at most: a record's size must be a constant. */
#define COPY(size)                                                                   \
	do {                                                                         \
		struct {                                                             \
			struct header head;                                            \
			__u8 data[size];                                             \
		} *r = bpf_ringbuf_reserve(&copies, sizeof(*r), 0);                  \
		if (!r) {                                                            \
			count(LOST_COPIES);                                          \
			return;                                                      \
		}                                                                    \
		n = ((n - 1) & (size - 1)) + 1; /* what the verifier understands */  \
		r->head.kind = COPIED;                                               \
		r->head.len = n;                                                     \
		r->head.first = first;                                               \
		r->head.ifindex = ifindex;                                           \
		if (bpf_skb_load_bytes(skb, off, r->data, n))                        \
			bpf_ringbuf_discard(r, 0);                                   \
		else                                                                 \
			bpf_ringbuf_submit(r, 0);                                    \
	} while (0)

/* copy sends a packet, from its IP header on. */
static __noinline void copy(struct __sk_buff *skb, __u32 off, __u32 first, __u32 ifindex)
{
	__u32 n = skb->len;

	if (n <= off)
		return;
	n -= off;
	if (n > MOST)
		n = MOST;
	if (n <= 256)
		COPY(256);
	else if (n <= 2048)
		COPY(2048);
	else
		COPY(MOST);
}

/* wanted returns how many bytes of a stream hold its names, by how it begins. */
static __always_inline __u32 wanted(struct __sk_buff *skb, struct packet *p)
{
	__u8 b[9] = {};
	__u32 n;

	if (bpf_skb_load_bytes(skb, p->payload, b, 4))
		return 1;
	if (b[0] == 0x16) { /* TLS handshake */
		if (bpf_skb_load_bytes(skb, p->payload, b, sizeof(b)))
			return MOST;
		/* Record header, handshake header, the hello, and further records' headers. */
		n = 9 + 64 + (((__u32)b[6] << 16) | ((__u32)b[7] << 8) | b[8]);
		return n < MOST ? n : MOST;
	}
	/* The methods of HTTP are words of three or more capitals. */
	for (int i = 0; i < 4; i++)
		if ((b[i] < 'A' || b[i] > 'Z') && !(i == 3 && b[i] == ' '))
			return 1;
	return HTTP_HEAD;
}

/* begins reports whether an opener's segment is to be copied. done is set with the last one. */
static __always_inline bool begins(struct __sk_buff *skb, struct packet *p, __u32 seq, __u32 *want, __u32 *copied,
				   __u32 *copies_, bool *done)
{
	__u32 at = p->seq - seq;

	if (p->len == 0)
		return false;
	if (at >= MOST || *copies_ >= MAX_COPIES) {
		*done = true;
		return false;
	}
	if (at == 0)
		*want = wanted(skb, p);
	*copies_ += 1;
	*copied += p->len;
	if (*want && *copied >= *want)
		*done = true;
	return true;
}

/* is_initial reports a packet that may be a QUIC client's Initial: a long header. */
static __always_inline bool is_initial(struct __sk_buff *skb, struct packet *p)
{
	__u8 b;

	return p->len >= INITIAL_SIZE && !bpf_skb_load_bytes(skb, p->payload, &b, 1) && (b & 0xc0) == 0xc0;
}

#endif
