package conntrack

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Forget removes one connection: its next packet is a new flow. ErrNotFound
// when it is gone already.
func (c *Conn) Forget(t Tuple) error {
	ae := netlink.NewAttributeEncoder()
	ae.ByteOrder = binary.BigEndian
	ae.Nested(ctaTupleOrig, t.encode)
	err := c.do(msgDelete, t.family(), ae)
	if errors.Is(err, unix.ENOENT) {
		err = ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("forget connection %d %s > %s: %w", t.Proto, t.Src, t.Dst, err)
	}
	return nil
}
