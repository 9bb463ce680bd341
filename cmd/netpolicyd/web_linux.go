package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"netpolicy.dev/netpolicy/internal/api"
	"netpolicy.dev/netpolicy/internal/daemon"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/web"
)

// firstFD is the first descriptor that a service manager hands in (sd_listen_fds(3)).
const firstFD = 3

// webOf says where the API is served over TCP: as the flags say, else as the policy does.
func (s *settings) webOf(p *rules.Daemon) error {
	w := p.Web
	s.web = daemon.Web{
		Listen: w.Listen,
		TCP:    api.TCP{Assets: web.Files(), CertFile: w.Cert, KeyFile: w.Key, Hosts: w.Hosts, InsecureLAN: w.InsecureLAN},
	}
	if s.apiListen != "" {
		a, err := netip.ParseAddrPort(s.apiListen)
		if err != nil {
			return fmt.Errorf("--api-listen %s: want an address with port, such as 127.0.0.1:8443", s.apiListen)
		}
		s.web.Listen = a
	}
	fd := s.apiFD
	if fd == 0 && os.Getenv("LISTEN_PID") == strconv.Itoa(os.Getpid()) && os.Getenv("LISTEN_FDS") == "1" {
		fd = firstFD
	}
	if fd == 0 {
		return nil
	}
	l, err := listenerOf(fd)
	if err != nil {
		return fmt.Errorf("the API's listener that was handed in: %w", err)
	}
	s.web.Listener = l
	return nil
}

// listenerOf returns the TCP listener of a descriptor that was handed in.
func listenerOf(fd int) (net.Listener, error) {
	if fd < firstFD {
		return nil, fmt.Errorf("descriptor %d is none of those", fd)
	}
	syscall.CloseOnExec(fd)
	f := os.NewFile(uintptr(fd), "listener")
	defer f.Close() // FileListener has a descriptor of its own
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("descriptor %d: %w", fd, err)
	}
	if _, ok := l.(*net.TCPListener); !ok {
		l.Close()
		return nil, fmt.Errorf("descriptor %d: %w", fd, errNoTCP)
	}
	return l, nil
}

var errNoTCP = errors.New("it is no TCP listener")

// telemetryOf says what is kept and told of decisions.
func (s *settings) telemetryOf(p *rules.Daemon) {
	s.telemetry = daemon.Telemetry{Sample: p.Records.Sample, Mask: p.Records.Mask, Alerts: p.Alerts, AlertExec: s.alertExec}
	s.telemetry.DecisionDir = s.decisionDir
	if s.decisionDir == "" && p.Records.Log {
		s.telemetry.DecisionDir = filepath.Join(s.stateDir, "decisions")
	}
	s.telemetry.Node, _ = os.Hostname() // "" is a name, too
}
