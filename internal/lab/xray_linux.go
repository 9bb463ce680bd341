package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"netpolicy.dev/netpolicy/rules"
)

// errNoXray tells how to get what the script needs.
var errNoXray = errors.New("there is no xray in PATH: `go install github.com/xtls/xray-core/main@v1.260327.0` builds one, as `main`; " +
	"install it as xray")

// installLinks puts the files with the proxies of a policy beside it.
func (r *run) installLinks(p *rules.Policy) error {
	for _, name := range p.Daemon.Xray.Links {
		if !filepath.IsLocal(name) {
			continue
		}
		src, err := os.ReadFile(filepath.Join(r.dir, name))
		if err != nil {
			return fmt.Errorf("read the links of the policy: %w", err)
		}
		if err := WriteFile(filepath.Join(r.l.Dir, name), src); err != nil {
			return err
		}
	}
	if len(p.Daemon.Xray.Links) > 0 && p.Daemon.Xray.Binary == "" {
		if _, err := exec.LookPath("xray"); err != nil {
			return errNoXray
		}
	}
	return nil
}

// xray starts a server in the internet, or ends it.
func (r *run) xray(ctx context.Context, x Xray) error {
	if x.File == "" {
		if r.xrays[x.Name] == nil {
			return fmt.Errorf("xray %s does not run", x.Name)
		}
		r.out.line(yellow, "xray", "%s: kill -9", x.Name)
		r.endXray(x.Name)
		return nil
	}
	if r.xrays[x.Name] != nil {
		return fmt.Errorf("xray %s runs already", x.Name)
	}
	path, err := exec.LookPath("xray")
	if err != nil {
		return errNoXray
	}
	log, err := os.OpenFile(filepath.Join(r.l.Dir, "xray-"+x.Name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open the log of xray %s: %w", x.Name, err)
	}
	defer log.Close() // the child has its own
	cmd := exec.CommandContext(context.WithoutCancel(ctx), path, "run", "-config", filepath.Join(r.dir, x.File))
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is the lab's to handle
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		started <- r.l.inet.start(cmd)
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("start xray %s: %w", x.Name, err)
	}
	r.xrays[x.Name] = cmd
	r.out.line(dim, "xray", "%s runs %s in the internet", x.Name, x.File)
	return nil
}

func (r *run) endXray(name string) {
	cmd := r.xrays[name]
	delete(r.xrays, name)
	_ = cmd.Process.Kill() // it may have ended
	_ = cmd.Wait()         // it was killed
}

// awaitRoute waits for what is known of a route's tunnel.
func (r *run) awaitRoute(ctx context.Context, a AwaitRoute) error {
	want := "dead"
	if a.Alive {
		want = "alive"
	}
	begin := time.Now()
	ctx, cancel := context.WithTimeout(ctx, a.Within)
	defer cancel()
	for {
		s, err := r.l.API().Status(ctx)
		is := "unknown"
		if err == nil && s.Xray != nil {
			for _, route := range s.Xray.Routes {
				if route.Route != a.Route {
					continue
				}
				for i, p := range route.Proxies {
					switch {
					case p.Alive == "true":
						is = "alive"
					case p.Alive == "false" && i == 0:
						is = "dead"
					case p.Alive == "unknown" && is == "dead":
						is = "unknown"
					}
				}
			}
		}
		if is == want {
			r.out.line(green, "await", "the tunnel of %s is %s after %.1f s", a.Route, is, time.Since(begin).Seconds())
			return nil
		}
		if !sleep(ctx, pollEvery) {
			return fmt.Errorf("the tunnel of %s is %s, want %s\n%s", a.Route, is, want, r.l.tail())
		}
	}
}
