package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"netpolicy.dev/netpolicy/internal/api"
	"netpolicy.dev/netpolicy/internal/telemetry"
)

// netpolicy runs the command and returns what it prints.
func netpolicy(ctx context.Context, stdin string, args ...string) (stdout, stderr string, err error) {
	var out, errs bytes.Buffer
	root := newRoot()
	root.SetIn(strings.NewReader(stdin))
	root.SetOut(&out)
	root.SetErr(&errs)
	root.SetArgs(args)
	err = root.ExecuteContext(ctx)
	return out.String(), errs.String(), err
}

// provider is a daemon with subscriptions that remembers what it was asked.
type provider struct{ asked []api.SubscriptionRequest }

func sampleSub() api.Subscription {
	at := func(ago time.Duration) time.Time { return night.Add(-ago) }
	paris := api.SubscribedProfile{ID: "0123abcd", Name: "Paris \x1b[31m", Protocol: "trojan", Server: "b.example:443", Transport: "ws", Security: "tls", Chosen: true}
	return api.Subscription{
		Name: "home", URL: "https://provider.example/***", Every: 12 * 3600, Via: "wan2", Drop: "^Expires", Rename: []string{"^=via "},
		Format: "base64", Usable: 2, Filtered: 1, Refused: 1, Reasons: []string{"error: text on line 3: this line is no link"},
		Chosen: &paris, Fetched: at(26 * time.Hour), Checked: at(2 * time.Hour), Used: 3 << 30, Total: 10 << 30, Expires: night.AddDate(0, 1, 0),
		Profiles: []api.SubscribedProfile{{ID: "4567cdef", Name: "Tokyo", Protocol: "ss", Server: "a.example:8388"}, paris},
	}
}

func (p *provider) Subscriptions(name string) ([]api.Subscription, error) {
	if name == "nobody" {
		return nil, fmt.Errorf("there is no subscription %q: %w", name, api.ErrNotFound)
	}
	lost := api.Subscription{Name: "work", URL: "https://w.example", Lost: true, Problem: "the server answered 403 Forbidden"}
	return []api.Subscription{sampleSub(), lost}, nil
}

func (p *provider) ChangeSubscription(_ context.Context, q api.SubscriptionRequest) (api.Subscription, error) {
	p.asked = append(p.asked, q)
	if q.Do == api.DoUpdate && q.Name == "work" {
		return api.Subscription{}, fmt.Errorf("fetch subscription work from https://w.example: the server answered 403 Forbidden")
	}
	s := sampleSub()
	if q.Do == api.DoChoose && q.Profile == "" {
		s.Chosen = nil
	}
	return s, nil
}

func TestXraySub(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.sock")
	l, err := api.Listen(path, 0)
	if err != nil {
		t.Fatal(err)
	}
	p := &provider{}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- (&api.Server{Reader: &backend{}, Admin: &backend{}, Subscriptions: p, Records: telemetry.NewRing(1), Metrics: func(io.Writer) {}}).Run(ctx, l)
	}()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	sub := func(stdin string, args ...string) (string, string, error) {
		return netpolicy(t.Context(), stdin, append(append([]string{"xray", "sub"}, args...), "--socket", path)...)
	}
	want := func(text string, args ...string) {
		t.Helper()
		out, errs, err := sub("https://provider.example/t0ken\n", args...)
		if err != nil || !strings.Contains(out, text) || strings.Contains(out+errs, "t0ken") {
			t.Errorf("%v: %v, %s%s", args, err, out, errs)
		}
	}
	want("added: home, 2 profiles, 1 filtered, 1 refused\n", "add", "home", "-", "--every", "12h", "--via", "wan2", "--drop", "^Expires",
		"--keep", "k", "--rename", "^=via ", "--rename", "a,b=c", "--protocol", "ss,trojan", "--user-agent", "v2rayN")
	if diff := cmp.Diff(api.SubscriptionRequest{
		Do: api.DoAdd, Name: "home", URL: "https://provider.example/t0ken", Every: "12h0m0s", Via: "wan2", Keep: "k", Drop: "^Expires",
		Rename: []string{"^=via ", "a,b=c"}, Protocols: []string{"ss", "trojan"}, UserAgent: "v2rayN",
	}, p.asked[0]); diff != "" {
		t.Error(diff)
	}
	want("updated: home, 2 profiles", "update", "home")
	want("home: 0123abcd, Paris ", "choose", "home", "Paris")
	want("home: no profile is chosen", "choose", "home", "--none")
	want("removed: home", "remove", "home")
	want("4567cdef  Tokyo", "show", "home")
	want("NAME", "list")
	out, errs, err := sub("", "update")
	if err == nil || out != "updated: home, 2 profiles, 1 filtered, 1 refused\n" || !strings.Contains(errs, "error: fetch subscription work from https://w.example: ") {
		t.Error(out, errs, err)
	}
	if _, errs, err = sub("", "show", "nobody"); err == nil || !strings.Contains(errs, `there is no subscription "nobody"`) {
		t.Error(errs, err)
	}
	for _, args := range [][]string{{"list"}, {"show", "home"}, {"choose", "home", "x"}, {"remove", "home"}, {"update", "home"}, {"add", "home", "u"}} {
		out, _, err := sub("", append(args, "-o", "json")...)
		if err != nil || !json.Valid([]byte(out)) {
			t.Error(args, err, out)
		}
	}
}

func TestXraySubText(t *testing.T) {
	var b bytes.Buffer
	s := sampleSub()
	writeSub(&b, &s, night)
	list, err := (&provider{}).Subscriptions("")
	if err != nil {
		t.Fatal(err)
	}
	b.WriteString("\n")
	writeSubs(&b, list, night)
	writeSubs(&b, nil, night)
	fmt.Fprintln(&b, subSummary(&list[1]))
	want := `from       https://provider.example/***
every      12h0m0s
via        wan2
drop       ^Expires
rename     ^=via ` + `
format     base64
fetched    2026-02-02 01:00:00 (26h0m ago)
checked    01:00:00 (2h0m ago)
used       3.0 GiB of 10.0 GiB
expires    2026-03-03 03:00:00
profiles   2, 1 filtered, 1 refused
  error: text on line 3: this line is no link
  4567cdef  Tokyo        ss             a.example:8388
* 0123abcd  Paris �[31m  trojan+ws+tls  b.example:443

NAME  PROFILES  CHOSEN       CHECKED   FROM                          PROBLEM
home  2         Paris �[31m  2h0m ago  https://provider.example/***  -
work  0         (not there)  never     https://w.example             the server answered 403 Forbidden
there is no subscription
work, 0 profiles, the chosen one is not there; the last try failed: the server answered 403 Forbidden
`
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Error(diff)
	}
}
