/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * The integer types that linux/bpf.h wants, in place of the system's file of this
 * name: that one asks for headers of one architecture.
 */
#ifndef _LINUX_TYPES_H
#define _LINUX_TYPES_H

typedef signed char __s8;
typedef unsigned char __u8;
typedef short __s16;
typedef unsigned short __u16;
typedef int __s32;
typedef unsigned int __u32;
typedef long long __s64;
typedef unsigned long long __u64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u64 __be64;
typedef __u32 __wsum;
typedef __u16 __sum16;

#define __aligned_u64 __u64 __attribute__((aligned(8)))

#endif
