package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync"

	"netpolicy.dev/netpolicy/internal/api"
)

// Lab is one running lab. Client, Counters and the daemon's methods may be used
// from several goroutines; Fault, StartDaemon, StopDaemon and Close by one at a time.
type Lab struct {
	// ID is the prefix of its namespaces' names; Dir holds the daemon's state,
	// socket and log, and goes away with the lab.
	ID, Dir string

	opts   Options
	lock   *os.File
	spaces []*space
	lines  []*line

	client, gw, inet *space

	servers *servers
	ports   portSource
	quiet   quiet

	web     *os.File // the listener of Options.Web, nil without one
	webAddr string

	daemonMu sync.Mutex
	daemon   *daemon

	closing sync.Once
	closed  error
}

// New cleans up after killed labs and builds one. On an error nothing is left.
func New(ctx context.Context, opts Options) (_ *Lab, err error) {
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("%w: this is not root", ErrUnsupported)
	}
	for _, tool := range []string{"nsenter", "iptables-legacy", "ip6tables-legacy"} {
		if _, err := exec.LookPath(tool); err != nil {
			return nil, fmt.Errorf("%w: %s is missing (apt-get install util-linux iptables)", ErrUnsupported, tool)
		}
	}
	if opts.Main == "" {
		opts.Main = Wan1
	}
	if opts.Main != Wan1 && opts.Main != Wan2 {
		return nil, fmt.Errorf("the lab has no uplink %q, only %s and %s", opts.Main, Wan1, Wan2)
	}
	if _, err := Clean(); err != nil {
		return nil, err
	}
	l := &Lab{opts: opts, lines: lines(), quiet: newQuiet()}
	if opts.Web != "" {
		if err := l.listen(opts.Web); err != nil {
			return nil, err
		}
	}
	if l.ID, l.Dir, l.lock, err = newRunDir(); err != nil {
		return nil, errors.Join(err, l.closeWeb())
	}
	// A panic while building takes this way too.
	built := false
	defer func() {
		if !built {
			err = errors.Join(err, l.Close())
		}
	}()
	if err := l.build(ctx); err != nil {
		return nil, fmt.Errorf("build the lab: %w", err)
	}
	if l.servers, err = startServers(l.inet, l.rescue); err != nil {
		return nil, fmt.Errorf("start the lab's servers: %w", err)
	}
	if err := l.ready(ctx); err != nil {
		return nil, err
	}
	built = true
	return l, nil
}

// Close stops the daemon and the servers and removes everything the lab made.
// Further calls return what the first did.
func (l *Lab) Close() error {
	l.closing.Do(func() {
		errs := []error{l.KillDaemon()}
		if l.servers != nil {
			errs = append(errs, l.servers.close())
		}
		for _, ln := range l.lines {
			errs = append(errs, ln.release())
		}
		errs = append(errs, l.remove(), l.lock.Close())
		l.closed = errors.Join(append(errs, l.closeWeb())...)
	})
	return l.closed
}

// listen opens the listener of the web interface where this process is, which no
// cable joins to the lab; the daemon in the gateway gets it handed in.
func (l *Lab) listen(addr string) error {
	on, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("listen for the web interface: %w", err)
	}
	defer on.Close() // the file has a descriptor of its own
	l.webAddr = on.Addr().String()
	if l.web, err = on.(*net.TCPListener).File(); err != nil {
		return fmt.Errorf("listen for the web interface: %w", err)
	}
	return nil
}

func (l *Lab) closeWeb() error {
	if l.web == nil {
		return nil
	}
	return l.web.Close()
}

// WebURL is where a browser signs in to the daemon's web interface: the address
// behind # has the token, which no server gets to see.
func (l *Lab) WebURL(ctx context.Context) (string, error) {
	t, err := l.API().Token(ctx, api.TokenRequest{Role: api.RoleAdmin})
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("http://%s/#/login?token=%s", l.webAddr, t.Token), nil
}

// remove removes what would outlive the process: the namespaces, what runs in
// them, and the directory.
func (l *Lab) remove() error {
	var errs []error
	for _, s := range l.spaces {
		errs = append(errs, killInside(netnsDir+s.name), s.close())
	}
	return errors.Join(append(errs, removeRunDir(l.Dir))...)
}

// rescue is deferred by the lab's goroutines: a panic there, which ends the
// program without running any other deferred call, still leaves nothing behind.
func (l *Lab) rescue() {
	if p := recover(); p != nil {
		_ = l.remove() // the panic is what has to be told
		panic(p)
	}
}

// Namespaces returns the names of the lab's namespaces: client, gw, isp1, isp2, inet.
func (l *Lab) Namespaces() []string {
	var names []string
	for _, s := range l.spaces {
		names = append(names, s.name)
	}
	return names
}

// Gateway runs a program inside the gateway and returns what it printed.
func (l *Lab) Gateway(ctx context.Context, args ...string) (string, error) {
	return l.gw.run(ctx, "", args...)
}
