package download

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

// TestNowhere: an answer that leads to no URL is an error that does not repeat it.
func TestNowhere(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", "http://secret:%zz/")
		w.WriteHeader(http.StatusFound)
	}))
	defer server.Close()
	u, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Get(t.Context(), NewClient(&http.Client{Transport: NewTransport(nil)}), Request{URL: u, Limit: 1 << 20})
	if err == nil || strings.Contains(err.Error(), "secret") || !strings.Contains(err.Error(), "redirected to what is no URL") {
		t.Error(err)
	}
}
