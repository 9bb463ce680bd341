package sockmark

import (
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"netpolicy.dev/netpolicy/internal/nstest"
)

func TestMain(m *testing.M) { nstest.Main(m) }

// TestControl: a socket has its mark and its device before it is used, and is not
// used where it can't have them.
func TestControl(t *testing.T) {
	nstest.Need(t)
	listen := func(mark uint32, device string) (*net.UDPConn, error) {
		lc := net.ListenConfig{Control: Control(mark, device)}
		c, err := lc.ListenPacket(t.Context(), "udp4", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		t.Cleanup(func() { c.Close() })
		return c.(*net.UDPConn), nil
	}
	for _, want := range []struct {
		mark   uint32
		device string
	}{{0, ""}, {0x70000000, ""}, {0xffffffff, "lo"}} {
		c, err := listen(want.mark, want.device)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := c.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		if err := raw.Control(func(fd uintptr) {
			mark, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK)
			if err != nil || uint32(mark) != want.mark {
				t.Errorf("mark %#x, %v, want %#x", uint32(mark), err, want.mark)
			}
			device, err := unix.GetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE)
			if err != nil || device != want.device {
				t.Errorf("device %q, %v, want %q", device, err, want.device)
			}
		}); err != nil {
			t.Fatal(err)
		}
	}
	if c, err := listen(1, "nosuchdevice"); err == nil {
		t.Errorf("%v is bound to a device that is not there", c.LocalAddr())
	}
}
