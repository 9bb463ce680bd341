// Package iproute adds and removes ip rules and routes over netlink. Every
// operation can be repeated, and only what carries our protocol number is ever
// listed. Needs Linux 4.17 (protocol of rules).
package iproute
