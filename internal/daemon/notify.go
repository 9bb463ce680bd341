package daemon

import (
	"fmt"
	"net"
	"strconv"
	"time"
)

// Notifier tells systemd how the daemon does, by the protocol of sd_notify(3).
// The zero Notifier, and one without a socket, tell nobody.
type Notifier struct {
	socket   string
	interval time.Duration
}

// NewNotifier reads NOTIFY_SOCKET and WATCHDOG_USEC through getenv. A watchdog
// meant for another process (WATCHDOG_PID is not pid) is ignored.
func NewNotifier(getenv func(string) string, pid int) Notifier {
	n := Notifier{socket: getenv("NOTIFY_SOCKET")}
	if other := getenv("WATCHDOG_PID"); other != "" && other != strconv.Itoa(pid) {
		return n
	}
	if usec, err := strconv.ParseInt(getenv("WATCHDOG_USEC"), 10, 64); err == nil && usec > 0 {
		n.interval = time.Duration(usec) * time.Microsecond / 2
	}
	return n
}

// Watchdog is how often WATCHDOG=1 must be sent: half of what systemd allows;
// 0 is never.
func (n Notifier) Watchdog() time.Duration { return n.interval }

// Send sends the given assignments, such as "READY=1". Without a socket it does nothing.
func (n Notifier) Send(assignments string) error {
	if n.socket == "" {
		return nil
	}
	name := n.socket
	if name[0] == '@' { // an abstract address
		name = "\x00" + name[1:]
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("notify systemd: %w", err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte(assignments)); err != nil {
		return fmt.Errorf("notify systemd: %w", err)
	}
	return nil
}
