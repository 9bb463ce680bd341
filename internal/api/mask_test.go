package api

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestMasked(t *testing.T) {
	for text, want := range map[string]string{
		"no URL: at all, 10:30, a:b, //x, https:, C:\\x": "no URL: at all, 10:30, a:b, //x, https:, C:\\x",
		"":                             "",
		"https://hook.example":         "https://hook.example",
		"https://hook.example/":        "https://hook.example/",
		"tls://dns.example:853 at 1::": "tls://dns.example:853 at 1::",
		`alerts ["https://hooks.example:8443/T0/s3cr3t", "ntfy+https://ntfy.sh/s3cr3t"]`:                    `alerts ["https://hooks.example:8443/***", "ntfy+https://ntfy.sh/***"]`,
		"alerts: [https://h.example/s3cr3t, 'https://h.example/s3cr3t']\n# was http://h.example/s3cr3t.\nx": "alerts: [https://h.example/***, 'https://h.example/***']\n# was http://h.example/***.\nx",
		"url https://user:s3cr3t@h.example/list.txt#x":                                                      "url https://h.example/***",
		"url https://user:s3cr3t@h.example":                                                                 "url https://h.example/***",
		"url HTTPS://h.example?token=s3cr3t&b='s3cr3t' refresh 1d":                                          "url HTTPS://h.example/*** refresh 1d",
		`"http:\/\/h.example\/s3cr3t\x2fs3cr3t"`:                                                            `"http://h.example/***"`,
		"trojan://s3cr3t@h.example:443#x vmess://s3cr3t== ss://s3cr3t":                                      "trojan://*** vmess://*** ss://***",
		"https://[2001:db8::1]:443/s3cr3t":                                                                  "https://[2001:db8::1]:443/***",
		"https://a.example/s3cr3t:https://b.example/s3cr3t":                                                 "https://a.example/***",
	} {
		if got := string(Masked([]byte(text))); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
		if again := string(Masked([]byte(want))); again != want {
			t.Errorf("%q again: %q", want, again)
		}
		// Within JSON it is the same, whatever JSON escapes.
		line, err := json.Marshal(map[string]string{"text": text + "\nnext \"line\""})
		if err != nil {
			t.Fatal(err)
		}
		var back map[string]string
		if err := json.Unmarshal(Masked(line), &back); err != nil || back["text"] != want+"\nnext \"line\"" {
			t.Errorf("%s: %q, %v", line, back["text"], err)
		}
	}
}

func FuzzMasked(f *testing.F) {
	f.Add("x https://h.example/S3CR3T\n", "'https:\\/\\/")
	f.Fuzz(func(t *testing.T, before, after string) {
		for _, text := range []string{before + after, before + ` "https://h.example/S3CR3T?a=S3CR3T&b" ` + after} {
			got := string(Masked([]byte(text)))
			if strings.Contains(got, "S3CR3T") && !strings.Contains(before+after, "S3CR3T") {
				t.Errorf("%q: %q", text, got)
			}
		}
	})
}
