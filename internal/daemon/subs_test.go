package daemon

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"netpolicy.dev/netpolicy/internal/api"
	"netpolicy.dev/netpolicy/internal/socks"
	"netpolicy.dev/netpolicy/internal/sockstest"
	"netpolicy.dev/netpolicy/internal/tunnels"
)

const subsPolicy = `
version: 1
uplinks:
  wan1: {dev: eth1, gateway: 192.0.2.1, probe: {kind: icmp, targets: [1.1.1.1], every: 1s}}
routes:
  direct: {via: main}
  hole: {via: blackhole}
  tor: {via: socks "SERVER"}
default: {route: direct}
`

// TestSubscriptions goes through the life of one by the API: it is fetched over a route,
// chosen from, kept over a restart, and removed.
func TestSubscriptions(t *testing.T) {
	body := "trojan://pass@a.example:443#Tokyo\ntrojan://pass@b.example:443?type=ws#Paris\n"
	provider := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Subscription-Userinfo", "upload=1; download=2; total=4")
		fmt.Fprint(w, body)
	}))
	defer provider.Close()
	tor := sockstest.Listen(t, func(socks.Target) (net.Conn, error) { return net.Dial("tcp", provider.Listener.Addr().String()) })
	dir := t.TempDir()
	with := func(o *Options, _ *Parts) { o.StateDir = dir }
	policy := strings.Replace(subsPolicy, "SERVER", tor.At.String(), 1)
	r := start(t, policy, with)
	do := func(q api.SubscriptionRequest) (api.Subscription, error) {
		t.Helper()
		s, err := r.subs.ChangeSubscription(t.Context(), q)
		if text := fmt.Sprintf("%+v %v", s, err); strings.Contains(text, "t0ken") || strings.Contains(text, "pass") {
			t.Error("told a secret:", text)
		}
		return s, err
	}
	add := api.SubscriptionRequest{
		Do: api.DoAdd, Name: "home", URL: "http://provider.example/t0ken", Every: "12h", Via: "tor", Rename: []string{"^=via "}, Drop: "Nothing",
	}
	s, err := do(add)
	if err != nil {
		t.Fatal(err)
	}
	asked := tor.Asked()
	if len(asked) != 1 || asked[0].String() != "provider.example:80" || s.Problem != "" || s.Usable != 2 || s.Profiles[1].Name != "via Paris" || s.Profiles[1].Transport != "ws" ||
		s.Profiles[1].Security != "tls" || s.Every != 12*3600 || s.Used != 3 || s.Total != 4 || s.URL != "http://provider.example/***" || s.Chosen != nil {
		t.Errorf("%v dialled, %+v", asked, s)
	}
	if s, err = do(api.SubscriptionRequest{Do: api.DoChoose, Name: "home", Profile: "via Paris"}); err != nil || s.Chosen == nil || s.Chosen.Name != "via Paris" {
		t.Errorf("%+v, %v", s, err)
	}
	body = "trojan://pass@b.example:443?type=ws#FR\n"
	if s, err = do(api.SubscriptionRequest{Do: api.DoUpdate, Name: "home"}); err != nil || s.Chosen == nil || s.Chosen.Name != "via FR" {
		t.Errorf("%+v, %v", s, err)
	}
	for _, c := range []struct {
		q    api.SubscriptionRequest
		mark error
		want string
	}{
		{add, api.ErrConflict, "there is a subscription home already"},
		{api.SubscriptionRequest{Do: api.DoAdd, Name: "x", URL: "http://p.example", Every: "often"}, api.ErrBadRequest, `every "often"`},
		{api.SubscriptionRequest{Do: api.DoAdd, Name: "x", URL: "http://p.example", Rename: []string{"a"}}, api.ErrBadRequest, "want RE=TEMPLATE"},
		{api.SubscriptionRequest{Do: api.DoAdd, Name: "x", URL: "http://p.example", Via: "wan7"}, api.ErrBadRequest, `no route "wan7"`},
		{api.SubscriptionRequest{Do: api.DoAdd, Name: "x", URL: "http://p.example", Via: "hole"}, api.ErrBadRequest, `nothing leads over route "hole"`},
		{api.SubscriptionRequest{Do: api.DoAdd, Name: "x", URL: "t0ken"}, api.ErrBadRequest, "not a URL with a host"},
		{api.SubscriptionRequest{Do: api.DoUpdate, Name: "x"}, api.ErrNotFound, `no subscription "x"`},
		{api.SubscriptionRequest{Do: api.DoRemove, Name: "x"}, api.ErrNotFound, `no subscription "x"`},
		{api.SubscriptionRequest{Do: "x"}, api.ErrBadRequest, `do "x"`},
	} {
		if _, err := do(c.q); !errors.Is(err, c.mark) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v", c.q, err)
		}
	}
	if _, err := r.subs.Subscriptions("x"); !errors.Is(err, api.ErrNotFound) {
		t.Error(err)
	}
	body = "<html>"
	if _, err := do(api.SubscriptionRequest{Do: api.DoUpdate, Name: "home"}); err == nil || !strings.Contains(err.Error(), "fetch subscription home from http://provider.example/***: ") {
		t.Error(err)
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	r = start(t, policy, with)
	all, err := r.subs.Subscriptions("")
	if err != nil || len(all) != 1 || all[0].Usable != 1 || all[0].Chosen == nil || all[0].Chosen.Name != "via FR" || all[0].Profiles != nil {
		t.Errorf("%+v, %v", all, err)
	}
	if _, err := do(api.SubscriptionRequest{Do: api.DoRemove, Name: "home"}); err != nil {
		t.Error(err)
	}
	if all, err := r.subs.Subscriptions(""); err != nil || len(all) != 0 {
		t.Errorf("%+v, %v", all, err)
	}
	if strings.Contains(r.log.String(), "t0ken") {
		t.Error(r.log.String())
	}
}

// TestSubscriptionSource: what `via xray NAME` finds, the choice among what is taken.
func TestSubscriptionSource(t *testing.T) {
	var links strings.Builder
	for i := range tunnels.MaxMembers + 2 {
		fmt.Fprintf(&links, "trojan://pass@h%d.example:443#P%d\n", i, i)
	}
	provider := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, links.String()) }))
	defer provider.Close()
	dir := t.TempDir()
	r := start(t, zoomPolicy, func(o *Options, _ *Parts) { o.StateDir = dir })
	if _, err := r.subs.ChangeSubscription(t.Context(), api.SubscriptionRequest{Do: api.DoAdd, Name: "home", URL: provider.URL}); err != nil {
		t.Fatal(err)
	}
	if c, ok := r.subs.Find("home"); !ok || c.Chosen != -1 || len(c.Profiles) != tunnels.MaxMembers+2 || c.From != "subscription home" {
		t.Errorf("%v, %+v", ok, c)
	}
	changed := make(chan struct{}, 1)
	r.subs.Watch(t.Context(), func() { changed <- struct{}{} })
	if _, err := r.subs.ChangeSubscription(t.Context(), api.SubscriptionRequest{Do: api.DoChoose, Name: "home", Profile: "P201"}); err != nil {
		t.Fatal(err)
	}
	<-changed
	if c, ok := r.subs.Find("home"); !ok || c.Chosen != 0 || c.Profiles[0].Name != "P201" || c.Profiles[201].Name != "P0" {
		t.Errorf("%v, %+v", ok, c)
	}
	if _, ok := r.subs.Find("work"); ok {
		t.Error("there is no subscription work")
	}
}
