package daemon

import (
	"context"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"netpolicy.dev/netpolicy/actions"
)

// quietHost is how long links and routes must be still before they are read
// again: bringing up one interface makes a handful of messages.
const quietHost = 200 * time.Millisecond

// busyHost bounds that wait on a host that is never still.
const busyHost = 2 * time.Second

// WatchHost calls changed after links, addresses or routes of the main table
// changed, until ctx ends. Our own tables' routes are no change. It works in the
// network namespace that it is called in; changed must not block.
func WatchHost(ctx context.Context, changed func()) error {
	done := make(chan struct{})
	defer close(done)
	failed := make(chan error, 3)
	fail := func(err error) {
		select {
		case failed <- err:
		default:
		}
	}
	links := make(chan netlink.LinkUpdate, 64)
	if err := netlink.LinkSubscribeWithOptions(links, done, netlink.LinkSubscribeOptions{ErrorCallback: fail}); err != nil {
		return fmt.Errorf("watch links: %w", err)
	}
	defer drain(links)
	addrs := make(chan netlink.AddrUpdate, 64)
	if err := netlink.AddrSubscribeWithOptions(addrs, done, netlink.AddrSubscribeOptions{ErrorCallback: fail}); err != nil {
		return fmt.Errorf("watch addresses: %w", err)
	}
	defer drain(addrs)
	routes := make(chan netlink.RouteUpdate, 64)
	if err := netlink.RouteSubscribeWithOptions(routes, done, netlink.RouteSubscribeOptions{ErrorCallback: fail}); err != nil {
		return fmt.Errorf("watch routes: %w", err)
	}
	defer drain(routes)

	quiet := time.NewTimer(time.Hour)
	quiet.Stop()
	defer quiet.Stop()
	var since time.Time
	for {
		some := true
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			return fmt.Errorf("watch links and routes: %w", err)
		case _, ok := <-links:
			if !ok {
				return fmt.Errorf("watch links: the subscription ended")
			}
		case _, ok := <-addrs:
			if !ok {
				return fmt.Errorf("watch addresses: the subscription ended")
			}
		case r, ok := <-routes:
			if !ok {
				return fmt.Errorf("watch routes: the subscription ended")
			}
			some = r.Table == unix.RT_TABLE_MAIN && r.Protocol != actions.RouteProto
		case <-quiet.C:
			since = time.Time{}
			changed()
			continue
		}
		if !some {
			continue
		}
		if since.IsZero() {
			since = time.Now()
		}
		quiet.Reset(max(0, min(quietHost, busyHost-time.Since(since))))
	}
}

// drain lets a subscription's goroutine end, which may be about to send; it
// closes the channel when its socket is closed.
func drain[T any](c <-chan T) {
	go func() {
		for range c {
		}
	}()
}
