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
// script; its end changes nothing. With traffic set the client makes connections
// of its own meanwhile.
func Up(ctx context.Context, opts Options, out *Printer, path string, traffic bool, in io.Reader) (err error) {
	path, err = filepath.Abs(path)
	if err != nil {
		return fmt.Errorf("find the policy: %w", err)
	}
	r, err := newRun(ctx, opts, out, filepath.Dir(path), filepath.Base(path))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	l := r.l
	if traffic {
		busy, stop := context.WithCancel(ctx)
		ended := make(chan struct{})
		go func() {
			defer l.rescue()
			defer close(ended)
			if err := l.Traffic(busy); err != nil {
				out.result(red, "traffic", "%v", err)
			}
		}()
		defer func() { stop(); <-ended }()
	}

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

	if l.web != nil {
		url, err := l.WebURL(ctx)
		if err != nil {
			return err
		}
		out.result(bold, "web", "%s", url)
	}

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
