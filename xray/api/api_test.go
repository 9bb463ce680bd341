package api

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestFields(t *testing.T) {
	message := text(text(nil, 1, "a"), 300, strings.Repeat("b", 200))
	message = append(message, 7<<3|wireFixed8, 1, 2, 3, 4, 5, 6, 7, 8, 8<<3|wireFixed4, 1, 2, 3, 4, 9<<3|wireVarint, 0x96, 0x01)
	var got []int
	err := fields(message, func(n int, v uint64, b []byte) error {
		got = append(got, n)
		if n == 300 && len(b) != 200 || n == 9 && v != 150 {
			t.Errorf("field %d: %d, %q", n, v, b)
		}
		return nil
	})
	if err != nil || len(got) != 5 || got[1] != 300 {
		t.Errorf("%v, %v", got, err)
	}
	for i := 1; i < len(message); i++ { // cut anywhere it is damaged, or ends between two fields
		whole := 0
		if err := fields(message[:i], func(int, uint64, []byte) error { whole++; return nil }); err == nil && whole == 5 {
			t.Errorf("%d bytes of it are the whole", i)
		}
	}
	for _, bad := range []string{"\x00", "\x0b", "\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "\x80"} {
		if err := fields([]byte(bad), func(int, uint64, []byte) error { return nil }); !errors.Is(err, errWire) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// TestAnswers: what a server can answer that is not what Xray does.
func TestAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		answer func(http.ResponseWriter)
		want   string
	}{
		"no": {func(w http.ResponseWriter) {
			w.Header().Set("Grpc-Status", "5")
			w.Header().Set("Grpc-Message", "not%20found")
		}, "the API of xray: not found"},
		"a page":    {func(w http.ResponseWriter) { w.WriteHeader(http.StatusTeapot) }, "418"},
		"nothing":   {func(http.ResponseWriter) {}, "status"},
		"too short": {func(w http.ResponseWriter) { finish(w, "\x00\x00\x00\x00\x05abc") }, "not one whole message"},
		"good":      {func(w http.ResponseWriter) { finish(w, "\x00\x00\x00\x00\x02\x50\x07") }, ""},
	} {
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { c.answer(w) }))
		server.Config.Protocols = &http.Protocols{}
		server.Config.Protocols.SetUnencryptedHTTP2(true)
		server.Start()
		client := New(netip.MustParseAddrPort(server.Listener.Addr().String()))
		up, err := client.Uptime(context.Background())
		if c.want == "" && (err != nil || up != 7*time.Second) || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, %v", name, up, err)
		}
		client.Close()
		server.Close()
	}
}

func finish(w http.ResponseWriter, body string) {
	w.Header().Set("Trailer", "Grpc-Status")
	_, _ = w.Write([]byte(body))
	w.Header().Set("Grpc-Status", "0")
}
