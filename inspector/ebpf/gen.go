package ebpf

//go:generate go tool bpf2go -tags linux -target amd64,arm64 -type event -type owner -type header -type refused -type list -type key4 -type key6 -type name -cflags "-O2 -g -Wall -Werror" observe bpf/observe.c -- -Ibpf
