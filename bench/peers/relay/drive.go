package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"text/tabwriter"
	"time"
)

type options struct {
	rounds, streams, workers, idle int
	each                           time.Duration
}

// server is a running child.
type server struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	at  netip.AddrPort
}

func start(system string) (*server, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(exe, "-serve", system)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s := &server{cmd: cmd, in: in}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err == nil {
		s.at, err = netip.ParseAddrPort(strings.TrimSpace(line))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", system, err), s.stop())
	}
	return s, nil
}

func (s *server) stop() error {
	_ = s.in.Close()
	return s.cmd.Wait()
}

// cpu is the processor time that the server has used.
func (s *server) cpu() time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(b), ") ") // after the name
	f := strings.Fields(rest)
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return time.Duration(user+system) * 10 * time.Millisecond // USER_HZ is 100
}

// resident is the server's memory.
func (s *server) resident() int64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", s.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	pages, _ := strconv.ParseInt(strings.Fields(string(b))[1], 10, 64)
	return pages * int64(os.Getpagesize())
}

// figures are what is measured of a system, a value for each round.
type figures map[string][]float64

// columns are the figures, in the order of the table.
var columns = []string{"1 stream MB/s", "CPU ms/GB", "n streams MB/s", "CPU ms/GB ", "conns/s", "CPU us/conn", "idle bytes/conn", "descriptors/conn"}

func drive(ctx context.Context, o options) error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err == nil && o.idle*2+500 > int(limit.Cur) {
		return fmt.Errorf("%d idle connections need %d descriptors, the limit is %d", o.idle, o.idle*2+500, limit.Cur)
	}
	far, err := listenFar()
	if err != nil {
		return err
	}
	defer far.close()
	got := map[string]figures{}
	for _, system := range order {
		got[system] = figures{}
	}
	for round := range o.rounds {
		for i := range order {
			system := order[(i+round)%len(order)] // each comes first in turn
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err := measure(system, far, o, got[system]); err != nil {
				return fmt.Errorf("%s: %w", system, err)
			}
		}
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "system\t"+strings.Join(columns, "\t")+"\t")
	for _, system := range order {
		fmt.Fprint(w, system)
		for _, c := range columns {
			fmt.Fprintf(w, "\t%.0f", median(got[system][c]))
		}
		fmt.Fprintln(w, "\t")
	}
	return w.Flush()
}

func median(list []float64) float64 {
	if len(list) == 0 {
		return 0
	}
	list = slices.Sorted(slices.Values(list))
	return list[len(list)/2]
}

// measure takes all figures of a fresh process.
func measure(system string, far *farEnd, o options, f figures) error {
	s, err := start(system)
	if err != nil {
		return err
	}
	add := func(column int, v float64) { f[columns[column]] = append(f[columns[column]], v) }
	for i, streams := range []int{1, o.streams} {
		before := s.cpu()
		bytes, took, err := throughput(s.at, far.source, streams, o.each)
		if err != nil {
			return errors.Join(err, s.stop())
		}
		add(2*i, float64(bytes)/1e6/took.Seconds())
		add(2*i+1, float64((s.cpu()-before).Milliseconds())/(float64(bytes)/1e9))
	}
	before := s.cpu()
	conns, took, err := connections(s.at, far.echo, o.workers, o.each)
	if err != nil {
		return errors.Join(err, s.stop())
	}
	add(4, float64(conns)/took.Seconds())
	add(5, float64((s.cpu()-before).Microseconds())/float64(conns))
	if err := s.stop(); err != nil || o.idle == 0 {
		return err
	}
	// Memory that earlier figures left would be used again: another process.
	if s, err = start(system); err != nil {
		return err
	}
	bytes, fds, err := idle(s, far, o.idle)
	add(6, bytes)
	add(7, fds)
	return errors.Join(err, s.stop())
}

// connect opens a connection through a server.
func connect(server, to netip.AddrPort) (net.Conn, error) {
	c, err := net.DialTCP("tcp4", nil, net.TCPAddrFromAddrPort(server))
	if err != nil {
		return nil, err
	}
	a := to.Addr().As4()
	var b [10]byte
	_, err = c.Write([]byte{5, 1, 0})
	if err == nil {
		_, err = io.ReadFull(c, b[:2])
	}
	if err == nil {
		_, err = c.Write([]byte{5, 1, 0, 1, a[0], a[1], a[2], a[3], byte(to.Port() >> 8), byte(to.Port())})
	}
	if err == nil {
		_, err = io.ReadFull(c, b[:])
	}
	if err == nil && b[1] != 0 {
		err = fmt.Errorf("the server says %d", b[1])
	}
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

// throughput reads from the source through the server for a time.
func throughput(server, source netip.AddrPort, streams int, each time.Duration) (int64, time.Duration, error) {
	var total atomic.Int64
	var all sync.WaitGroup
	failed := make(chan error, streams)
	start := time.Now()
	for range streams {
		all.Go(func() {
			c, err := connect(server, source)
			if err != nil {
				failed <- err
				return
			}
			defer c.Close()
			_ = c.SetReadDeadline(start.Add(each))
			buf := make([]byte, 256<<10)
			for {
				n, err := c.Read(buf)
				total.Add(int64(n))
				if err != nil {
					return
				}
			}
		})
	}
	all.Wait()
	took := time.Since(start)
	select {
	case err := <-failed:
		return 0, took, err
	default:
		return total.Load(), took, nil
	}
}

// connections opens connections, has a byte come back and closes them, for a time.
func connections(server, echo netip.AddrPort, workers int, each time.Duration) (int64, time.Duration, error) {
	var total atomic.Int64
	var all sync.WaitGroup
	failed := make(chan error, workers)
	start := time.Now()
	for range workers {
		all.Go(func() {
			var b [1]byte
			for time.Since(start) < each {
				c, err := connect(server, echo)
				if err == nil {
					_, err = c.Write(b[:])
				}
				if err == nil {
					_, err = io.ReadFull(c, b[:])
				}
				if err != nil {
					failed <- err
					return
				}
				// A reset leaves no TIME_WAIT: else the ports run out.
				if tcp, ok := c.(*net.TCPConn); ok {
					_ = tcp.SetLinger(0)
				}
				_ = c.Close()
				total.Add(1)
			}
		})
	}
	all.Wait()
	took := time.Since(start)
	select {
	case err := <-failed:
		return 0, took, err
	default:
		return total.Load(), took, nil
	}
}

// idle opens connections, has a byte come back on each, and looks at what the
// server has grown by.
func idle(s *server, far *farEnd, count int) (bytes, fds float64, err error) {
	open := func(n int) (list []net.Conn, err error) {
		for range n {
			c, err := connect(s.at, far.echo)
			if err != nil {
				return list, err
			}
			var b [1]byte
			if _, err = c.Write(b[:]); err == nil {
				_, err = io.ReadFull(c, b[:])
			}
			list = append(list, c)
			if err != nil {
				return list, err
			}
		}
		return list, nil
	}
	descriptors := func() int {
		list, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.cmd.Process.Pid))
		return len(list)
	}
	warm, err := open(50) // what is made once is not counted
	before, fdsBefore := s.resident(), descriptors()
	var list []net.Conn
	if err == nil {
		list, err = open(count)
	}
	time.Sleep(500 * time.Millisecond)
	bytes = float64(s.resident()-before) / float64(count)
	fds = float64(descriptors()-fdsBefore) / float64(count)
	for _, c := range append(list, warm...) {
		_ = c.Close()
	}
	return bytes, fds, err
}

// farEnd is what the servers connect to.
type farEnd struct {
	source, echo netip.AddrPort
	listeners    []net.Listener
}

func listenFar() (*farEnd, error) {
	f := &farEnd{}
	for _, e := range []struct {
		at    *netip.AddrPort
		serve func(net.Conn)
	}{{&f.source, pour}, {&f.echo, reflect}} {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			f.close()
			return nil, err
		}
		f.listeners = append(f.listeners, l)
		a, _ := l.Addr().(*net.TCPAddr)
		*e.at = a.AddrPort()
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer c.Close()
					e.serve(c)
				}()
			}
		}()
	}
	return f, nil
}

func (f *farEnd) close() {
	for _, l := range f.listeners {
		_ = l.Close()
	}
}

// pour sends zeros until nobody takes them.
func pour(c net.Conn) {
	buf := make([]byte, 256<<10)
	for {
		if _, err := c.Write(buf); err != nil {
			return
		}
	}
}

func reflect(c net.Conn) {
	buf := make([]byte, 512)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return
		}
		if _, err := c.Write(buf[:n]); err != nil {
			return
		}
	}
}
