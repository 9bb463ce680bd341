//go:build !linux

package probe

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"time"
)

var errSystem = errors.New("probes out of a device work on Linux only so far")

type links struct{}

func watchLinks() (*links, error) { return nil, errSystem }

func (*links) run(context.Context, func()) error { return errSystem }

func linkUp(dev string) bool {
	ifi, err := net.InterfaceByName(dev)
	return err == nil && ifi.Flags&net.FlagUp != 0
}

func (*prober) connect(context.Context, netip.AddrPort) (time.Duration, error) { return 0, errSystem }

func (*prober) echo(context.Context, netip.Addr) (time.Duration, error) { return 0, errSystem }
