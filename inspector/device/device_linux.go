// Package device gives the indices of network interfaces the names that rules
// know them by (Linux).
package device

import (
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// life is how long the name of an interface is believed.
	life = 10 * time.Second
	// deepest is how far a bridge or bond is looked for above an interface:
	// VLAN-aware bridges over bonds in a VRF.
	deepest = 4
)

// Names remembers the names of interfaces for some seconds. It is for one goroutine.
type Names struct {
	links *netlink.Handle
	names map[int]string
	at    time.Time
}

// Open returns the names in the network namespace of the calling thread.
func Open() (*Names, error) {
	links, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open route netlink: %w", err)
	}
	return &Names{links: links, names: make(map[int]string)}, nil
}

// Close gives up the socket.
func (n *Names) Close() { n.links.Close() }

// Of returns the interface that rules know a packet by which the interface with
// this index received: the bridge, bond or VRF that it belongs to, where it does.
func (n *Names) Of(index int, now time.Time) string {
	if now.Sub(n.at) > life {
		clear(n.names)
		n.at = now
	}
	if name, ok := n.names[index]; ok {
		return name
	}
	name := ""
	for at, level := index, 0; at != 0 && level < deepest; level++ {
		link, err := n.links.LinkByIndex(at)
		if err != nil {
			break
		}
		name, at = link.Attrs().Name, link.Attrs().MasterIndex
	}
	n.names[index] = name
	return name
}
