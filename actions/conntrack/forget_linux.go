package conntrack

import (
	"fmt"

	"github.com/mdlayher/netlink"
)

// Forget removes one connection: its next packet is a new flow. ErrNotFound
// when it is gone already.
func (c *Conn) Forget(t Tuple) error {
	if err := c.change(msgDelete, t, func(*netlink.AttributeEncoder) {}); err != nil {
		return fmt.Errorf("forget connection %d %s > %s: %w", t.Proto, t.Src, t.Dst, err)
	}
	return nil
}
