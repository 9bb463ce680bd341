package trial

import (
	"context"
	"io"
	"os"
	"strings"
	"time"

	"netpolicy.dev/netpolicy/xray/config"
	"netpolicy.dev/netpolicy/xray/link"
	"netpolicy.dev/netpolicy/xray/process"
)

// Start runs Xray with a configuration until the function that it returns is
// called. Its log goes to out; nil is nowhere.
func Start(ctx context.Context, binary string, c process.Config, out io.Writer) (end func(), err error) {
	_, end, err = start(ctx, &Options{Binary: binary}, c, out)
	return end, err
}

func start(ctx context.Context, o *Options, c process.Config, out io.Writer) (s *process.Supervisor, end func(), err error) {
	dir := o.Dir
	if dir == "" {
		if dir, err = os.MkdirTemp("", "netpolicy-xray"); err != nil {
			return nil, nil, err
		}
	}
	s = process.New(process.Options{Binary: o.Binary, Dir: dir, Lines: out, UID: o.UID, GID: o.GID, Output: o.Output})
	// It ends when end is called, so that what is left of its log can be read.
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan error, 1)
	go func() { done <- s.Run(running) }()
	end = func() {
		stop()
		<-done
		if o.Dir == "" {
			_ = os.RemoveAll(dir) // what is left there takes room and does no other harm
		}
	}
	if err := s.Apply(ctx, c); err != nil {
		end()
		return nil, nil, err
	}
	return s, end, nil
}

// maxPorts is how many ports are tried: somebody else may take one first.
const maxPorts = 3

// Run runs one profile on ports of its own, and asks with it for a page.
func Run(ctx context.Context, o Options, p link.Profile) Result {
	r := NewResult(p)
	for n := 1; ; n++ {
		in, err := FreePort()
		if err != nil {
			r.Fail(err.Error(), "")
			return r
		}
		data, findings := config.Build(o.Version, []link.Profile{p}, config.Options{
			APISocket: process.API, LogLevel: "info", Mark: o.Mark, Inbounds: []config.Inbound{{Name: "test", Listen: in, Group: "all"}},
		})
		if data == nil {
			r.Fail(config.FirstError(findings))
			return r
		}
		began := time.Now()
		s, end, err := start(ctx, &o, process.Config{Data: data}, nil)
		if err != nil && n < maxPorts && strings.Contains(err.Error(), "address already in use") {
			continue
		}
		if err != nil {
			r.Fail(err.Error(), "")
			return r
		}
		defer end()
		r.StartMS = Since(began)
		r.connect(ctx, &o, p)
		if err := r.Fetch(ctx, in, o.Page, o.Timeout); err != nil {
			r.explain(ctx, p, err, s.Log)
		}
		return r
	}
}
