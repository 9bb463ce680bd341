package tunnels

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"netpolicy.dev/netpolicy/xray/process"
)

// ports are those of loopback that Xray listens on, one for each route. Each is kept from others, also while Xray is started again, by a socket that is
// bound to it and does not listen: the kernel gives the port to nobody by itself, and
// Xray may listen there since both set SO_REUSEADDR.
type ports struct {
	note note
	held map[uint16]int // descriptors
}

// note is what a next start needs to ask for the same configuration.
type note struct {
	Stamp []byte            `json:"stamp"` // see config.Options; passwords are made of it, too
	Ports map[string]uint16 `json:"ports"` // by slug
}

// openPorts takes up those of an Xray that an earlier run has left.
func openPorts(dir string) (*ports, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the directory of xray: %w", err)
	}
	p := &ports{held: map[uint16]int{}}
	if left, ok := process.FindLeft(dir); ok && json.Unmarshal(left.Note, &p.note) != nil {
		p.note = note{} // it is another's, and will be replaced
	}
	if p.note.Ports == nil {
		p.note.Ports = map[string]uint16{}
	}
	if len(p.note.Stamp) == 0 {
		p.stamp()
	}
	return p, nil
}

func (p *ports) stamp() {
	p.note.Stamp = make([]byte, 16)
	_, _ = rand.Read(p.note.Stamp) // which ends the program rather than fail
}

// of returns the address for a route.
func (p *ports) of(slug string) (netip.AddrPort, error) {
	port, ok := p.note.Ports[slug]
	if !ok {
		var err error
		if port, err = p.take(); err != nil {
			return netip.AddrPort{}, err
		}
		p.note.Ports[slug] = port
	}
	return netip.AddrPortFrom(loopback, port), nil
}

var loopback = netip.AddrFrom4([4]byte{127, 0, 0, 1})

// keep lets go of the ports of routes that are not there any more.
func (p *ports) keep(slugs map[string]bool) {
	for slug, port := range p.note.Ports {
		if !slugs[slug] {
			delete(p.note.Ports, slug)
			p.release(port)
		}
	}
}

// forget lets go of all: somebody else has one, and may have been told a password there.
func (p *ports) forget() {
	p.keep(nil)
	p.stamp()
}

func (p *ports) close() { p.forget() }

func (p *ports) release(port uint16) {
	if fd, ok := p.held[port]; ok {
		unix.Close(fd)
		delete(p.held, port)
	}
}

// tries is how many ports are looked at: few are taken for datagrams alone.
const tries = 64

var errPorts = errors.New("no port of loopback is free for TCP and UDP")

// take finds a port that is free for connections and datagrams, and keeps it.
func (p *ports) take() (uint16, error) {
	for range tries {
		fd, port, err := bind(unix.SOCK_STREAM, 0)
		if err != nil {
			return 0, fmt.Errorf("find a port for xray: %w", err)
		}
		datagrams, _, err := bind(unix.SOCK_DGRAM, port)
		if err != nil {
			unix.Close(fd)
			continue
		}
		unix.Close(datagrams)
		p.held[port] = fd
		return port, nil
	}
	return 0, errPorts
}

func bind(kind int, port uint16) (fd int, got uint16, err error) {
	fd, err = unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, 0, err
	}
	if kind == unix.SOCK_STREAM {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	}
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrInet4{Port: int(port), Addr: loopback.As4()})
	}
	if err == nil {
		var sa unix.Sockaddr
		if sa, err = unix.Getsockname(fd); err == nil {
			if v4, ok := sa.(*unix.SockaddrInet4); ok {
				return fd, uint16(v4.Port), nil
			}
			err = unix.EAFNOSUPPORT
		}
	}
	unix.Close(fd)
	return -1, 0, err
}
