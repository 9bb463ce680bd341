package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
)

// Up builds a lab, runs the daemon with the policy at path, prints how to look
// inside, and keeps it until ctx ends. Lines of in are carried out as lines of a
// script; its end changes nothing.
func Up(ctx context.Context, opts Options, out *Printer, path string, in io.Reader) (err error) {
	path, err = filepath.Abs(path)
	if err != nil {
		return fmt.Errorf("find the policy: %w", err)
	}
	l, err := New(ctx, opts)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	r := &run{l: l, out: out, dir: filepath.Dir(path), live: filepath.Join(l.Dir, "policy.yaml"), transfers: map[string]*Transfer{}}
	if err := r.install(filepath.Base(path)); err != nil {
		return err
	}
	if err := l.StartDaemon(ctx, r.live); err != nil {
		return err
	}
	watching, stop := context.WithCancel(ctx)
	r.watch = newWatcher(watching, l, out)
	defer func() { stop(); r.watch.wait() }()
	defer r.stopTransfers()

	enter := func(s *space, command string) string {
		return fmt.Sprintf("nsenter --net=%s%s %s", netnsDir, s.name, command)
	}
	out.result(bold, "lab", `up; Ctrl-C removes it
client   %s
gateway  %s
status   netpolicy status --socket %s
tail     netpolicy tail --socket %s
log      %s
here     lines of a script, such as: fault wan1 delay 200ms
         connect us01.zoom.us:443 tls`,
		enter(l.client, "ping 203.0.113.1"), enter(l.gw, "nft list ruleset"), l.SocketPath(), l.SocketPath(), l.LogPath())

	typed := make(chan string)
	go func() {
		// This goroutine may wait for a line for ever; the program ends without it.
		for sc := bufio.NewScanner(in); sc.Scan(); {
			select {
			case typed <- sc.Text():
			case <-ctx.Done():
				return
			}
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return nil
		case text := <-typed:
			r.typed(ctx, text)
		}
	}
}

// typed carries out one line that a person typed, and says what is wrong with it.
func (r *run) typed(ctx context.Context, text string) {
	if strings.TrimSpace(text) == "" {
		return
	}
	s, err := ParseScript("line", []byte(text))
	if err == nil {
		for _, step := range s.Steps {
			err = errors.Join(err, r.do(ctx, step))
		}
	}
	if err != nil {
		r.out.result(red, "error", "%v", err)
	}
}
