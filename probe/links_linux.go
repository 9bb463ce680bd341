package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// links tells of changes of interfaces.
type links struct{ conn *netlink.Conn }

func watchLinks() (*links, error) {
	c, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{Groups: unix.RTMGRP_LINK})
	if err != nil {
		return nil, fmt.Errorf("open route netlink: %w", err)
	}
	return &links{c}, nil
}

// run calls changed after every change, until ctx ends. What the messages say
// does not matter: who is woken looks for himself, so that losing some is no loss.
func (l *links) run(ctx context.Context, changed func()) error {
	defer func() { _ = l.conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = l.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	for ctx.Err() == nil {
		_, err := l.conn.Receive()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && !errors.Is(err, unix.ENOBUFS) {
			return fmt.Errorf("receive link changes: %w", err)
		}
		changed()
	}
	return nil
}

// linkUp reports whether the device is there, up, and has a carrier.
func linkUp(dev string) bool {
	ifi, err := net.InterfaceByName(dev)
	return err == nil && ifi.Flags&(net.FlagUp|net.FlagRunning) == net.FlagUp|net.FlagRunning
}
