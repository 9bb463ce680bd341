//go:build !linux

package tunnels

import (
	"errors"
	"net/netip"
)

var errLinux = errors.New("xray is managed on Linux only")

type ports struct{ note note }

type note struct {
	Stamp []byte
	Ports map[string]uint16
}

func openPorts(string) (*ports, error)           { return nil, errLinux }
func (*ports) of(string) (netip.AddrPort, error) { return netip.AddrPort{}, errLinux }
func (*ports) keep(map[string]bool)              {}
func (*ports) forget()                           {}
func (*ports) close()                            {}
