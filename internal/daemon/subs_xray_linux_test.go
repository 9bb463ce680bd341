package daemon

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"netpolicy.dev/netpolicy/internal/api"
	"netpolicy.dev/netpolicy/internal/porttest"
	"netpolicy.dev/netpolicy/internal/xraytest"
	"netpolicy.dev/netpolicy/xray/process"
)

// proxies runs a real Xray with an inbound of shadowsocks for each name, which leads
// to a web server that tells the name. It returns their links.
func proxies(t *testing.T, binary string, names ...string) (links map[string]string) {
	links = map[string]string{}
	var inbounds, outbounds, rules []string
	for _, name := range names {
		web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, name) }))
		t.Cleanup(web.Close)
		at := porttest.Free(t)
		links[name] = fmt.Sprintf("ss://aes-256-gcm:Secr3t@%s#%s", at, name)
		inbounds = append(inbounds, fmt.Sprintf(`{"tag": "in-%s", "listen": %q, "port": %d, "protocol": "shadowsocks", "settings": {"method": "aes-256-gcm", "password": "Secr3t"}}`, name, at.Addr(), at.Port()))
		outbounds = append(outbounds, fmt.Sprintf(`{"tag": "out-%s", "protocol": "freedom", "settings": {"redirect": %q}}`, name, web.Listener.Addr()))
		rules = append(rules, fmt.Sprintf(`{"inboundTag": ["in-%s"], "outboundTag": "out-%s"}`, name, name))
	}
	apiAt := porttest.Free(t)
	s := process.New(process.Options{Binary: binary, Dir: t.TempDir()})
	done := make(chan error, 1)
	go func() { done <- s.Run(t.Context()) }() // which ends before what is cleaned up
	t.Cleanup(func() {
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	err := s.Apply(t.Context(), process.Config{API: apiAt, Data: fmt.Appendf(nil, `{
		"api": {"tag": "api", "listen": %q, "services": ["StatsService"]}, "stats": {},
		"inbounds": [%s], "outbounds": [%s], "routing": {"rules": [%s]}}`,
		apiAt, strings.Join(inbounds, ","), strings.Join(outbounds, ","), strings.Join(rules, ","))})
	if err != nil {
		t.Fatal(err)
	}
	return links
}

// TestSubscriptionRoute: a route via xray takes its proxies out of a subscription, and
// goes over to another choice, and to what the provider changes, with the same Xray.
func TestSubscriptionRoute(t *testing.T) {
	binary := xraytest.Binary(t)
	links := proxies(t, binary, "one", "two")
	body := ""
	provider := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, body) }))
	defer provider.Close()
	inbound := porttest.Free(t)
	dir := t.TempDir()
	policy := func(route string) string {
		return fmt.Sprintf(`
version: 1
daemon: {relay: ["%s"], xray_binary: %s, xray_probe: "off"}
routes:
  direct: {via: main}
  home: {via: 'xray "home"'}
default: {route: %s}
`, inbound, binary, route)
	}
	with := func(o *Options, _ *Parts) { o.StateDir = dir }

	// The subscription comes first, then the policy that names it.
	r := start(t, strings.Replace(policy("direct"), "  home: {via: 'xray \"home\"'}\n", "", 1), with)
	do := func(q api.SubscriptionRequest) {
		t.Helper()
		q.Name = "home"
		if _, err := r.subs.ChangeSubscription(t.Context(), q); err != nil {
			t.Fatal(err)
		}
	}
	r.write(policy("home"))
	reload := func(want string) {
		t.Helper()
		if res, err := r.Reload(t.Context()); err != nil || len(res.Diagnostics) == 0 || !strings.Contains(res.Diagnostics[0].Message, want) {
			t.Errorf("%+v, %v", res, err)
		}
		if text := fmt.Sprint(DescribeXray(r.path, mustLoad(t, policy("home")), Subscriptions(dir))); !strings.Contains(text, ": rejected, ") {
			t.Error(text)
		}
	}
	reload("no file of xray_links and no subscription has a proxy called `home`")
	do(api.SubscriptionRequest{Do: api.DoAdd, URL: provider.URL})
	reload("subscription home has no proxy yet")
	body = links["one"] + "\n" + links["two"] + "\n"
	do(api.SubscriptionRequest{Do: api.DoUpdate})
	do(api.SubscriptionRequest{Do: api.DoChoose, Profile: "one"})
	if text := fmt.Sprint(DescribeXray(r.path, mustLoad(t, policy("home")), Subscriptions(dir))); !strings.Contains(text, " of subscription home") {
		t.Error(text)
	}
	if res, err := r.Reload(t.Context()); err != nil || res.Result != api.Applied {
		t.Fatalf("%+v, %v", res, err)
	}

	proxy := &url.URL{Scheme: "socks5", Host: inbound.String()}
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		Proxy: func(*http.Request) (*url.URL, error) { return proxy, nil }, DisableKeepAlives: true,
	}}
	through := func() string {
		resp, err := client.Get("http://203.0.113.9/")
		if err != nil {
			return err.Error()
		}
		defer resp.Body.Close()
		data, err := io.ReadAll(resp.Body)
		if err != nil {
			return err.Error()
		}
		return string(data)
	}
	want := func(name string) {
		t.Helper()
		got := ""
		for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
			if got = through(); got == name && r.xrayStatus().State == "running" { // it serves a moment before
				return
			}
		}
		t.Fatalf("through %s, want %s; %+v; %s", got, name, r.xrayStatus(), r.log)
	}
	want("one")
	pid := r.xrayStatus().PID
	do(api.SubscriptionRequest{Do: api.DoChoose, Profile: "two"})
	want("two")
	// The provider gives the chosen one another name, and then the server of the other.
	body = links["one"] + "\n" + strings.Replace(links["two"], "#two", "#Zwei", 1) + "\n"
	do(api.SubscriptionRequest{Do: api.DoUpdate})
	want("two")
	body = links["two"] + "\n" + strings.Replace(links["one"], "#one", "#Zwei", 1) + "\n"
	do(api.SubscriptionRequest{Do: api.DoUpdate})
	want("two") // by server and credentials, whatever its name
	do(api.SubscriptionRequest{Do: api.DoChoose, Profile: "Zwei"})
	want("one")
	if st := r.xrayStatus(); st.PID != pid || st.Restarts != 0 {
		t.Errorf("xray was started again: %+v", st)
	}
	if strings.Contains(r.log.String(), "Secr3t") {
		t.Error(r.log)
	}
}

// TestTryXray: a link is tried by the API with a real Xray, which has ended then; a bad
// one says why, one that is tried at the same time has to wait, and nothing tells secrets.
func TestTryXray(t *testing.T) {
	binary := xraytest.Binary(t)
	good := proxies(t, binary, "one")["one"]
	dir := t.TempDir()
	socket := filepath.Join(dir, "s.sock")
	policy := fmt.Sprintf("version: 1\ndaemon: {xray_binary: %s}\nroutes: {direct: {via: main}}\ndefault: {route: direct}\n", binary)
	r := start(t, policy, func(o *Options, _ *Parts) { o.StateDir, o.Socket = filepath.Join(dir, "state"), socket })
	k := newTalk(t, socket)
	try := func(link string) (status int, x api.XrayTrial) {
		t.Helper()
		resp, body := k.ask("POST", "/api/v1/xray-test", api.XrayTrialRequest{Link: link, URL: "http://page.example/"})
		if strings.Contains(string(body), "Secr3t") {
			t.Errorf("told a secret: %s", body)
		}
		_ = json.Unmarshal(body, &x)
		return resp.StatusCode, x
	}
	status, x := try(good)
	if status != http.StatusOK || !x.OK || x.Status != 200 || x.Bytes != 3 || x.Name != "one" || x.StartMS <= 0 || x.ConnectMS <= 0 || x.TotalMS <= 0 || x.Error != "" {
		t.Errorf("%d %+v", status, x)
	}
	status, x = try(strings.Replace(good, "Secr3t", "Secr3t-of-others", 1))
	if status != http.StatusOK || x.OK || x.Error == "" {
		t.Errorf("%d %+v", status, x)
	}
	if left, ok := process.FindLeft(trialDir(filepath.Join(dir, "state"))); ok {
		t.Errorf("%+v runs on", left)
	}
	r.trying.Lock()
	if status, _ = try(good); status != http.StatusConflict {
		t.Errorf("two at a time: %d", status)
	}
	r.trying.Unlock()
}
